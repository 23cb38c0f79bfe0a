"""Last lines of a pipeline."""

from typing import Any

import pytest

from jobs import conclusion


@pytest.mark.parametrize(
    ("split", "held_out", "expected"),
    [
        ("test", "test", "RMSE of x 0.25 at horizon 1, persistence 0.5 (test rows)"),
        ("train", None, "RMSE of x 0.25 at horizon 1, persistence 0.5, on rows that it was trained on"),
        (None, None, "trained; nothing was held out to measure it"),
    ],
)
def test_the_error_of_a_series_names_its_rows(split: str | None, held_out: str | None, expected: str) -> None:
    row = {"target": "x", "horizon": 1, "rmse": 0.25, "persistence_rmse": 0.5}
    headline = {"split": split, "errors": [row] if split else []}
    report: dict[str, Any] = {"name": "a", "root": "/a", "held_out": held_out}
    lines = conclusion.lines({**report, "stages": {"forecast": {"headline": headline}}}, "series")
    assert lines[0] == f"a: {expected}"
