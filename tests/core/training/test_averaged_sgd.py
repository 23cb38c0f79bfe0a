"""Averaged SGD: its trigger, the averages, and the weights that are validated, saved and resumed from."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from core.config import optimizer_settings, training_settings
from core.models import bundle
from core.reporting import training_history
from core.training import averaged_sgd, checkpoint, optimizers
from tests.core.training import builders


@pytest.mark.parametrize(
    ("losses", "interval", "expected"),
    [
        ([], 2, False),
        ([5.0, 6.0, 7.0], 2, False),  # nothing lies more than two validations back
        ([5.0, 4.0, 6.0, 5.1], 2, True),  # 5.1 is worse than the 5.0 three back
        ([5.0, 4.0, 6.0, 4.9], 2, False),  # 4.9 is not, though 4.0 came since
        ([5.0, 4.0, 6.0, 4.9, 4.5], 2, True),  # now 4.0 counts
        ([5.0, 4.0, 6.0, 4.9, 4.5, 1.0], 2, True),  # once begun they go on
        ([3.0, 2.0, 1.0, 0.5, 0.4, 0.3], 2, False),
        ([], None, True),
    ],
)
def test_averaging_starts_at_the_non_monotonic_trigger(
    losses: list[float], interval: int | None, expected: bool
) -> None:
    assert averaged_sgd.is_triggered(losses, interval) is expected


def test_the_trigger_matches_the_authors_program() -> None:
    chance = torch.Generator().manual_seed(0)
    losses = (torch.rand(40, generator=chance) * 0.4 - torch.arange(40) * 0.05).tolist()
    logs: list[float] = []
    begun = False
    for count, loss in enumerate(losses, start=1):
        begun = begun or (len(logs) > 5 and loss > min(logs[:-5]))
        logs.append(loss)
        assert averaged_sgd.is_triggered(losses[:count], 5) is begun


def test_averaged_weights_worked_by_hand() -> None:
    """Weight 1, gradients 2, 1, 3 and rate 0.5: 0, -0.5, -2 follow; averaged from the second step on -1.25."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    asgd = optimizer_settings.AsgdConfig(non_monotone_interval=1)
    config = training_settings.TrainingConfig(optimizer=asgd, learning_rate=0.5)
    optimizer = optimizers.build(model, config)
    losses: list[float] = []
    for gradient in (2.0, 1.0, 3.0):
        optimizers.prepare(optimizer, 0.5, config, losses)
        model.weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
        losses += [3.0, 4.0, 5.0]  # from here on worse than the best of all but the last one
    assert model.weight.item() == -2.0
    with averaged_sgd.averaged_weights(optimizer):
        assert model.weight.item() == -1.25
    assert model.weight.item() == -2.0


def test_averaging_goes_on_after_a_resume_with_a_longer_interval(tmp_path: Path) -> None:
    """The validations no longer fire the trigger; averages that stood still would be validated and saved for ever."""
    settings: dict[str, Any] = {"learning_rate": 0.5, "validate_every_steps": 1}
    text = builders.text_dataset(tmp_path / "text")
    for steps, interval in ((4, None), (6, 5)):
        optimizer = {"kind": "asgd", "non_monotone_interval": interval}
        builders.train(builders.job(tmp_path / "run", text, optimizer=optimizer, max_steps=steps, **settings))
    newest = checkpoint.find_newest(builders.location_of(tmp_path / "run")).ref
    assert newest is not None
    counts = {int(value) for name, value in checkpoint.load(newest).optimizer.items() if name.startswith("num_")}
    assert counts == {6}


def test_before_averaging_the_averaged_weights_are_the_weights() -> None:
    model = nn.Linear(2, 1)
    config = training_settings.TrainingConfig(optimizer=optimizer_settings.AsgdConfig())
    before = model.weight.detach().clone()
    with averaged_sgd.averaged_weights(optimizers.build(model, config)):
        assert torch.equal(model.weight, before)


def test_a_checkpoint_holds_the_averages_and_training_resumes_from_the_weights(tmp_path: Path) -> None:
    """With a large constant learning rate the two differ; validations use the averages, as the bundle does."""
    settings: dict[str, Any] = {"learning_rate": 2.0, "log_every_steps": 1, "epochs": 3}
    text = builders.text_dataset(tmp_path / "text")
    job = builders.job(tmp_path / "run", text, optimizer={"kind": "asgd", "non_monotone_interval": None}, **settings)
    summary = builders.train(job)
    sgd = builders.job(tmp_path / "plain", text, optimizer={"kind": "sgd"}, **settings)
    plain = dataclasses.replace(sgd, attempt=job.attempt)
    builders.train(plain)
    newest = checkpoint.find_newest(builders.location_of(tmp_path / "run")).ref
    assert newest is not None
    kept = bundle.load(newest.bundle).model.state_dict()
    optimizer_state = checkpoint.load(newest).optimizer
    plain_newest = checkpoint.find_newest(builders.location_of(tmp_path / "plain")).ref
    assert plain_newest is not None
    trained = bundle.load(plain_newest.bundle).model.state_dict()
    for name, weight in trained.items():
        assert torch.equal(optimizer_state[f"shadow/{name}"], weight)  # plain SGD goes the same way
        assert not torch.equal(kept[name], weight)
        assert optimizer_state[f"num_averaged/{name}"].item() == summary.step
    losses = [
        row["nll_nats"]
        for row in training_history.read(builders.location_of(tmp_path / "run"))
        if row["kind"] == "validation"
    ]
    others = [
        row["nll_nats"]
        for row in training_history.read(builders.location_of(tmp_path / "plain"))
        if row["kind"] == "validation"
    ]
    assert all(own != other for own, other in zip(losses, others, strict=True))
