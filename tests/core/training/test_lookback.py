"""Truncation that looks the same number of steps back from every loss."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from core import errors
from core.config import loading, training_settings, truncation_settings
from core.data.batching import lanes
from core.models import factory, language_model, recurrent_stack
from core.models import state as states
from core.training import batches, lookback, losses
from tests.core.training import builders, test_truncation

LANES, LENGTH = 3, 14
CONTENT = batches.TextContent(torch.arange(24).remainder(7).view(2, 12), torch.arange(1, 25).remainder(9))


def objective(**settings: Any) -> losses.Objective:
    torch.manual_seed(0)
    return losses.Objective(factory.build(builders.TEXT.model_copy(update=settings), {"text": 9}, None)).double()


def model_of(learned: losses.Objective) -> language_model.LanguageModel:
    assert isinstance(learned.model, language_model.LanguageModel)
    return learned.model


def training(window: int, steps: int) -> training_settings.TrainingConfig:
    sliding = truncation_settings.SlidingConfig(lookback=steps)
    return training_settings.TrainingConfig(truncation=sliding, window=window, num_lanes=LANES)


def stream_of(offset: int) -> np.ndarray[Any, Any]:
    """A stream of which an epoch serves LANES × LENGTH targets from `offset` on."""
    return np.arange(offset + LANES * LENGTH + 1) * 5 % 9


def gradient(loss: Tensor, learned: losses.Objective) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(learned.parameters())))


def gradient_of_windows(learned: losses.Objective, window: int, steps: int) -> list[Tensor]:
    """The gradient of an epoch's windows as training reads them, all of one and the same weights."""
    offset = lanes.epoch_offset(1, 0, window)
    state, total = None, [torch.zeros_like(parameter) for parameter in learned.parameters()]
    batch_stream = batches.SequentialLanes(stream_of(offset), training(window, steps), 1, 0, 1)
    for batch in batch_stream.read_epoch(0, 0):
        sums = learned(batch.content, state)
        state = sums.state
        for part, own in zip(total, gradient(sums.loss, learned), strict=True):
            part += own
    return total


def gradient_of_plain_loop(learned: losses.Objective, window: int, steps: int) -> list[Tensor]:
    """For each t: τ steps from the detached state at t - τ, on the whole lane."""
    model, offset = model_of(learned), lanes.epoch_offset(1, 0, window)
    lanes_BT = torch.from_numpy(stream_of(offset)[offset:-1].reshape(LANES, LENGTH))
    targets_BT = torch.from_numpy(stream_of(offset)[offset + 1 :].reshape(LANES, LENGTH))
    before = [model.initial_state(LANES)]
    for tokens_B in lanes_BT.unbind(dim=1):
        before.append(states.detach(model.step(tokens_B, before[-1])[1]))
    loss = torch.zeros((), dtype=torch.float64)
    for t in range(1, LENGTH + 1):
        start = max(0, t - steps)
        state = before[start]
        for s in range(start, t):
            features_BF, state = model.step(lanes_BT[:, s], state)
        loss = loss + F.cross_entropy(model.logits(features_BF), targets_BT[:, t - 1], reduction="sum")
    return gradient(loss, learned)


@pytest.mark.parametrize(
    "settings",
    [
        {"cell": "lstm", "num_layers": 2},
        {"cell": "gru", "gru_reset": "before", "initial_state": "learned"},
    ],
)
@pytest.mark.parametrize(("window", "steps"), [(5, 1), (5, 3), (5, 5), (5, 9), (1, 3), (14, 4)])
def test_gradients_equal_a_plain_loop_of_as_many_steps_before_each_loss(
    settings: dict[str, Any], window: int, steps: int
) -> None:
    """Across the borders of windows, with windows shorter than a look-back and longer; at a lane's start it is all."""
    learned = objective(**settings)
    torch.testing.assert_close(
        gradient_of_windows(learned, window, steps), gradient_of_plain_loop(learned, window, steps)
    )


def test_fixed_windows_give_another_gradient() -> None:
    """So that the test above could fail."""
    learned, fixed = objective(), training_settings.TrainingConfig(window=5, num_lanes=LANES)
    state, total = None, [torch.zeros_like(parameter) for parameter in learned.parameters()]
    offset = lanes.epoch_offset(1, 0, 5)
    for batch in batches.SequentialLanes(stream_of(offset), fixed, 1, 0, 1).read_epoch(0, 0):
        sums = learned(batch.content, state)
        state = sums.state
        for part, own in zip(total, gradient(sums.loss, learned), strict=True):
            part += own
    differences = [
        float((one - other).norm() / other.norm())
        for one, other in zip(total, gradient_of_plain_loop(learned, 5, 5), strict=True)
    ]
    assert max(differences) > 0.01


def test_a_look_back_of_a_whole_lane_is_no_truncation() -> None:
    learned = objective()
    whole = gradient(learned(CONTENT, None).loss, learned)
    looked = CONTENT._replace(lookback=lookback.Lookback(40, 0, begins_lane=True))
    torch.testing.assert_close(gradient(learned(looked, None).loss, learned), whole)


@pytest.mark.parametrize("steps", [1, 4])
def test_locked_dropout_has_the_same_masks_in_all_look_backs(steps: int) -> None:
    """Then the loss is that of fixed truncation, whose gradient alone differs."""
    learned = objective(num_layers=2, **test_truncation.LOCKED)
    values = []
    for content in (CONTENT, CONTENT._replace(lookback=lookback.Lookback(steps, 0, begins_lane=True))):
        torch.manual_seed(5)  # dropout masks
        values.append(learned(content, None).loss)
    torch.testing.assert_close(values[1], values[0])


def test_in_bf16_every_weight_gets_its_gradient() -> None:
    """Weights that are cast without gradients first would have none."""
    learned = objective(num_layers=2).float()
    content = CONTENT._replace(lookback=lookback.Lookback(4, 0, begins_lane=True))
    exact = gradient(learned(content, None).loss, learned)
    with torch.autocast("cpu", torch.bfloat16):
        loss = learned(content, None).loss
    for rounded, own in zip(gradient(loss, learned), exact, strict=True):
        assert float((rounded - own).norm()) < 0.05 * float(own.norm())


@pytest.mark.parametrize("begin", [0, 2, 5, 10])
def test_windows_read_the_tokens_before_them_from_any_position_of_an_epoch(begin: int) -> None:
    """The look-back of a resumed run is that of the uninterrupted one; all targets are served once."""
    offset = lanes.epoch_offset(1, 0, 5)
    stream = stream_of(offset)
    batch_stream = batches.SequentialLanes(stream, training(5, 4), 1, 0, 1)
    targets: list[Sequence[int]] = []
    for batch in batch_stream.read_epoch(0, begin):
        content = batch.content
        assert isinstance(content, batches.TextContent)
        looked = content.lookback
        assert looked is not None
        at = batch.consumed - content.targets_N.numel() // LANES if batch.consumed else None
        if at is not None:
            assert (looked.num_before, looked.begins_lane) == (min(3, at), at <= 3)
            first = stream[offset + at - looked.num_before]
            assert content.inputs_BT[0, 0] == first
        targets += content.targets_N.view(LANES, -1).T.tolist()
    served = [list(row) for row in zip(*targets, strict=True)]
    expected = [
        stream[offset + lane * LENGTH + begin + 1 : offset + (lane + 1) * LENGTH + 1].tolist() for lane in range(LANES)
    ]
    assert served == expected


def test_the_rows_of_look_backs_start_from_the_state_before_them() -> None:
    """By hand: a linear cell that adds its inputs shows where each row began."""
    stack = recurrent_stack.Stack(recurrent_stack.StackConfig("rnn_identity", (1,), num_biases=1), 1).double()
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.fill_(1.0 if parameter.dim() == 2 else 0.0)
    x_BNE = torch.tensor([[1.0, 10, 100, 1000, 10000]], dtype=torch.float64)[..., None].requires_grad_()
    looked = lookback.run(stack, x_BNE, stack.initial_state(1), steps=2, num_before=1)
    assert looked.y_BTH.flatten().tolist() == [11, 111, 1111, 11111]
    assert looked.state[0][0].item() == 1111, "the next window looks back from the token before its first one"
    reach = [torch.autograd.grad(y, x_BNE, retain_graph=True)[0].flatten().tolist() for y in looked.y_BTH.flatten()]
    assert reach == [[1.0 if t in (first, first + 1) else 0.0 for t in range(5)] for first in range(4)]


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["training.sampling=random"], "sliding looks back into the window before"),
        (["training.truncation.lookback=0"], "lookback"),
        (["training.truncation.cut_every=3"], "cut_every"),
    ],
)
def test_settings_that_do_not_fit_are_refused(overrides: list[str], complaint: str) -> None:
    text = (
        "name: x\nroot: y\ncorpus: {kind: text, train: {text: [a.txt]}}\nmodel: {kind: language_model}\n"
        "training: {truncation: sliding}\n"
    )
    assert loading.parse(text, "run.yaml", []).training.truncation == truncation_settings.SlidingConfig()
    with pytest.raises(errors.UsageError, match=complaint):
        loading.parse(text, "run.yaml", overrides)
