"""Tests of core/data/dataset."""
