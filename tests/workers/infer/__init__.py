"""Tests of workers/infer."""
