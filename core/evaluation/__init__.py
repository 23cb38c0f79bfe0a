"""Evaluation: quality of translations (BLEU, chrF, TER) and error analysis.

In: translations and references. Out: scores with their signatures, and counts of errors.
"""
