"""Tests of core/decoding/translation."""
