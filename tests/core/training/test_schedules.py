"""Learning-rate schedules, worked by hand and against torch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from core.config import training_settings
from core.reporting import training_history
from core.training import schedules
from tests.core.training import builders


def _config(**settings: Any) -> training_settings.TrainingConfig:
    return training_settings.TrainingConfig(**{"learning_rate": 2.0, "epochs": 10, **settings})


@pytest.mark.parametrize(
    ("settings", "step", "epochs_done", "history", "expected"),
    [
        ({}, 77, 3.5, (), 2.0),
        ({"schedule": {"kind": "constant", "warmup_steps": 4}}, 0, 0.0, (), 0.5),
        ({"schedule": {"kind": "constant", "warmup_steps": 4}}, 2, 0.0, (), 1.5),
        ({"schedule": {"kind": "constant", "warmup_steps": 4}}, 9, 0.0, (), 2.0),
        ({"schedule": {"kind": "step", "decay_every_epochs": 100}, "epochs": 300}, 0, 99.9, (), 2.0),
        ({"schedule": {"kind": "step", "decay_every_epochs": 100}, "epochs": 300}, 0, 100.0, (), 0.2),
        ({"schedule": {"kind": "step", "decay_every_epochs": 100}, "epochs": 300}, 0, 250.0, (), 0.02),
        ({"schedule": {"kind": "cosine"}}, 0, 0.0, (), 2.0),
        ({"schedule": {"kind": "cosine"}}, 50, 5.0, (), 1.0),
        ({"schedule": {"kind": "cosine", "final_rate": 0.5}}, 100, 10.0, (), 1.0),
        ({"schedule": {"kind": "cosine"}, "max_steps": 30}, 15, 0.1, (), 1.0),
        ({"schedule": {"kind": "cosine"}, "max_steps": 30}, 15, 10.0, (), 0.0),
        # Two of ten steps are the warm-up: half of the other eight are done after step 6.
        ({"schedule": {"kind": "cosine", "warmup_steps": 2}, "max_steps": 10}, 0, 0.0, (), 1.0),
        ({"schedule": {"kind": "cosine", "warmup_steps": 2}, "max_steps": 10}, 1, 0.1, (), 2.0),
        ({"schedule": {"kind": "cosine", "warmup_steps": 2}, "max_steps": 10}, 2, 0.2, (), 2.0),
        ({"schedule": {"kind": "cosine", "warmup_steps": 2}, "max_steps": 10}, 6, 0.6, (), 1.0),
        ({"schedule": {"kind": "cosine", "warmup_steps": 2, "final_rate": 0.25}, "max_steps": 10}, 10, 1.0, (), 0.5),
        # Ten steps an epoch: the warm-up ends after two of the ten epochs.
        ({"schedule": {"kind": "cosine", "warmup_steps": 20}}, 20, 2.0, (), 2.0),
        ({"schedule": {"kind": "cosine", "warmup_steps": 20}}, 60, 6.0, (), 1.0),
        ({"schedule": {"kind": "cosine", "warmup_steps": 20}}, 100, 10.0, (), 0.0),
        # All of a run that is shorter than its warm-up is warm-up.
        ({"schedule": {"kind": "cosine", "warmup_steps": 20}, "max_steps": 10}, 9, 1.0, (), 1.0),
        ({"schedule": {"kind": "inverse_sqrt", "warmup_steps": 4}}, 3, 0.0, (), 2.0),
        ({"schedule": {"kind": "inverse_sqrt", "warmup_steps": 4}}, 15, 0.0, (), 1.0),
        ({"schedule": {"kind": "inverse_sqrt"}}, 24, 0.0, (), 0.4),
        ({"schedule": {"kind": "plateau", "decay_factor": 0.5}}, 0, 0.0, (), 2.0),
        ({"schedule": {"kind": "plateau", "decay_factor": 0.5}}, 0, 0.0, (3.0, 2.0, 2.5), 2.0),
        ({"schedule": {"kind": "plateau", "decay_factor": 0.5}}, 0, 0.0, (3.0, 2.0, 2.5, 2.0), 1.0),
        ({"schedule": {"kind": "plateau", "decay_factor": 0.5}}, 0, 0.0, (3.0, 2.0, 2.5, 2.0, 1.9, 2.0, 2.0), 0.5),
        ({"schedule": {"kind": "plateau", "decay_factor": 0.5, "patience": 0}}, 0, 0.0, (3.0, 3.5, 2.0, 4.0), 0.5),
    ],
)
def test_learning_rates_worked_by_hand(
    settings: dict[str, Any], step: int, epochs_done: float, history: tuple[float, ...], expected: float
) -> None:
    rate = schedules.learning_rate(_config(**settings), step, epochs_done, history)
    assert rate == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("patience", [0, 1, 3])
def test_a_plateau_decays_when_torch_reduce_lr_on_plateau_does(patience: int) -> None:
    chance = torch.Generator().manual_seed(patience)
    history = torch.rand(60, generator=chance).cumsum(0).sub(torch.arange(60) * 0.5).tolist()
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    peer = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=patience, threshold=0.0, eps=0)
    for count, value in enumerate(history, start=1):
        peer.step(value)
        assert 0.5 ** schedules.num_decays(history[:count], patience) == optimizer.param_groups[0]["lr"]


def test_validations_before_the_start_of_a_plateau_do_not_count() -> None:
    """Of 1, 2, 3, 4 the last two count from 3 on: one decay, of the half that decays of before have left."""
    config = _config(schedule={"kind": "plateau", "decay_factor": 0.1, "patience": 0})
    start = schedules.PlateauStart(num_validations=2, factor=0.5)
    assert schedules.learning_rate(config, 0, 0.0, [1.0, 2.0, 3.0], start) == pytest.approx(2.0 * 0.5)
    assert schedules.learning_rate(config, 0, 0.0, [1.0, 2.0, 3.0, 4.0], start) == pytest.approx(2.0 * 0.5 * 0.1)


def test_a_run_with_weight_decay_and_a_step_schedule_of_a_hundred_epochs(tmp_path: Path) -> None:
    """StepLR(100, 0.1) with weight decay 1e-5; an epoch is one step. Without weight decay the weights differ."""
    text = builders.text_dataset(tmp_path / "text", num_train=40, num_valid=10)
    schedule = {"kind": "step", "decay_every_epochs": 100, "decay_factor": 0.1}
    settings: dict[str, Any] = {"schedule": schedule, "epochs": 201}
    settings |= {
        "num_lanes": 1,
        "window": 5,
        "truncation": {"kind": "none"},
        "validate_every_steps": 1000,
        "log_every_steps": 1,
    }
    for name, decay in (("decayed", 1e-5), ("plain", 0.0)):
        summary = builders.train(
            builders.job(tmp_path / name, text, optimizer={"kind": "adam", "weight_decay": decay}, **settings)
        )
        assert summary.step == 201
    rates = [
        row["learning_rate"]
        for row in training_history.read(builders.location_of(tmp_path / "decayed"))
        if row["kind"] == "step"
    ]
    assert rates == pytest.approx([0.01] * 100 + [0.001] * 100 + [0.0001])
    assert builders.digest(tmp_path / "decayed") != builders.digest(tmp_path / "plain")
