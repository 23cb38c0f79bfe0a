"""Tests of workers/fanout."""
