"""Fuzzing of the readers of files: `python -m tests.fuzz` searches, `test_findings.py` replays what was found."""
