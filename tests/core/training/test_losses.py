"""The loss: a sum over valid targets, the same however it is computed."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from core.config import model_settings, training_settings, truncation_settings
from core.models import factory
from core.training import batches, gradients, losses, truncation
from tests.core.training import builders


def _pairs(padding: int) -> batches.PairsContent:
    """Two pairs, the second shorter, with some columns of padding more than needed."""
    source = torch.tensor([[4, 5, 3], [6, 3, 1]])
    inputs = torch.tensor([[2, 7, 8], [2, 1, 1]])
    width = 3 + padding
    valid = torch.tensor([0, 1, 2, width])
    source, inputs = F.pad(source, (0, padding), value=1), F.pad(inputs, (0, padding), value=1)
    return batches.PairsContent(source, torch.tensor([3, 2]), inputs, valid, torch.tensor([7, 8, 3, 3]))


@pytest.mark.parametrize("attention", ["none", "additive", "dot"])
def test_padding_changes_neither_loss_nor_gradient(attention: str) -> None:
    config = model_settings.Seq2SeqConfig.model_validate({**builders.PAIRS.model_dump(), "attention": attention})
    torch.manual_seed(0)
    learned = losses.Objective(factory.build(config, {"source": 9, "target": 9}, 1))
    tight, loose = (learned(_pairs(padding), None) for padding in (0, 4))
    torch.testing.assert_close(tight.loss, loose.loss)
    parameters = list(learned.parameters())
    for gradient, expected in zip(
        torch.autograd.grad(tight.loss, parameters), torch.autograd.grad(loose.loss, parameters), strict=True
    ):
        torch.testing.assert_close(gradient, expected)


def test_validation_scores_match_the_loss_and_count_most_likely_tokens() -> None:
    torch.manual_seed(0)
    learned = losses.Objective(factory.build(builders.PAIRS, {"source": 9, "target": 9}, 1), label_smoothing=0.1)
    content = _pairs(0)
    scores = learned.score(content, None)
    assert scores.nll.item() == pytest.approx(learned(content, None).nll.item())
    features = learned.model(content.source_BS, content.source_lengths_B, content.inputs_BT).flatten(0, 1)
    right = learned.model.logits(features)[content.valid_N].argmax(-1) == content.targets_N
    assert scores.num_right.item() == int(right.sum())


def _lane_gradient(window: int, weights_T: Sequence[float] = ()) -> Tensor:
    """The gradient of the loss of a lane of 12 tokens, taken in windows, or in one with cuts."""
    torch.manual_seed(0)
    learned = losses.Objective(factory.build(builders.TEXT, {"text": 9}, None))
    tokens = torch.arange(13).remainder(7)
    state = None
    for start in range(0, 12, window):
        inputs, targets = tokens[start : start + window], tokens[start + 1 : start + window + 1]
        sums = learned(batches.TextContent(inputs[None], targets, weights_T), state)
        sums.loss.backward()
        state = sums.state
        assert state is not None
        assert not any(part.requires_grad for layer in state for part in layer)
    return torch.cat([parameter.grad.flatten() for parameter in learned.parameters() if parameter.grad is not None])


def test_windows_carry_the_state_but_cut_the_gradient() -> None:
    whole, cut = _lane_gradient(12), _lane_gradient(3)
    assert 0.001 < (whole - cut).norm() / whole.norm() < 0.5
    torch.testing.assert_close(
        _lane_gradient(12, [0.0 if position in (3, 6, 9) else 1.0 for position in range(12)]), cut
    )


def test_without_truncation_a_lane_is_one_window() -> None:
    assert truncation.window_length(training_settings.TrainingConfig(window=35), 1000) == 35
    assert (
        truncation.window_length(
            training_settings.TrainingConfig(window=35, truncation=truncation_settings.WindowConfig(kind="none")), 1000
        )
        == 1000
    )


def _with_gradients(*values: list[float]) -> list[torch.nn.Parameter]:
    parameters = []
    for value in values:
        parameter = torch.nn.Parameter(torch.zeros(len(value)))
        parameter.grad = torch.tensor(value)
        parameters.append(parameter)
    return parameters


def test_clipping_scales_all_gradients_by_one_number() -> None:
    parameters = [*_with_gradients([3.0, 0.0], [4.0]), torch.nn.Parameter(torch.zeros(1))]
    assert gradients.clip(parameters, 1.0).item() == pytest.approx(5.0)
    assert parameters[0].grad is not None
    assert parameters[1].grad is not None
    torch.testing.assert_close(parameters[0].grad, torch.tensor([0.6, 0.0]))
    torch.testing.assert_close(parameters[1].grad, torch.tensor([0.8]))


@pytest.mark.parametrize("limit", [None, 5.1])
def test_a_gradient_within_the_limit_is_not_scaled(limit: float | None) -> None:
    parameters = _with_gradients([3.0], [4.0])
    assert gradients.clip(parameters, limit).item() == pytest.approx(5.0)
    assert [parameter.grad.item() for parameter in parameters if parameter.grad is not None] == [3.0, 4.0]


def test_the_norm_of_a_gradient_that_is_not_finite_is_not_finite() -> None:
    assert not math.isfinite(gradients.clip(_with_gradients([3.0, math.nan]), 1.0).item())
    assert not math.isfinite(gradients.clip(_with_gradients([math.inf]), 1.0).item())
