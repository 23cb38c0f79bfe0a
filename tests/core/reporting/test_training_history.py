"""Reading the run log: each step once, also after restarts."""

import json
import pathlib

import pytest

from core import errors
from core.reporting import training_history
from core.storage import location


def write(root: pathlib.Path, name: str, *steps: int, start: int) -> None:
    (root / "metrics").mkdir(exist_ok=True)
    rows = [{"kind": "step", "step": step, "loss_nats": float(step), "start": start} for step in steps]
    (root / "metrics" / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_repeated_steps_are_read_once_from_the_newest_start(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "e1-00000030.jsonl", 10, 20, 30, start=1)
    write(tmp_path, "e1-00000060.jsonl", 40, 50, 60, start=1)
    write(tmp_path, "e2-00000060.jsonl", 40, 50, 60, start=2)
    write(tmp_path, "e2-00000090.jsonl", 70, 80, 90, start=2)
    write(tmp_path, "e10-00000090.jsonl", 70, 80, 90, start=10)
    (tmp_path / "metrics" / "targets.json").write_text("[]")
    rows = training_history.read(location.Location.parse(str(tmp_path)))
    assert [row["step"] for row in rows] == [10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert [row["start"] for row in rows] == [1, 1, 1, 2, 2, 2, 10, 10, 10]


def test_rows_of_an_older_start_after_the_resumed_step_are_dropped(tmp_path: pathlib.Path) -> None:
    """The first start logged up to step 60 and lost its checkpoint; the second resumed from 20 and logs less often."""
    write(tmp_path, "e1-00000060.jsonl", 10, 20, 30, 40, 50, 60, start=1)
    write(tmp_path, "e2-00000045.jsonl", 25, 45, start=2)
    rows = training_history.read(location.Location.parse(str(tmp_path)))
    assert [(row["step"], row["start"]) for row in rows] == [(10, 1), (20, 1), (25, 2), (45, 2)]


def test_a_run_without_a_log_has_no_rows(tmp_path: pathlib.Path) -> None:
    assert training_history.read(location.Location.parse(str(tmp_path))) == []


@pytest.mark.parametrize("line", ["{", "[]", '{"loss_nats": 1}'])
def test_a_damaged_segment_is_an_error_with_its_line(line: str, tmp_path: pathlib.Path) -> None:
    write(tmp_path, "e1-00000010.jsonl", 10, start=1)
    with (tmp_path / "metrics" / "e1-00000010.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(errors.IntegrityError, match=r"e1-00000010\.jsonl:2: "):
        training_history.read(location.Location.parse(str(tmp_path)))


def test_points_without_a_finite_number_are_dropped() -> None:
    rows: list[training_history.Row] = [
        {"step": 1, "x": 2.0},
        {"step": 2, "x": None},
        {"step": 3, "x": float("nan")},
        {"step": 4, "x": 5},
    ]
    assert training_history.finite_points(rows, "x") == ([1.0, 4.0], [2.0, 5.0])
