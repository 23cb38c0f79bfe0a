"""Overlap of held-out lines with the training split: lines whose figures flatter a model that has seen them."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from core.data.dataset import arrow_file, dataset_index, shards

MAX_TOKENS = 1 << 25
"""Tokens of a split that are examined at most, from the beginning; of larger splits the overlap is a lower bound."""
MIN_TOKENS = {"text": 20, "source": 1}
"""Shortest lines that count: in every text short lines occur again, and of characters even words do."""
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd: 2^64 divided by the golden ratio
_SHIFT = np.uint64(29)

Hashes = npt.NDArray[np.uint64]


class Overlap(NamedTuple):
    """Held-out lines that the training split has, too.

    Attributes:
        split: the held-out split.
        lines: its lines that were examined and count.
        in_training: those of them with the tokens of a training line; of pairs, on the source side.
        is_all: whether all lines of both splits were examined.
    """

    split: str
    lines: int
    in_training: int
    is_all: bool


def count(dataset: shards.Dataset, split: str) -> Overlap | None:
    """Counts the lines of a held-out split that occur in the training split; None without either.

    Raises:
        IntegrityError: a shard does not match the index.
    """
    held_out, training = dataset.split(split), dataset.split("train")
    if held_out is None or training is None:
        return None
    column = dataset_index.COLUMNS[dataset.kind][0]
    shortest = MIN_TOKENS[column]
    # Shards that begin before that token.
    starts = [part.token_starts(column)[:-1] for part in (held_out, training)]
    num_shards = [int(np.searchsorted(of_part, MAX_TOKENS)) for of_part in starts]
    hashes = np.concatenate(
        [hash_rows(held_out.shard(number).sides[column], shortest) for number in range(num_shards[0])]
    )
    seen = np.zeros(len(hashes), bool)
    for number in range(num_shards[1]):
        seen |= np.isin(hashes, hash_rows(training.shard(number).sides[column], shortest))
    return Overlap(split, len(hashes), int(seen.sum()), num_shards == list(map(len, starts)))


def hash_rows(side: arrow_file.Side, shortest: int = 1) -> Hashes:
    """Returns a hash of the ids of each row that has at least `shortest`; equal rows have equal ones.

    The sum of the mixed ids, each mixed with its position in the row: all rows of a shard at once.
    """
    lengths = np.diff(side.offsets)
    positions = np.arange(len(side.values), dtype=np.uint64)
    positions -= np.repeat(side.offsets[:-1] - side.offsets[0], lengths).astype(np.uint64)
    # Wraps around at 2^64, as a hash may.
    mixed = _mix(_mix(side.values.astype(np.uint64) + np.uint64(1)) + positions * _MULTIPLIER)
    cumulative = np.concatenate((np.zeros(1, np.uint64), np.cumsum(mixed, dtype=np.uint64)))
    starts = side.offsets - side.offsets[0]
    sums: Hashes = cumulative[starts[1:]] - cumulative[starts[:-1]]
    return sums[lengths >= shortest]


def _mix(values: Hashes) -> Hashes:
    """Returns the values with each bit depending on many of theirs."""
    values = values * _MULTIPLIER
    values = (values ^ (values >> _SHIFT)) * _MULTIPLIER
    mixed: Hashes = values ^ (values >> _SHIFT)
    return mixed
