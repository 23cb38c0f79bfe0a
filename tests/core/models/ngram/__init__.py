"""Tests of core/models/ngram."""
