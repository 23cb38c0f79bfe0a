"""Which lanes a rank serves, and how a stream falls into windows."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from core import errors
from core.data.batching import shuffling

Tokens = npt.NDArray[np.int64]


class Stream(Protocol):
    """Token ids one after another; an array is one, and so is the stream of a dataset's split."""

    def __len__(self) -> int:
        """Returns how many tokens there are."""

    def __getitem__(self, where: slice, /) -> npt.NDArray[Any]:
        """Returns the ids of a range of places."""


class Backward:
    """A stream from its end to its beginning: what a model that reads backward is given as a stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __len__(self) -> int:
        """Returns how many tokens there are."""
        return len(self._stream)

    def __getitem__(self, where: slice, /) -> npt.NDArray[Any]:
        """Returns the ids of a range of places, counted from the end of the stream; a copy."""
        size = len(self._stream)
        start, stop, step = where.indices(size)
        assert step == 1, "a stream is read token by token"
        return np.ascontiguousarray(self._stream[size - max(start, stop) : size - start][::-1])


class Window(NamedTuple):
    """The next T tokens of some lanes, and what follows each of them.

    `num_targets` counts those of all lanes, whoever serves them: the loss of a step is divided by it. `stop` is
    how many tokens of each lane have been served with this window: the `start` of what comes after it.
    """

    inputs_BT: Tokens
    targets_BT: Tokens
    num_targets: int
    stop: int


def lanes_of_rank(rank: int, world_size: int, num_lanes: int) -> range:
    """Shares lanes out evenly: sizes differ by at most one, in rank order.

    Raises:
        UsageError: there are more ranks than lanes, so that one would have nothing to do.
    """
    if world_size > num_lanes:
        raise errors.UsageError(
            f"training.num_lanes: {num_lanes} lanes cannot feed {world_size} workers; "
            f"use at least {world_size} lanes or fewer workers"
        )
    return range(rank * num_lanes // world_size, (rank + 1) * num_lanes // world_size)


def epoch_offset(seed: int, epoch: int, window: int) -> int:
    """Draws where an epoch begins, in [0, window), so that window borders fall elsewhere each time."""
    return shuffling.key("epoch offset", seed, epoch) % window


def lane_length(num_tokens: int, num_lanes: int, offset: int = 0) -> int:
    """Returns the targets that each lane has when a stream of `num_tokens` is read from `offset` on.

    Raises:
        DataError: the stream is too short to give each lane one.
    """
    length = (num_tokens - offset - 1) // num_lanes
    if length < 1:
        raise errors.DataError(
            f"training.num_lanes: a stream of {num_tokens} tokens, read from token {offset} on, does not fill "
            f"{num_lanes} lanes; use fewer lanes, a smaller window or more text"
        )
    return length


def left_out(num_tokens: int, num_lanes: int, offset: int) -> int:
    """Counts the targets that a sequential epoch does not serve: those up to `offset`, and the remainder."""
    return num_tokens - 1 - num_lanes * lane_length(num_tokens, num_lanes, offset)


def windows(stream: Stream, num_lanes: int, lanes: range, window: int, offset: int, start: int = 0) -> Iterator[Window]:
    """Yields the windows of the given lanes, in order, from token `start` of each lane; the last may be short.

    The stream from `offset` on is cut into `num_lanes` lanes of equal length; up to `num_lanes - 1` tokens
    at its end, and those before `offset`, are not served in this epoch. Only a window is in memory at a time.

    Source: sequential partitioning, document 000 section 8.3.4.2.

    Raises:
        DataError: the stream is shorter than a token and a target for each lane.
    """
    return variable_windows(stream, num_lanes, lanes, lambda _: window, offset, start)


def variable_windows(
    stream: Stream, num_lanes: int, lanes: range, size_at: Callable[[int], int], offset: int, start: int = 0
) -> Iterator[Window]:
    """Does what `windows` does, with a window of `size_at(begin)` tokens where one begins at token `begin`.

    Raises:
        DataError: the stream is shorter than a token and a target for each lane.
    """
    length = lane_length(len(stream), num_lanes, offset)
    begin = start
    while begin < length:
        stop = min(begin + size_at(begin), length)
        firsts = [offset + lane * length + begin for lane in lanes]
        yield _window(stream, firsts, stop - begin, num_targets=num_lanes * (stop - begin), stop=stop)
        begin = stop


def random_windows(
    stream: Stream, num_lanes: int, lanes: range, window: int, seed: int, epoch: int, start: int = 0
) -> Iterator[Window]:
    """Yields windows from all over the stream in random order, `num_lanes` to a batch, each token at most once.

    Two windows that follow each other in a lane have nothing to do with each other: state must not be carried.
    The last batch may have fewer than `num_lanes` rows, so that a rank may get none of it. `start` counts as in
    `windows`: a multiple of `window`.

    Source: random sampling, document 000 section 8.3.4.1 (which drops the short batch).

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
        chosen = shuffling.permuted(num_windows, order, first_row, first_row + rows)
        firsts = [offset + window * int(chosen[lane]) for lane in lanes if lane < rows]
        yield _window(stream, firsts, window, num_targets=rows * window, stop=begin + window)


def _window(stream: Stream, firsts: list[int], length: int, num_targets: int, stop: int) -> Window:
    tokens_BT = np.empty((len(firsts), length + 1), dtype=np.int64)
    for row, first in enumerate(firsts):
        tokens_BT[row] = stream[first : first + length + 1]
    return Window(tokens_BT[:, :-1], tokens_BT[:, 1:], num_targets, stop)
