"""How often each run of N tokens occurs in a stream: counted part by part, kept as sorted Arrow tables, merged.

Only runs of the full length are kept. A shorter one begins some of them, and its count is the sum of theirs; so that
this holds to the last token, the runs that the end of the stream cuts short are filled up with an id of their own.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from core import errors

Array = npt.NDArray[np.int64]


class Ids(Protocol):
    """Token ids that can be sliced, such as `shards.Stream`."""

    def __len__(self) -> int: ...

    def __getitem__(self, where: slice, /) -> npt.NDArray[np.integer]: ...


class Counts(NamedTuple):
    """Distinct runs of N tokens, in lexicographic order of their ids, and how often each occurs (R of them)."""

    runs_RN: Array
    counts_R: Array


def count(stream: Ids, start: int, stop: int, order: int, end: int) -> Counts:
    """Counts the runs of `order` tokens that begin at `start` up to `stop`, wherever they end.

    `end` fills up what the end of the stream cuts short; it is greater than every id.
    """
    tokens = np.full(stop - start + order - 1, end, dtype=np.int64)
    found = stream[start : min(stop + order - 1, len(stream))]
    tokens[: len(found)] = found
    return _sorted(np.lib.stride_tricks.sliding_window_view(tokens, order), np.ones(stop - start, np.int64), end)


def merge(pieces: Sequence[Counts], end: int) -> Counts:
    """Adds up the counts of several parts."""
    if len(pieces) == 1:
        return pieces[0]
    runs = np.concatenate([piece.runs_RN for piece in pieces])
    return _sorted(runs, np.concatenate([piece.counts_R for piece in pieces]), end)


def _sorted(runs_RN: Array, counts_R: Array, end: int) -> Counts:
    """Sorts runs and adds up the counts of equal ones."""
    order_R = np.lexsort(_packed(runs_RN, end)[::-1])
    runs_RN, counts_R = runs_RN[order_R], counts_R[order_R]
    is_new_R = np.ones(len(runs_RN), dtype=bool)
    is_new_R[1:] = (runs_RN[1:] != runs_RN[:-1]).any(axis=1)
    starts = np.flatnonzero(is_new_R)
    return Counts(runs_RN[starts], np.add.reduceat(counts_R, starts) if len(starts) else counts_R)


def _packed(runs_RN: Array, end: int) -> list[Array]:
    """Puts as many neighbouring ids as fit into one number each: fewer keys to sort by, in the same order."""
    bits = max(1, end.bit_length())
    keys = []
    for first in range(0, runs_RN.shape[1], 63 // bits):
        key = np.zeros(len(runs_RN), dtype=np.int64)
        for column in range(first, min(first + 63 // bits, runs_RN.shape[1])):
            key = (key << bits) | runs_RN[:, column]
        keys.append(key)
    return keys


def encode(counts: Counts) -> bytes:
    """Writes counts as an Arrow file; equal counts give equal bytes."""
    order = counts.runs_RN.shape[1]
    flat = pa.array(counts.runs_RN.astype(np.uint32).reshape(-1))
    batch = pa.record_batch(
        [pa.FixedSizeListArray.from_arrays(flat, order), pa.array(counts.counts_R)], names=["ngram", "count"]
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def decode(data: bytes, order: int, where: str) -> Counts:
    """Reads what `encode` wrote.

    Raises:
        IntegrityError: the bytes are something else.
    """
    try:
        table = pa.ipc.open_file(data).read_all()
        if not table.schema.field("ngram").type.equals(pa.list_(pa.uint32(), order)):
            raise errors.IntegrityError(f"{where}: does not count runs of {order} tokens; remove it and train again")
        flat = table["ngram"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        counts_R = table["count"].combine_chunks().to_numpy(zero_copy_only=False)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise errors.IntegrityError(f"{where}: cannot be read ({error}); remove it and train again") from error
    return Counts(flat.astype(np.int64).reshape(-1, order), counts_R.astype(np.int64))
