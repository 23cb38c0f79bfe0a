"""Tests of core/data/text."""
