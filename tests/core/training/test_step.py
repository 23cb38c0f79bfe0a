"""Gradient accumulation: a step over micro-batches is a step over all their rows."""

from pathlib import Path
from typing import Any

import pytest
import torch

from core.models import factory
from core.training import batches, gradients, losses, optimizers, step
from tests.core.training import builders


def _stepped(
    micro_batches: list[batches.Batch], model: Any, sizes: dict[str, int]
) -> tuple[step.StepResult, torch.Tensor]:
    torch.manual_seed(0)
    learned = losses.Objective(factory.build(model, sizes, 1), label_smoothing=0.1)
    training = builders.job(
        Path("/x"), builders.location_of(Path("/x")), optimizer={"kind": "sgd"}, learning_rate=0.5
    ).training
    optimizer = optimizers.build(learned.model, training)
    learner = step.Learner(learned, learned, optimizer, torch.device("cpu"), "fp32", gradients.limits(training))
    outcome = learner.train_step(micro_batches, [None], carries_state=False)
    return outcome, torch.cat([parameter.detach().flatten() for parameter in learned.parameters()])


def test_accumulated_windows_are_one_large_batch() -> None:
    rows = torch.arange(24).remainder(7).view(4, 6)
    shares = [rows[:1], rows[1:3], rows[3:]]
    micro = [
        batches.Batch(batches.TextContent(part, part.flatten() + 1), part.numel(), part.numel(), 0, 0.0)
        for part in shares
    ]
    whole = [batches.Batch(batches.TextContent(rows, rows.flatten() + 1), 24, 24, 0, 0.0)]
    (result, weights), (expected_result, expected) = (
        _stepped(micro_batches, builders.TEXT, {"text": 9}) for micro_batches in (micro, whole)
    )
    assert float(result.gradient_norm) == pytest.approx(float(expected_result.gradient_norm), rel=1e-5)
    torch.testing.assert_close(result.sums_K3, expected_result.sums_K3)
    torch.testing.assert_close(weights, expected)


def test_accumulated_pairs_of_unequal_length_are_one_large_batch() -> None:
    """The loss of each is weighted by its targets, three and one, not by the number of micro-batches."""
    long = batches.PairsContent(
        torch.tensor([[4, 5, 3]]),
        torch.tensor([3]),
        torch.tensor([[2, 7, 8]]),
        torch.arange(3),
        torch.tensor([7, 8, 3]),
    )
    short = batches.PairsContent(
        torch.tensor([[6, 3]]), torch.tensor([2]), torch.tensor([[2]]), torch.arange(1), torch.tensor([3])
    )
    both = batches.PairsContent(
        torch.tensor([[4, 5, 3], [6, 3, 1]]),
        torch.tensor([3, 2]),
        torch.tensor([[2, 7, 8], [2, 1, 1]]),
        torch.tensor([0, 1, 2, 3]),
        torch.tensor([7, 8, 3, 3]),
    )
    micro = [batches.Batch(long, 3, 3, 0, 0.0), batches.Batch(short, 1, 1, 0, 0.0)]
    sizes = {"source": 9, "target": 9}
    (result, weights), (expected_result, expected) = (
        _stepped(micro_batches, builders.PAIRS, sizes) for micro_batches in (micro, [batches.Batch(both, 4, 4, 0, 0.0)])
    )
    assert float(result.gradient_norm) == pytest.approx(float(expected_result.gradient_norm), rel=1e-5)
    torch.testing.assert_close(weights, expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_skipped_step_leaves_weights_and_starts_from_the_zero_state(value: float) -> None:
    learned = losses.Objective(factory.build(builders.TEXT, {"text": 9}, 1))
    training = builders.job(Path("/x"), builders.location_of(Path("/x"))).training
    optimizer = optimizers.build(learned.model, training)
    learner = step.Learner(learned, learned, optimizer, torch.device("cpu"), "fp32", gradients.limits(training))
    rows = torch.arange(24).remainder(7).view(4, 6)
    micro = [batches.Batch(batches.TextContent(rows, rows.flatten() + 1), 24, 24, 0, 0.0)]
    first = learner.train_step(micro, [None], carries_state=True)
    assert first.is_applied
    assert first.states[0] is not None
    before = {name: tensor.clone() for name, tensor in learned.model.state_dict().items()}
    state = tuple(tuple(part * value for part in layer) for layer in first.states[0])
    outcome = learner.train_step(micro, [state], carries_state=True)
    assert not outcome.is_applied
    assert outcome.states[0] is not None
    assert not any(part.any() for layer in outcome.states[0] for part in layer)
    for name, tensor in learned.model.state_dict().items():
        assert torch.equal(tensor, before[name])
