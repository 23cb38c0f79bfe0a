"""Evaluation of translations: quality metrics and error analysis."""
