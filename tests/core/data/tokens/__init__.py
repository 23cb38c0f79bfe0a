"""Tests of core/data/tokens."""
