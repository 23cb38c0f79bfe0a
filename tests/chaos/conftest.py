"""Fixtures of the end-to-end tests."""

from tests.e2e.conftest import chance, drive

__all__ = ["chance", "drive"]
