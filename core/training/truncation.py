"""Where gradients are cut in time.

With a fixed truncation gradients stop at the border of a window: the state goes on into the next window as a
number, its history does not. Without truncation a lane is one window, so that nothing is cut. Variable windows have
borders that chance moves; random truncation also cuts inside a window. What chance decides follows from (seed,
epoch, place) alone: all ranks agree on it, and a resumed run draws what the uninterrupted one did.

Source: document 000 sections 8.7.1.1 to 8.7.1.4.
"""

import itertools
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from core.config import training_settings
from core.data.batching import shuffling
from core.models import state as states

HALVED_SHARE = 0.05
JITTER_TOKENS = 5
FEWEST_TOKENS = 5


def cut(state: states.State) -> states.State:
    """The state as plain numbers: the next window starts from it, and no gradient goes back through it."""
    return states.detach(state)


def window(training: training_settings.TrainingConfig, lane_length: int) -> int:
    """How many tokens of a lane gradients run through, and so one step takes."""
    return lane_length if training.truncation == "none" else training.window


def variable_window(base: int, seed: int, epoch: int, start: int) -> int:
    """Draws the length of the window that begins at a token of the lanes.

    It is normal around `base`, or in one draw of twenty around half of it, with a standard deviation of 5 tokens, at
    least 5 tokens, and at most `base` and four deviations, so that memory is bounded.

    Source: Merity, Keskar and Socher 2018, Regularizing and Optimizing LSTM Language Models, section 5.
    """
    centre = base / 2 if _uniform("window kind", seed, epoch, start) < HALVED_SHARE else base
    drawn = statistics.NormalDist(centre, JITTER_TOKENS).inv_cdf(_uniform("window length", seed, epoch, start))
    return max(FEWEST_TOKENS, min(int(drawn), base + 4 * JITTER_TOKENS))


def weights(
    training: training_settings.TrainingConfig, seed: int, epoch: int, start: int, size: int
) -> Sequence[float]:
    """Draws ξ for each token of a window: what the gradient that goes from it to the token before is multiplied by.

    At every `cut_every`-th token it is 0 with `cut_probability` p, else 1 / (1 - p): 1 on average, so that the mean of
    the gradient over all draws is that of the whole window. It is unbiased for that gradient alone: between windows the
    state is always detached, and what lies before this one counts in no draw. At the other tokens it is 1. Empty: no
    cut anywhere.

    Source: document 000 section 8.7.1.3 with π = 1 - p there, and 1 elsewhere; Tallec and Ollivier 2017.
    """
    if training.truncation != "random":
        return ()
    p = training.cut_probability
    places = range(training.cut_every, size, training.cut_every)
    found = [1.0] * size
    for place in places:
        found[place] = 0.0 if _uniform("cut", seed, epoch, start, place) < p else 1.0 / (1.0 - p)
    return found


def pieces(weights_T: Sequence[float], size: int) -> Iterator[tuple[int, int, float]]:
    """Yields the runs of tokens that no weight but 1 interrupts: begin, end, and the weight at the begin."""
    borders = [0, *(place for place in range(1, len(weights_T)) if weights_T[place] != 1.0), size]
    for begin, end in itertools.pairwise(borders):
        yield begin, end, weights_T[begin] if begin else 1.0


def weighted(state: states.State, weight: float) -> states.State:
    """The same state, whose gradient is multiplied by the weight on its way back; 0 cuts it."""
    if weight == 0.0:
        return cut(state)
    if weight == 1.0:
        return state
    return tuple(tuple(_Weighted.apply(part, weight) for part in layer) for layer in state)  # type: ignore[no-untyped-call]


class _Weighted(torch.autograd.Function):
    """The identity, with a gradient that is multiplied by a number."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, weight: float) -> Tensor:
        """The same numbers."""
        ctx.weight = weight
        return part.view_as(part)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The gradient times the weight."""
        return gradients[0] * ctx.weight, None


def _uniform(*purpose: int | str) -> float:
    """A number in (0, 1) for a purpose: the same for the same arguments."""
    return ((shuffling.key(*purpose) >> 11) + 0.5) / (1 << 53)
