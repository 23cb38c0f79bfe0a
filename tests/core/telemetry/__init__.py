"""Tests of core.telemetry."""
