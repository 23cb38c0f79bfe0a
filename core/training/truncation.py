"""Truncated backpropagation through time.

A long stream is trained on in windows. At the border of two windows the hidden state is detached: its values carry
over, the graph does not, so that gradients stop there. `training.truncation` selects the kind of truncation: fixed
windows, windows of variable length, random truncation (which also cuts inside a window, unbiased for the gradient of
the window), none (a lane is one window), or the same number of steps back from every loss (see `lookback`). Random
decisions follow from (seed, epoch, position) alone: all ranks agree on them, and a resumed run repeats those of the
uninterrupted one.

Source: Werbos 1990, Backpropagation Through Time: What It Does and How to Do It; Zhang et al., Dive into Deep Learning
(2021), section 8.7.1 "Analysis of Gradients in RNNs".
"""

import itertools
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from core.config import training_settings, truncation_settings
from core.data.batching import shuffling
from core.models import state as states

# The constants of Merity, Keskar and Socher 2018: one window in twenty is drawn around half the window.
HALVED_SHARE = 0.05
DEVIATION_TOKENS = 5
MIN_TOKENS = 5


def detach(state: states.State) -> states.State:
    """Returns the state without its graph: the next window starts from it, and no gradient flows back through it."""
    return states.detach(state)


def window_length(training: training_settings.TrainingConfig, lane_length: int) -> int:
    """Returns the number of tokens of a lane in one step, through which gradients flow."""
    return lane_length if training.truncation.kind == "none" else training.window


def variable_window(window: int, seed: int, epoch: int, start: int) -> int:
    """Draws the length of the window that begins at token `start` of the lanes.

    Normally distributed around `window`, or in one draw of twenty around half of it, with a standard deviation of 5
    tokens; at least 5 tokens, and at most `window` plus four deviations, so that memory is bounded.

    Source: Merity, Keskar and Socher 2018, Regularizing and Optimizing LSTM Language Models, section 5.
    """
    # Two independent draws, each with a purpose of its own as its seed.
    centre = window / 2 if _uniform("window kind", seed, epoch, start) < HALVED_SHARE else window
    length = statistics.NormalDist(centre, DEVIATION_TOKENS).inv_cdf(_uniform("window length", seed, epoch, start))
    return max(MIN_TOKENS, min(int(length), window + 4 * DEVIATION_TOKENS))


def cut_weights(
    training: training_settings.TrainingConfig, seed: int, epoch: int, start: int, length: int
) -> Sequence[float]:
    """Draws ξ for each token of a window: the factor of the gradient that flows from it to the token before.

    At every `cut_every`-th token it is 0 with `cut_probability` p, else 1 / (1 - p): 1 on average, so that the mean of
    the gradient over all draws is the gradient of the whole window. It is unbiased for that gradient alone: between
    windows the state is always detached, and no draw reaches back beyond the window. At the other tokens it is 1.

    Returns:
        One factor for each of the `length` tokens; empty if the truncation is not random.

    Source: Tallec and Ollivier 2017, Unbiasing Truncated Backpropagation Through Time; Zhang et al., Dive into Deep
    Learning (2021), section 8.7.1.3 "Randomized Truncation", with its π = 1 - p at the cuts.
    """
    settings = training.truncation
    if not isinstance(settings, truncation_settings.RandomConfig):
        return ()
    p = settings.cut_probability
    weights_T = [1.0] * length
    for position in range(settings.cut_every, length, settings.cut_every):
        weights_T[position] = 0.0 if _uniform("cut", seed, epoch, start, position) < p else 1.0 / (1.0 - p)
    return weights_T


def segments(weights_T: Sequence[float], length: int) -> Iterator[tuple[int, int, float]]:
    """Yields the segments of a window between weights other than 1, as (begin, end, weight at the begin).

    Tokens within a segment need no scaling between them, so that a segment is one call of the recurrent layers.
    """
    # A weight at the first token has no effect: the state before the window is detached anyway.
    borders = [0, *(position for position in range(1, len(weights_T)) if weights_T[position] != 1.0), length]
    for begin, end in itertools.pairwise(borders):
        yield begin, end, weights_T[begin] if begin else 1.0


def scale_gradient(state: states.State, weight: float) -> states.State:
    """Returns the same state, whose gradient is multiplied by `weight` in the backward pass; 0 detaches it."""
    if weight == 0.0:
        return detach(state)  # saves the backward pass, whose result would be multiplied by zero
    if weight == 1.0:
        return state
    return tuple(tuple(_ScaledGradient.apply(part, weight) for part in layer) for layer in state)  # type: ignore[no-untyped-call]


class _ScaledGradient(torch.autograd.Function):
    """The identity in the forward pass; multiplies the gradient by a number in the backward pass."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, weight: float) -> Tensor:
        """Returns the same values."""
        ctx.weight = weight
        return part.view_as(part)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Returns the gradient times the weight."""
        return gradients[0] * ctx.weight, None


def _uniform(*purpose: int | str) -> float:
    """Returns a number in (0, 1) that depends on the arguments alone."""
    # 53 bits are all that a float's mantissa holds; the half keeps 0 and 1 out, where `inv_cdf` is not defined.
    return ((shuffling.key(*purpose) >> 11) + 0.5) / (1 << 53)
