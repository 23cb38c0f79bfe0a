"""Tests of core/decoding/scoring."""
