"""Tests of core/decoding/lines."""
