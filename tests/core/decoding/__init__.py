"""Tests of core.decoding."""
