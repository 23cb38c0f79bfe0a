"""Tests of workers/train."""
