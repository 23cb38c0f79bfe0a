"""Rates worked by hand, and optimisers that go on where they were."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from core import errors
from core.config import training_settings
from core.reporting import training_history
from core.training import optimizers
from tests.core.training import builders


def _config(**settings: Any) -> training_settings.TrainingConfig:
    return training_settings.TrainingConfig(**{"learning_rate": 2.0, "epochs": 10, **settings})


@pytest.mark.parametrize(
    ("settings", "step", "epochs_done", "history", "expected"),
    [
        ({}, 77, 3.5, (), 2.0),
        ({"warmup_steps": 4}, 0, 0.0, (), 0.5),
        ({"warmup_steps": 4}, 2, 0.0, (), 1.5),
        ({"warmup_steps": 4}, 9, 0.0, (), 2.0),
        ({"schedule": "step", "decay_every_epochs": 100, "epochs": 300}, 0, 99.9, (), 2.0),
        ({"schedule": "step", "decay_every_epochs": 100, "epochs": 300}, 0, 100.0, (), 0.2),
        ({"schedule": "step", "decay_every_epochs": 100, "epochs": 300}, 0, 250.0, (), 0.02),
        ({"schedule": "cosine"}, 0, 0.0, (), 2.0),
        ({"schedule": "cosine"}, 50, 5.0, (), 1.0),
        ({"schedule": "cosine", "final_rate": 0.5}, 100, 10.0, (), 1.0),
        ({"schedule": "cosine", "max_steps": 30}, 15, 0.1, (), 1.0),
        ({"schedule": "cosine", "max_steps": 30}, 15, 10.0, (), 0.0),
        ({"schedule": "inverse_sqrt", "warmup_steps": 4}, 3, 0.0, (), 2.0),
        ({"schedule": "inverse_sqrt", "warmup_steps": 4}, 15, 0.0, (), 1.0),
        ({"schedule": "inverse_sqrt"}, 24, 0.0, (), 0.4),
        ({"schedule": "plateau", "decay_factor": 0.5}, 0, 0.0, (), 2.0),
        ({"schedule": "plateau", "decay_factor": 0.5}, 0, 0.0, (3.0, 2.0, 2.5), 2.0),
        ({"schedule": "plateau", "decay_factor": 0.5}, 0, 0.0, (3.0, 2.0, 2.5, 2.0), 1.0),
        ({"schedule": "plateau", "decay_factor": 0.5}, 0, 0.0, (3.0, 2.0, 2.5, 2.0, 1.9, 2.0, 2.0), 0.5),
        ({"schedule": "plateau", "decay_factor": 0.5, "decay_patience": 0}, 0, 0.0, (3.0, 3.5, 2.0, 4.0), 0.5),
    ],
)
def test_rates_are_those_worked_by_hand(
    settings: dict[str, Any], step: int, epochs_done: float, history: tuple[float, ...], expected: float
) -> None:
    found = optimizers.rate(_config(**settings), step, epochs_done, history)
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("patience", [0, 1, 3])
def test_the_plateau_falls_when_that_of_the_library_does(patience: int) -> None:
    chance = torch.Generator().manual_seed(patience)
    history = torch.rand(60, generator=chance).cumsum(0).sub(torch.arange(60) * 0.5).tolist()
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    peer = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=patience, threshold=0.0, eps=0)
    for count, value in enumerate(history, start=1):
        peer.step(value)
        assert 0.5 ** optimizers.decays(history[:count], patience) == optimizer.param_groups[0]["lr"]


def test_waiting_is_counted_from_the_first_best() -> None:
    assert optimizers.validations_since_best([]) == 0
    assert optimizers.validations_since_best([2.0, 1.0]) == 0
    assert optimizers.validations_since_best([2.0, 1.0, 1.0, 1.5]) == 2


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    chance = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=chance)
    optimizer.step()


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "sgd"},
        {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.01},
        {"optimizer": "adam", "betas": (0.9, 0.98), "weight_decay": 0.01},
        {"optimizer": "adamw", "weight_decay": 0.01},
    ],
)
def test_an_optimiser_goes_on_from_its_named_tensors_bit_for_bit(settings: dict[str, Any]) -> None:
    config = _config(**{**settings, "learning_rate": 0.1})
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = optimizers.build(model, config)
    other = nn.Linear(3, 2)
    for seed in range(3):
        _step(model, optimizer, seed)
    named = {name: tensor.clone() for name, tensor in optimizers.to_named(model, optimizer).items()}
    other.load_state_dict(model.state_dict())
    restored = optimizers.build(other, config)
    optimizers.load_named(other, restored, named)
    for seed in range(3, 6):
        _step(model, optimizer, seed)
        _step(other, restored, seed)
    assert torch.equal(model.weight, other.weight)
    assert torch.equal(model.bias, other.bias)


def test_the_first_step_of_each_optimiser_is_that_of_its_formula() -> None:
    """Gradient 2, weight 1, rate 0.5, decay 0.1, worked by hand."""
    expected = {
        "sgd": 1 - 0.5 * (2 + 0.1),
        "adam": 1 - 0.5 * (2.1 / (2.1 + 1e-8)),
        "adamw": 1 * (1 - 0.5 * 0.1) - 0.5 * (2 / (2 + 1e-8)),
    }
    for name, value in expected.items():
        model = nn.Linear(1, 1, bias=False)
        nn.init.ones_(model.weight)
        optimizer = optimizers.build(model, _config(optimizer=name, weight_decay=0.1))
        optimizers.set_rate(optimizer, 0.5)
        model.weight.grad = torch.full((1, 1), 2.0)
        optimizer.step()
        assert model.weight.item() == pytest.approx(value, rel=1e-6)


def test_tensors_of_another_model_are_refused() -> None:
    model = nn.Linear(3, 2)
    optimizer = optimizers.build(model, _config())
    for name in ("exp_avg/other", "exp_avg/weight"):
        with pytest.raises(errors.IntegrityError, match="made for another model"):
            optimizers.load_named(model, optimizer, {name: torch.zeros(5)})


def test_weight_decay_and_a_rate_that_falls_after_a_hundred_epochs_run(tmp_path: Path) -> None:
    """The documents' StepLR(100, 0.1) with weight decay 1e-5; an epoch is a step, and weights end elsewhere without."""
    text = builders.text_dataset(tmp_path / "text", num_train=40, num_valid=10)
    settings: dict[str, Any] = {"schedule": "step", "decay_every_epochs": 100, "decay_factor": 0.1, "epochs": 201}
    settings |= {"num_lanes": 1, "window": 5, "truncation": "none", "validate_every_steps": 1000, "log_every_steps": 1}
    for name, decay in (("decayed", 1e-5), ("plain", 0.0)):
        summary = builders.train(builders.job(tmp_path / name, text, weight_decay=decay, **settings))
        assert summary.step == 201
    rates = [
        row["learning_rate"]
        for row in training_history.read(builders.place(tmp_path / "decayed"))
        if row["kind"] == "step"
    ]
    assert rates == pytest.approx([0.01] * 100 + [0.001] * 100 + [0.0001])
    assert builders.digest(tmp_path / "decayed") != builders.digest(tmp_path / "plain")
