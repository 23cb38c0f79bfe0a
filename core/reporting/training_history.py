"""Reader of the run log.

The run log is a folder of segments, `metrics/e<fencing number>-<step>.jsonl`, one per checkpoint. A run that resumed
from an older checkpoint has written some steps twice; the rows of the newest start count.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from core import errors
from core.storage import json_values, location, root_layout
from core.training import run_log

Row = Mapping[str, Any]


class History(NamedTuple):
    """The rows of a run, and the first logged step of each start but the first."""

    rows: list[Row]
    restarts: list[int]


def read(root: location.Location) -> list[Row]:
    """Returns the rows of the run log below a run's root, in order of steps, each step once.

    Raises:
        IntegrityError: a segment is damaged.
    """
    return read_history(root).rows


def read_history(root: location.Location) -> History:
    """Returns the rows of the run log and the steps at which training restarted.

    Raises:
        IntegrityError: a segment is damaged.
    """
    folder = root.join(root_layout.METRICS)
    starts: dict[int, list[Row]] = {}
    for name in folder.list_names():
        if segment := run_log.Segment.parse(name):
            starts.setdefault(segment.fencing_number, []).extend(_rows(folder.join(name)))
    in_order = [starts[fencing_number] for fencing_number in sorted(starts)]
    return History(merge(in_order), [min(int(row["step"]) for row in rows) for rows in in_order[1:] if rows])


def merge(starts: Iterable[Iterable[Row]]) -> list[Row]:
    """Joins the rows of all starts, oldest start first.

    Rows of earlier starts from the first step of a later start on are dropped, even at steps that the later start did
    not log.
    """
    merged: list[Row] = []
    for start in starts:
        rows = list(start)
        first_step = min((int(row["step"]) for row in rows), default=0)
        # A start that has written no rows replaces none.
        merged = [row for row in merged if int(row["step"]) < first_step or not rows] + rows
    # Stable: a validation stays behind the step that it belongs to.
    return sorted(merged, key=lambda row: int(row["step"]))


def finite_points(rows: Iterable[Row], name: str) -> tuple[list[float], list[float]]:
    """Returns the steps and values of one column, without rows that have no finite number in it."""
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
        row = json_values.parse(line, f"{segment}:{number}", "remove the file")
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise errors.IntegrityError(f"{segment}:{number}: is not a row of a run log; remove the file")
        rows.append(row)
    return rows
