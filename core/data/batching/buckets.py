"""How pairs are put together into batches of like length, for all ranks at once."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from core.data.batching import shuffling

RUN_LINES = 64
"""Lines that are read together: a stretch of one shard."""
SHUFFLE_LINES = 65_536
"""Lines that are in memory together, and shuffled among themselves."""
POOL_LINES = 4_096
"""Lines that are sorted by length together."""

Array = npt.NDArray[np.int64]


class Lengths(Protocol):
    """What a plan is made from: the number of tokens of each line, `<eos>` included."""

    @property
    def num_lines(self) -> int:
        """How many lines there are."""

    def lengths(self, start: int, stop: int) -> Mapping[str, npt.NDArray[np.int32]]:
        """Returns the tokens of the lines in a range, by column."""


class Rows(Protocol):
    """Where the tokens of chosen lines come from."""

    def rows(self, indices: npt.NDArray[np.int64], column: str) -> Sequence[npt.NDArray[Any]]:
        """Returns the token ids of each line."""


class Split(Lengths, Rows, Protocol):
    """A split of pairs, as planning and collation see it."""


class BatchPlan(NamedTuple):
    """The lines of one step, over all ranks; longest source first.

    `num_targets` is what the loss of the step is divided by. `fraction` of the epoch is done after it.
    """

    lines: Array
    num_targets: int
    fraction: float


class PairBatch(NamedTuple):
    """A rank's pairs, padded: what the encoder reads, what the decoder is fed, and what it should say."""

    source_BS: Array
    source_lengths_B: Array
    inputs_BT: Array
    targets_BT: Array
    target_lengths_B: Array


class _Lines(NamedTuple):
    """Lines and their lengths, side by side."""

    line: Array
    source: Array
    target: Array

    def take(self, where: Any) -> "_Lines":
        return _Lines(*(values[where] for values in self))


def plan(
    split: Lengths, seed: int, epoch: int, batch_tokens: int | None = None, batch_lines: int | None = None
) -> Iterator[BatchPlan]:
    """Yields the batches of an epoch: each line once, in an order that (seed, epoch) alone decides.

    Exactly one of `batch_tokens` (of each pair its longer side, summed) and `batch_lines` is given. A line that
    alone is over the budget is a batch of its own. Runs of lines are read in random order into a buffer that is
    shuffled, cut into pools and sorted by length there, so that memory does not grow with the corpus. What does
    not fill a batch of its pool goes on into the next one.
    """
    assert (batch_tokens is None) != (batch_lines is None)
    planned = 0
    rest = _Lines(*(np.empty(0, np.int64) for _ in _Lines._fields))
    pools = _pools(split, shuffling.key("buckets", seed, epoch))
    for number, (pool, is_last) in enumerate(pools):
        together = _Lines(*(np.concatenate(both) for both in zip(rest, pool, strict=True)))
        longer = np.maximum(together.source, together.target)
        by_length = np.lexsort((together.target, together.source, longer))  # stable: ties stay shuffled
        pool_key = shuffling.key("batches of a pool", seed, epoch, number)
        if pool_key % 2:  # else the longest lines would always be the ones left over
            by_length = by_length[::-1]
        ordered = together.take(by_length)
        borders = _cut(longer[by_length], batch_tokens, batch_lines)
        full = len(borders) - 1 if is_last else len(borders) - 2
        rest = ordered.take(slice(borders[full], None))
        for place in shuffling.permuted(full, pool_key):
            batch = ordered.take(slice(borders[place], borders[place + 1]))
            longest_first = np.lexsort((batch.line, -batch.target, -batch.source))
            planned += len(batch.line)
            yield BatchPlan(batch.line[longest_first], int(batch.target.sum()), planned / split.num_lines)


def _pools(split: Lengths, order: int) -> Iterator[tuple[_Lines, bool]]:
    """Yields shuffled pools of lines, each with whether it is the last."""
    num_runs = -(-split.num_lines // RUN_LINES)
    runs_together = SHUFFLE_LINES // RUN_LINES
    for first_run in range(0, num_runs, runs_together):
        runs = shuffling.permuted(num_runs, order, first_run, first_run + runs_together)
        buffer = _read(split, runs)
        mixed = shuffling.permuted(len(buffer.line), shuffling.key("buffer", order, first_run))
        for start in range(0, len(mixed), POOL_LINES):
            is_last = first_run + runs_together >= num_runs and start + POOL_LINES >= len(mixed)
            yield buffer.take(mixed[start : start + POOL_LINES]), is_last


def _read(split: Lengths, runs: Array) -> _Lines:
    pieces = []
    for run in runs.tolist():
        start, stop = run * RUN_LINES, min((run + 1) * RUN_LINES, split.num_lines)
        lengths = split.lengths(start, stop)
        pieces.append((np.arange(start, stop), lengths["source"], lengths["target"]))
    return _Lines(*(np.concatenate(columns, dtype=np.int64) for columns in zip(*pieces, strict=True)))


def _cut(tokens: Array, batch_tokens: int | None, batch_lines: int | None) -> list[int]:
    """Returns where batches begin, and the end: each takes as many lines as its budget has room for."""
    if batch_lines is not None:
        return [*range(0, len(tokens), batch_lines), len(tokens)]
    assert batch_tokens is not None
    sums = np.concatenate(([0], np.cumsum(tokens)))
    borders = [0]
    while borders[-1] < len(tokens):
        begin = borders[-1]
        fits = int(np.searchsorted(sums, sums[begin] + batch_tokens, side="right")) - 1
        borders.append(max(fits, begin + 1))
    return borders


def share(batch: BatchPlan, rank: int, world_size: int) -> Array:
    """Returns the lines of a batch that a rank takes: every `world_size`-th, so that lengths are spread evenly.

    It may be empty: the rank then adds nothing to the step, but takes part in it.
    """
    return batch.lines[rank::world_size]


def collate(split: Rows, lines: Array, pad_id: int, bos_id: int) -> PairBatch:
    """Fetches and pads pairs. The decoder is fed `<bos>` and the target less its last token.

    Without lines every array has 0 rows.
    """
    source_BS, source_lengths_B = _pad(split.rows(lines, "source"), pad_id)
    targets_BT, target_lengths_B = _pad(split.rows(lines, "target"), pad_id)
    inputs_BT = np.full_like(targets_BT, pad_id)
    if inputs_BT.size:
        inputs_BT[:, 0] = bos_id
        fed = np.arange(1, targets_BT.shape[1]) < target_lengths_B[:, None]
        inputs_BT[:, 1:][fed] = targets_BT[:, :-1][fed]
    return PairBatch(source_BS, source_lengths_B, inputs_BT, targets_BT, target_lengths_B)


def _pad(rows: Sequence[npt.NDArray[Any]], pad_id: int) -> tuple[Array, Array]:
    lengths_B = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    padded = np.full((len(rows), int(lengths_B.max(initial=0))), pad_id, dtype=np.int64)
    if rows:
        padded[np.arange(padded.shape[1]) < lengths_B[:, None]] = np.concatenate(rows)
    return padded, lengths_B
