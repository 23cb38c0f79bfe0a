"""Tests of core.config."""
