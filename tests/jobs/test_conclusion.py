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
    report: dict[str, Any] = {"name": "a", "root": "/a", "held_out": held_out, "hints": []}
    lines = conclusion.lines({**report, "stages": {"forecast": {"headline": headline}}}, "series")
    assert lines[0] == f"a: {expected}"


def _report(**values: Any) -> dict[str, Any]:
    return {
        "name": "a",
        "root": "/a",
        "held_out": "test",
        "hints": [],
        "stages": {"evaluate": {"bleu": 31.5}},
        **values,
    }


def test_the_first_hint_is_said_and_the_others_are_counted() -> None:
    hints = [{"rule": "x", "setting": "y.z", "text": text} for text in ("Raise y.z.", "b", "c")]
    assert conclusion.lines(_report(hints=hints), "pairs")[1] == "hint: Raise y.z. (2 more hints on the page)"
    assert conclusion.lines(_report(hints=hints[:1]), "pairs")[1] == "hint: Raise y.z."
    assert len(conclusion.lines(_report(), "pairs")) == 3


def test_figures_of_the_validation_split_say_that_it_chose_the_checkpoint() -> None:
    stages = {"evaluate": {"bleu": 31.5}, "train": {"best_validation": {"step": 9}}}
    first = conclusion.lines(_report(held_out="valid", stages=stages), "pairs")[0]
    assert first == "a: BLEU 31.50 (validation lines, which chose the checkpoint)"
    counted = conclusion.lines(_report(held_out="valid"), "text")[0]
    assert counted == "a: BLEU 31.50 (validation lines)", "a counted model has one checkpoint"


def test_a_forecast_is_compared_with_the_better_naive_one() -> None:
    row = {"target": "x", "horizon": 1, "rmse": 0.25, "persistence_rmse": 0.5, "seasonal_rmse": 0.3}
    stages = {"forecast": {"headline": {"split": "test", "errors": [row]}}}
    assert "seasonal naive 0.3 (test rows)" in conclusion.lines(_report(stages=stages), "series")[0]
