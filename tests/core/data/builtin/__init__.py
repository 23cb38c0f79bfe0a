"""Tests of core/data/builtin."""
