"""Lanes and windows: batches of a token stream for truncated backpropagation through time.

The stream is cut into `num_lanes` lanes of equal length, the rows of a batch. A window is the next T tokens of every
lane; each lane's hidden state is carried from window to window. The number of lanes does not depend on the number of
ranks, of which each serves some lanes: so neither does the order of the data.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from core import errors
from core.data.batching import shuffling

Tokens = npt.NDArray[np.int64]


class Stream(Protocol):
    """A sequence of token ids: an array, or the stream of a dataset's split."""

    def __len__(self) -> int:
        """Returns the number of tokens."""

    def __getitem__(self, index: slice, /) -> npt.NDArray[Any]:
        """Returns the ids of a range of positions."""


class ReversedStream:
    """A stream read from its end to its beginning, for backward language models."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __len__(self) -> int:
        """Returns the number of tokens."""
        return len(self._stream)

    def __getitem__(self, index: slice, /) -> npt.NDArray[Any]:
        """Returns a copy of the ids of a range of positions, counted from the end of the stream."""
        size = len(self._stream)
        start, stop, step = index.indices(size)
        assert step == 1, "streams have no steps"  # resumes and windows read ranges alone
        # A copy, because torch.from_numpy refuses negative strides; max, because a range may be empty (stop < start).
        return np.ascontiguousarray(self._stream[size - max(start, stop) : size - start][::-1])


class Window(NamedTuple):
    """The next T tokens of some lanes, and as targets the token that follows each of them.

    The inputs may begin with tokens before the window, whose targets are not among the targets. `num_targets` counts
    the targets of all lanes on all ranks: the loss of a step is divided by it. `stop` is the number of tokens of each
    lane served up to the end of this window, the `start` of a resume after it.
    """

    inputs_BT: Tokens
    targets_BT: Tokens
    num_targets: int
    stop: int


def lanes_of_rank(rank: int, world_size: int, num_lanes: int) -> range:
    """Returns the lanes that a rank serves: consecutive ones, evenly shared, so that counts differ by at most one.

    Raises:
        UsageError: there are more ranks than lanes, so that some would have none.
    """
    if world_size > num_lanes:
        raise errors.UsageError(
            f"training.num_lanes: {num_lanes} lanes cannot feed {world_size} workers; "
            f"use at least {world_size} lanes or fewer workers"
        )
    # Floors of consecutive multiples: the stop of a rank is the start of the next, and the last stop is `num_lanes`.
    return range(rank * num_lanes // world_size, (rank + 1) * num_lanes // world_size)


def epoch_offset(seed: int, epoch: int, window: int) -> int:
    """Returns a random start of an epoch in [0, window), so that windows begin at other tokens in each epoch."""
    # A hash instead of a generator: a resume in any epoch needs no draws of the epochs before it.
    return shuffling.key("epoch offset", seed, epoch) % window


def lane_length(num_tokens: int, num_lanes: int, offset: int = 0) -> int:
    """Returns the number of targets of each lane when a stream of `num_tokens` is read from `offset` on.

    Raises:
        DataError: the stream is too short for one target in each lane.
    """
    # Less one, since the last token of the stream is only a target.
    length = (num_tokens - offset - 1) // num_lanes
    if length < 1:
        raise errors.DataError(
            f"training.num_lanes: a stream of {num_tokens} tokens, read from token {offset} on, does not fill "
            f"{num_lanes} lanes; use fewer lanes, a smaller window or more text"
        )
    return length


def count_skipped(num_tokens: int, num_lanes: int, offset: int) -> int:
    """Counts the targets that a sequential epoch does not serve: those up to `offset`, and the remainder at the end."""
    return num_tokens - 1 - num_lanes * lane_length(num_tokens, num_lanes, offset)


def windows(stream: Stream, num_lanes: int, lanes: range, window: int, offset: int, start: int = 0) -> Iterator[Window]:
    """Yields the windows of the given lanes, in order, from token `start` of each lane; the last may be short.

    The stream from `offset` on is cut into `num_lanes` lanes of equal length; up to `num_lanes - 1` tokens at its end,
    and those before `offset`, are not served in this epoch. Only one window is in memory at a time.

    Source: Zhang et al., Dive into Deep Learning (2021), section 8.3 "Language Models and the Dataset" (sequential
    partitioning, which drops the short window).

    Raises:
        DataError: the stream is shorter than a token and a target for each lane.
    """
    return variable_windows(stream, num_lanes, lanes, lambda _: window, offset, start)


def variable_windows(
    stream: Stream,
    num_lanes: int,
    lanes: range,
    size_at: Callable[[int], int],
    offset: int,
    start: int = 0,
    num_before_at: Callable[[int], int] = lambda _: 0,
) -> Iterator[Window]:
    """Yields windows as `windows` does, with `size_at(begin)` tokens in the window that begins at token `begin`.

    The inputs also have the `num_before_at(begin)` tokens before it, at most `begin`.

    Raises:
        DataError: the stream is shorter than a token and a target for each lane.
    """
    length = lane_length(len(stream), num_lanes, offset)
    begin = start
    while begin < length:
        stop = min(begin + size_at(begin), length)
        # By the number of the lane among all: a rank reads the same tokens for a lane, however many ranks there are.
        starts = [offset + lane * length + begin for lane in lanes]
        # Targets of all lanes, not only of this rank's: every rank divides its loss by the same number.
        num_before = num_before_at(begin)
        yield _window(stream, starts, stop - begin, num_lanes * (stop - begin), stop, num_before)
        begin = stop


def random_windows(
    stream: Stream, num_lanes: int, lanes: range, window: int, seed: int, epoch: int, start: int = 0
) -> Iterator[Window]:
    """Yields windows of the whole stream in random order, `num_lanes` in a batch, each token at most once.

    Consecutive windows of a lane are not adjacent in the stream, so hidden state must not be carried between them. The
    last batch may have fewer than `num_lanes` rows, so that a rank may get none. `start` counts tokens as in `windows`,
    a multiple of `window`.

    Source: Zhang et al., Dive into Deep Learning (2021), section 8.3 (random sampling, which drops the short batch).

    Raises:
        DataError: the stream is shorter than a window and its last target.
    """
    offset = epoch_offset(seed, epoch, window)
    num_windows = (len(stream) - 1 - offset) // window
    if num_windows < 1:
        raise errors.DataError(
            f"training.window: a stream of {len(stream)} tokens has no window of {window}; use a smaller window"
        )
    order = shuffling.key("random windows", seed, epoch)
    for begin in range(start, -(-num_windows // num_lanes) * window, window):
        first_row = begin // window * num_lanes
        rows = min(num_lanes, num_windows - first_row)
        # Only this batch's part of the permutation: a resume in the middle of an epoch computes nothing before it.
        chosen = shuffling.permuted(num_windows, order, first_row, first_row + rows)
        # The lane is the row in the batch of all ranks, so the batch does not depend on their number.
        starts = [offset + window * int(chosen[lane]) for lane in lanes if lane < rows]
        yield _window(stream, starts, window, num_targets=rows * window, stop=begin + window, num_before=0)


def _window(stream: Stream, starts: list[int], length: int, num_targets: int, stop: int, num_before: int) -> Window:
    """Returns the window of rows that begin at `starts`; inputs and targets are views of one array, a token apart."""
    # int64, the type of indices in torch; the stream itself is uint16 or uint32.
    tokens_BT = np.empty((len(starts), num_before + length + 1), dtype=np.int64)
    for row, start in enumerate(starts):
        tokens_BT[row] = stream[start - num_before : start + length + 1]
    return Window(tokens_BT[:, :-1], tokens_BT[:, num_before + 1 :], num_targets, stop)
