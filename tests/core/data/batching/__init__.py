"""Tests of core/data/batching."""
