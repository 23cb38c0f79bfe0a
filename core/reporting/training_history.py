"""What training wrote down as it went, read back as one history without repetitions."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from core import errors
from core.storage import location

Row = Mapping[str, Any]

_SEGMENT = re.compile(r"e([0-9]+)-([0-9]+)\.jsonl")


class History(NamedTuple):
    """The rows of a run, and from which recorded steps on they are those of a new start."""

    rows: list[Row]
    restarts: list[int]


def read(root: location.Location) -> list[Row]:
    """Reads the run record below a run's root, a row for each recorded step, in order of steps.

    A run that was restarted has written some steps twice; the row of the newest start counts.

    Raises:
        IntegrityError: a segment is damaged.
    """
    return read_all(root).rows


def read_all(root: location.Location) -> History:
    """Reads what `read` reads, and where each start but the first began to write."""
    folder = root.join("metrics")
    starts: dict[int, list[Row]] = {}
    for name in folder.list_names():
        if match := _SEGMENT.fullmatch(name):
            starts.setdefault(int(match[1]), []).extend(_rows(folder.join(name)))
    in_order = [starts[epoch] for epoch in sorted(starts)]
    return History(merged(in_order), [min(int(row["step"]) for row in rows) for rows in in_order[1:] if rows])


def merged(starts: Iterable[Iterable[Row]]) -> list[Row]:
    """Joins the rows of all starts, oldest start first: from a start's first step on, those before it do not count."""
    rows: list[Row] = []
    for start in starts:
        own = list(start)
        first = min((int(row["step"]) for row in own), default=0)
        rows = [row for row in rows if int(row["step"]) < first or not own] + own
    return sorted(rows, key=lambda row: int(row["step"]))


def points(rows: Iterable[Row], name: str) -> tuple[list[float], list[float]]:
    """Returns the steps and finite values of one column, leaving out rows without it."""
    steps, values = [], []
    for row in rows:
        value = row.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            steps.append(float(row["step"]))
            values.append(float(value))
    return steps, values


def _rows(segment: location.Location) -> list[Row]:
    rows: list[Row] = []
    for number, line in enumerate(segment.read_bytes().splitlines(), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise errors.IntegrityError(f"{segment}:{number}: is no valid JSON; remove the file") from error
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise errors.IntegrityError(f"{segment}:{number}: is no row of a run record; remove the file")
        rows.append(row)
    return rows
