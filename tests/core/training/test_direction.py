"""Backward models: the same as forward models on the reversed text."""

from pathlib import Path
from typing import Any

import pytest

from core.reporting import training_history
from tests.core.training import builders

BACKWARD = builders.TEXT.model_copy(update={"direction": "backward"})


def _losses(root: Path) -> list[tuple[str, Any]]:
    rows = [dict(row) for row in training_history.read(builders.location_of(root))]
    return [(row["kind"], row.get("loss_nats", row.get("nll_nats"))) for row in rows]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"sampling": "random", "log_every_steps": 1},
        {"truncation": {"kind": "random", "cut_every": 2}},
        {"validate_every_steps": 4, "log_every_steps": 1, "stopped": 5},
    ],
)
def test_a_backward_model_is_a_forward_model_on_the_reversed_text(tmp_path: Path, settings: dict[str, Any]) -> None:
    stopped, settings = settings.get("stopped"), {name: value for name, value in settings.items() if name != "stopped"}
    text = builders.text_dataset(tmp_path / "text")
    reversed_text = builders.text_dataset(tmp_path / "reversed", order=-1)
    if stopped:
        builders.train(builders.job(tmp_path / "backward", text, BACKWARD, **settings), stopped)
    builders.train(builders.job(tmp_path / "backward", text, BACKWARD, **settings))
    builders.train(builders.job(tmp_path / "twin", reversed_text, **settings))
    builders.train(builders.job(tmp_path / "forward", text, **settings))
    names = ("backward", "twin", "forward")
    backward, twin, forward = ({**builders.digest(tmp_path / name)} for name in names)
    assert backward == twin
    assert backward != forward
    assert _losses(tmp_path / "backward") == _losses(tmp_path / "twin") != _losses(tmp_path / "forward")
