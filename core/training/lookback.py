"""Truncation that looks back the same number of steps from every loss, TBPTT(1, τ).

The loss at step t is that of a network that starts from the detached state h_{t−τ} and runs τ steps: its gradient
reaches exactly τ steps back, across the border of windows too, or as far as the lane goes. With fixed windows it
reaches between one step and a whole window, by the place of t in it.

All look-backs of a window are one call of the recurrent layers, over B · T rows of τ steps, so that the layers cost
about τ times as much as with fixed windows, in time and in memory. The output layer costs the same.

Source: Williams and Peng 1990, An Efficient Gradient-Based Algorithm for On-Line Training of Recurrent Network
Trajectories, BPTT(h); Jaeger 2002, A tutorial on training recurrent neural networks, section 2.2; Sutskever 2013,
Training Recurrent Neural Networks, section 2.8.6 (TBPTT with k1 and k2); Zhang et al., Dive into Deep Learning (2021),
section 8.7.1.2 "Truncating Time Steps".
"""

from typing import NamedTuple

import torch
from torch import Tensor

from core.models import recurrent_stack
from core.models import state as states


class Lookback(NamedTuple):
    """Tokens that a window reads before its own, and how far its losses look back.

    Attributes:
        steps: τ, steps back from every loss.
        num_before: tokens before the window's first: τ − 1, or fewer near the beginning of a lane.
        begins_lane: whether nothing of the lane comes before those tokens.
    """

    steps: int
    num_before: int
    begins_lane: bool


def num_before(steps: int, begin: int) -> int:
    """Returns the number of tokens that a window reads before its first one, at token `begin` of its lane."""
    return min(steps - 1, begin)


class Looked(NamedTuple):
    """Outputs of a window, each with a gradient of τ steps, and the state from which the next window looks back."""

    y_BTH: Tensor
    state: states.State


def run(stack: recurrent_stack.Stack, x_BNE: Tensor, state: states.State, steps: int, num_before: int) -> Looked:
    """Runs the layers over a window with the tokens before it.

    Dropout masks that are drawn once for a window are the same in all look-backs; without locked dropout, that between
    layers is drawn anew for each step of each look-back.

    Args:
        stack: recurrent layers.
        x_BNE: inputs of N tokens: those before the window, then its T.
        state: before the first of them.
        steps: τ.
        num_before: tokens before the window.

    Returns:
        The outputs of the T tokens, and the state, without history, that comes before the first token of the next
        window's look-back.
    """
    num_rows, num_tokens = x_BNE.shape[:2]
    dropout = stack.draw_dropout(num_rows)
    # Losses up to the τ-th token reach back to the state before: one pass without a cut. It comes first, because under
    # autocast a weight that is first cast without gradients would stay without them.
    y_BTH, _ = stack(x_BNE[:, :steps], state, dropout)
    outputs = [y_BTH[:, num_before:]]
    before = [states.detach(state)]
    with torch.no_grad():
        for x_BE in x_BNE[:, : max(0, num_tokens - steps + 1)].unbind(dim=1):
            before.append(stack.step(stack.project(x_BE), before[-1], dropout)[1])
    # Of the states after 0, 1, … tokens the last one is where the next window begins to look back.
    *_, after = before
    num_looks = num_tokens - steps
    if num_looks > 0:
        # Row b · num_looks + i looks back from token steps + i, that is, from the state after i + 1 tokens.
        x_RSE = x_BNE[:, 1:].unfold(1, steps, 1).transpose(2, 3).flatten(0, 1)
        parts = [
            [torch.stack(parts, dim=1).flatten(0, 1) for parts in zip(*layer, strict=True)]
            for layer in zip(*before[1 : num_looks + 1], strict=True)
        ]
        masks = [
            None if mask_BE is None else mask_BE.repeat_interleave(num_looks, dim=0) for mask_BE in dropout.input_masks
        ]
        y_RSH, _ = stack(x_RSE, tuple(map(tuple, parts)), dropout._replace(input_masks=tuple(masks)))
        outputs.append(y_RSH[:, -1].view(num_rows, num_looks, -1))
    return Looked(torch.cat(outputs, dim=1), after)
