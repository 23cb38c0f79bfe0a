"""Tests of workers/prepare."""
