"""Length bucketing: batches of sentence pairs of similar length, planned for all ranks at once.

Pairs are shuffled, a window of a million at a time, sorted by length within pools, and cut into batches of at most
`batch_tokens` tokens or `batch_lines` lines; the order of the batches is shuffled too. A plan depends on the seed and
the epoch alone, not on the number of ranks, and is computed as it is used: memory does not grow with the corpus.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt

from core.data.batching import shuffling

RUN_LINES = 64
"""Consecutive lines that are read at once; runs are read in random order."""
SHUFFLE_LINES = 65_536
"""Lines of the shuffle buffer, in memory at once."""
WINDOW_LINES = 1 << 20
"""Lines that are shuffled together, if there are more: a rank needs the shards of a window alone."""
BLOCK_LINES = 65_536
"""Consecutive lines that are in one window; blocks come in random order."""
POOL_LINES = 4_096
"""Lines that are sorted by length together: more of them give less padding, fewer give more random batches."""

Array = npt.NDArray[np.int64]


class Lengths(Protocol):
    """Source of the number of tokens of each line, `<eos>` included, from which batches are planned."""

    @property
    def num_lines(self) -> int:
        """Number of lines."""

    def lengths(self, start: int, stop: int) -> Mapping[str, npt.NDArray[np.int32]]:
        """Returns the number of tokens of each line in a range, by column."""


class Rows(Protocol):
    """Source of the tokens of lines."""

    def rows(self, indices: npt.NDArray[np.int64], column: str) -> Sequence[npt.NDArray[Any]]:
        """Returns the token ids of each line."""


class Split(Lengths, Rows, Protocol):
    """A split of pairs, as planning and collation need it."""


class PoolStart(NamedTuple):
    """The state of planning before a pool, from which an epoch is planned on without the pools before.

    Attributes:
        pool: number of the pool in the epoch.
        num_batches: batches of the pools before it.
        num_lines: lines of these batches.
        carried: lines of the pools before it that are in none of these batches.
    """

    pool: int = 0
    num_batches: int = 0
    num_lines: int = 0
    carried: tuple[int, ...] = ()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Reads `_asdict` from JSON."""
        lines = tuple(map(int, value["carried"]))
        return cls(int(value["pool"]), int(value["num_batches"]), int(value["num_lines"]), lines)


BEGINNING = PoolStart()
"""The state before the first pool of an epoch."""


class BatchPlan(NamedTuple):
    """The lines of one step over all ranks, longest source first.

    `num_targets` is the number of target tokens, by which the loss of the step is divided; `fraction` is the share of
    the epoch that is done after the step; `start` is the state of planning before the pool of the batch.
    """

    lines: Array
    num_targets: int
    fraction: float
    start: PoolStart


class PairBatch(NamedTuple):
    """The padded pairs of one rank: source, decoder inputs (`<bos>` and the target less its last token) and targets."""

    source_BS: Array
    source_lengths_B: Array
    inputs_BT: Array
    targets_BT: Array
    target_lengths_B: Array


class _Lines(NamedTuple):
    """Columns of line numbers and lengths."""

    line: Array
    source: Array
    target: Array

    def take(self, rows: Any) -> "_Lines":
        return _Lines(*(values[rows] for values in self))


def plan(
    split: Lengths,
    seed: int,
    epoch: int,
    batch_tokens: int | None = None,
    batch_lines: int | None = None,
    start: PoolStart = BEGINNING,
) -> Iterator[BatchPlan]:
    """Yields the batches of an epoch: each line once, in an order that depends on (seed, epoch) alone.

    Exactly one of `batch_tokens` (the sum of the longer sides of all pairs) and `batch_lines` is given. A line that
    alone exceeds the budget is a batch of its own. Runs of lines are read in random order into a shuffle buffer, which
    is divided into pools that are sorted by length. Lines that do not fill the last batch of a pool move to the next
    pool. With `start` of an earlier plan of the epoch, the batches from that pool on.
    """
    assert (batch_tokens is None) != (batch_lines is None)
    num_batches_before, planned = start.num_batches, start.num_lines
    # Lines carried from pool to pool: without them every pool would end in a batch that is not full.
    remainder = _read(split, [range(line, line + 1) for line in start.carried])
    pools = _pools(split, shuffling.key("buckets", seed, epoch), start.pool)
    for number, (pool, is_last) in enumerate(pools, start.pool):
        start = PoolStart(number, num_batches_before, planned, tuple(remainder.line.tolist()))
        together = _Lines(*(np.concatenate(both) for both in zip(remainder, pool, strict=True)))
        longer = np.maximum(together.source, together.target)
        by_length = np.lexsort((together.target, together.source, longer))  # stable: ties stay shuffled
        pool_key = shuffling.key("batches of a pool", seed, epoch, number)
        # Every other pool, at random, descends: else the longest lines would always be those that move on.
        if pool_key % 2:
            by_length = by_length[::-1]
        ordered = together.take(by_length)
        borders = _batch_borders(longer[by_length], batch_tokens, batch_lines)
        # All but the last batch, which may not be full, except in the last pool.
        num_batches = len(borders) - 1 if is_last else len(borders) - 2
        num_batches_before += num_batches
        remainder = ordered.take(slice(borders[num_batches], None))
        for index in shuffling.permuted(num_batches, pool_key):
            batch = ordered.take(slice(borders[index], borders[index + 1]))
            # Ranks take every n-th line of this order: all get lines of all lengths.
            longest_first = np.lexsort((batch.line, -batch.target, -batch.source))
            planned += len(batch.line)
            yield BatchPlan(batch.line[longest_first], int(batch.target.sum()), planned / split.num_lines, start)


def _pools(split: Lengths, order: int, first_pool: int) -> Iterator[tuple[_Lines, bool]]:
    """Yields shuffled pools of lines from a number on, each with True if it is the last."""
    num_runs = -(-split.num_lines // RUN_LINES)
    runs_in_buffer = SHUFFLE_LINES // RUN_LINES
    first_buffer, first_in_buffer = divmod(first_pool, -(-SHUFFLE_LINES // POOL_LINES))
    for first_run in range(first_buffer * runs_in_buffer, num_runs, runs_in_buffer):
        # Runs, because reading single lines at random would touch a page of the file for each.
        runs = _runs(num_runs, order, first_run, first_run + runs_in_buffer).tolist()
        buffer = _read(split, [range(run * RUN_LINES, min((run + 1) * RUN_LINES, split.num_lines)) for run in runs])
        shuffled = shuffling.permuted(len(buffer.line), shuffling.key("buffer", order, first_run))
        for start in range(first_in_buffer * POOL_LINES, len(shuffled), POOL_LINES):
            # The last pool of the last buffer: what remains after it would be lost.
            is_last = first_run + runs_in_buffer >= num_runs and start + POOL_LINES >= len(shuffled)
            yield buffer.take(shuffled[start : start + POOL_LINES]), is_last
        first_in_buffer = 0


def _runs(num_runs: int, order: int, start: int, stop: int) -> Array:
    """Returns the runs at positions `start` … `stop` - 1 of an epoch, all of one window."""
    runs_in_window, runs_in_block = WINDOW_LINES // RUN_LINES, BLOCK_LINES // RUN_LINES
    if num_runs <= runs_in_window:
        return shuffling.permuted(num_runs, order, start, stop)
    window = start // runs_in_window
    blocks_in_window, num_blocks = runs_in_window // runs_in_block, num_runs // runs_in_block
    first_block, last_block = window * blocks_in_window, (window + 1) * blocks_in_window
    blocks = shuffling.permuted(num_blocks, shuffling.key("blocks", order), first_block, last_block)
    runs = (blocks[:, None] * runs_in_block + np.arange(runs_in_block)).reshape(-1)
    if last_block > num_blocks:  # what remains is less than a block, and in the last window
        runs = np.concatenate((runs, np.arange(num_blocks * runs_in_block, num_runs)))
    first = window * runs_in_window
    return runs[shuffling.permuted(len(runs), shuffling.key("window", order, window), start - first, stop - first)]


def _read(split: Lengths, ranges: Sequence[range]) -> _Lines:
    """Returns the lengths of ranges of lines."""
    columns_by_range: list[Sequence[npt.NDArray[Any]]] = [[np.empty(0, np.int64)] * len(_Lines._fields)]
    for lines in ranges:
        lengths = split.lengths(lines.start, lines.stop)
        columns_by_range.append([np.arange(lines.start, lines.stop), lengths["source"], lengths["target"]])
    return _Lines(*(np.concatenate(columns, dtype=np.int64) for columns in zip(*columns_by_range, strict=True)))


def _batch_borders(tokens: Array, batch_tokens: int | None, batch_lines: int | None) -> list[int]:
    """Returns the index of the first line of each batch, and the end; batches are as large as the budget allows."""
    if batch_lines is not None:
        return [*range(0, len(tokens), batch_lines), len(tokens)]
    assert batch_tokens is not None
    sums = np.concatenate(([0], np.cumsum(tokens)))
    borders = [0]
    while borders[-1] < len(tokens):
        start = borders[-1]
        # The last border up to which the sum is within the budget.
        stop = int(np.searchsorted(sums, sums[start] + batch_tokens, side="right")) - 1
        borders.append(max(stop, start + 1))  # a line over the budget is a batch of its own
    return borders


def share(batch: BatchPlan, rank: int, world_size: int) -> Array:
    """Returns a rank's lines of a batch: every `world_size`-th, so that all ranks have similar lengths.

    They may be none: the rank then takes part in the step with a loss of 0.
    """
    return batch.lines[rank::world_size]


def collate(split: Rows, lines: Array, pad_id: int, bos_id: int) -> PairBatch:
    """Returns padded pairs, with decoder inputs for teacher forcing: `<bos>` and the target less its last token.

    Without lines every array has 0 rows.
    """
    source_BS, source_lengths_B = _pad(split.rows(lines, "source"), pad_id)
    targets_BT, target_lengths_B = _pad(split.rows(lines, "target"), pad_id)
    inputs_BT = np.full_like(targets_BT, pad_id)
    if inputs_BT.size:
        inputs_BT[:, 0] = bos_id
        # Position t of the input is token t - 1 of the target, so the last token, `<eos>`, is never an input.
        is_valid = np.arange(1, targets_BT.shape[1]) < target_lengths_B[:, None]
        inputs_BT[:, 1:][is_valid] = targets_BT[:, :-1][is_valid]
    return PairBatch(source_BS, source_lengths_B, inputs_BT, targets_BT, target_lengths_B)


def _pad(rows: Sequence[npt.NDArray[Any]], pad_id: int) -> tuple[Array, Array]:
    """Returns rows as one array, padded to the longest, and their lengths."""
    lengths_B = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    padded = np.full((len(rows), int(lengths_B.max(initial=0))), pad_id, dtype=np.int64)
    if rows:
        # A mask selects in row-major order, which is the order of the concatenated rows: one copy, no loop.
        padded[np.arange(padded.shape[1]) < lengths_B[:, None]] = np.concatenate(rows)
    return padded, lengths_B
