"""Tests of workers/cluster."""
