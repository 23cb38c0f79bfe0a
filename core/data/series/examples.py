"""Examples of a regressor: windows of a series and the values that follow them."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class Examples(NamedTuple):
    """N examples for a regressor: the last L values of I input columns, and the next K values of O target columns."""

    features_NLI: Array
    labels_NKO: Array


def columns(inputs: Sequence[str], targets: Sequence[str]) -> list[str]:
    """Returns each column name once, inputs first."""
    return list(dict.fromkeys([*inputs, *targets]))  # a column may be input and target at once


def make_examples(
    inputs_TI: Array, targets_TO: Array, lags: int, horizon: int, padding: Literal["drop", "zeros"]
) -> Examples:
    """Returns an example for each time with enough values before and after it.

    The features of time t are the inputs of t−L … t−1, its labels the targets of t … t+K−1. The first L times lack
    features: `drop` leaves them out, `zeros` pads the beginning with zeros, which are the means of scaled values.

    Source: Zhang et al., Dive into Deep Learning (2021), section 8.1 "Sequence Models".
    """
    if padding == "zeros":
        inputs_TI = np.concatenate([np.zeros((lags, inputs_TI.shape[1])), inputs_TI])
    else:
        targets_TO = targets_TO[lags:]
    # The last `horizon - 1` times have no complete labels; the windows of their features are cut off.
    count = len(targets_TO) - horizon + 1
    if count < 1:
        empty = np.zeros((0, horizon, targets_TO.shape[1]))
        return Examples(np.zeros((0, lags, inputs_TI.shape[1])), empty)
    return Examples(windows(inputs_TI, lags)[:count], windows(targets_TO, horizon))


def windows(values_TC: Array, length: int) -> Array:
    """Returns all windows of `length` consecutive times, (T − length + 1, length, C), as views."""
    return np.lib.stride_tricks.sliding_window_view(values_TC, length, axis=0).transpose(0, 2, 1)
