"""The fixtures of whole commands, for commands that things are done to."""

from tests.e2e.conftest import chance, drive

__all__ = ["chance", "drive"]
