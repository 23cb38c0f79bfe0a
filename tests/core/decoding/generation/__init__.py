"""Tests of core/decoding/generation."""
