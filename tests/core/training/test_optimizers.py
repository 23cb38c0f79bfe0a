"""Optimizers: their steps worked by hand, and their state by parameter name."""

from typing import Any

import pytest
import torch
from torch import nn

from core import errors
from core.config import training_settings
from core.training import optimizers


def _config(**settings: Any) -> training_settings.TrainingConfig:
    return training_settings.TrainingConfig(**{"learning_rate": 2.0, "epochs": 10, **settings})


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    chance = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=chance)
    optimizer.step()


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "sgd"},
        {"kind": "sgd", "momentum": 0.9, "weight_decay": 0.01},
        {"kind": "adam", "betas": (0.9, 0.98), "weight_decay": 0.01},
        {"kind": "adamw", "weight_decay": 0.01},
    ],
)
def test_an_optimizer_with_restored_state_continues_bit_for_bit(settings: dict[str, Any]) -> None:
    config = _config(optimizer=settings, learning_rate=0.1)
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = optimizers.build(model, config)
    other = nn.Linear(3, 2)
    for seed in range(3):
        _step(model, optimizer, seed)
    named = {name: tensor.clone() for name, tensor in optimizers.named_state(model, optimizer).items()}
    other.load_state_dict(model.state_dict())
    restored = optimizers.build(other, config)
    optimizers.load_named_state(other, restored, named)
    for seed in range(3, 6):
        _step(model, optimizer, seed)
        _step(other, restored, seed)
    assert torch.equal(model.weight, other.weight)
    assert torch.equal(model.bias, other.bias)


def test_the_first_step_of_each_optimizer_matches_its_formula() -> None:
    """Gradient 2, weight 1, rate 0.5, decay 0.1, worked by hand."""
    expected = {
        "sgd": 1 - 0.5 * (2 + 0.1),
        "adam": 1 - 0.5 * (2.1 / (2.1 + 1e-8)),
        "adamw": 1 * (1 - 0.5 * 0.1) - 0.5 * (2 / (2 + 1e-8)),
    }
    for name, value in expected.items():
        model = nn.Linear(1, 1, bias=False)
        nn.init.ones_(model.weight)
        optimizer = optimizers.build(model, _config(optimizer={"kind": name, "weight_decay": 0.1}))
        optimizers.set_learning_rate(optimizer, 0.5)
        model.weight.grad = torch.full((1, 1), 2.0)
        optimizer.step()
        assert model.weight.item() == pytest.approx(value, rel=1e-6)


def test_optimizer_state_of_another_model_is_refused() -> None:
    model = nn.Linear(3, 2)
    optimizer = optimizers.build(model, _config())
    for name in ("exp_avg/other", "exp_avg/weight"):
        with pytest.raises(errors.IntegrityError, match="made for another model"):
            optimizers.load_named_state(model, optimizer, {name: torch.zeros(5)})
