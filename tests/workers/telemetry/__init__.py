"""Tests of workers/telemetry."""
