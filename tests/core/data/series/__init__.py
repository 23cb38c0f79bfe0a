"""Tests of core.data.series."""
