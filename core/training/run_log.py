"""The run log: the rows that training writes (steps, validations, samples, gradients), as JSON lines.

It lies in `metrics/` below a run's root, in segments `e<fencing number>-<step>.jsonl`. A segment holds the rows up to
a checkpoint and is written just before it. This module is the one owner of the folder's and the segments' names, for
training, reports and TensorBoard alike, and loads no torch.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from core import errors
from core.storage import location, root_layout

_SEGMENT_NAME = re.compile(r"e([0-9]+)-([0-9]+)\.jsonl")


class Segment(NamedTuple):
    """A file of the run log: the worker group that wrote it, and the step of the checkpoint that it belongs to."""

    fencing_number: int
    step: int

    @property
    def name(self) -> str:
        """The file's name below `metrics/`."""
        return f"e{self.fencing_number}-{self.step:08d}.jsonl"

    @classmethod
    def parse(cls, name: str) -> "Segment | None":
        """Returns the segment of a file name; None for the other files of the folder."""
        match = _SEGMENT_NAME.fullmatch(name)
        return None if match is None else cls(int(match[1]), int(match[2]))


class RunLog:
    """The rows of one worker group of a run, written a segment at a time.

    The rows of a worker group that ended before its next checkpoint are lost, and written again by the next one, which
    repeats their steps.
    """

    def __init__(self, root: location.Location, fencing_number: int) -> None:
        self._folder, self._fencing_number = root.join(root_layout.METRICS), fencing_number
        self._rows: list[Mapping[str, Any]] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """Keeps a row for the next segment."""
        self._rows.append(row)

    def flush(self, step: int) -> None:
        """Writes the rows since the last segment, if there are any.

        Raises:
            StorageError: the segment cannot be written.
            LockedError: another run has written a segment of this name.
        """
        if not self._rows:
            return
        file = self._folder.join(Segment(self._fencing_number, step).name)
        # A figure that is not finite is None in a row: NaN would make the line unreadable for other programs.
        lines = [json.dumps(row, allow_nan=False) for row in self._rows]
        data = ("\n".join(lines) + "\n").encode()
        # The same bytes under this name are our own, of a write whose answer was lost.
        if not file.put_if_absent(data) and file.read_bytes() != data:
            raise errors.LockedError(f"{file}: was written by another run; use another root")
        self._rows = []
