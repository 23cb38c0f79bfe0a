"""Inputs that once broke a reader, in a folder for each target of `tests/fuzz/targets.py`."""

import pathlib

FOLDER = pathlib.Path(__file__).parent
REPOSITORY = FOLDER.parent.parent.parent
