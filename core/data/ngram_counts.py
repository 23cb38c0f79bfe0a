"""N-gram counts of a token stream: counted part by part, stored as sorted Arrow tables, and merged.

Only n-grams of the full order are stored. The count of a shorter one is the sum over those that begin with it. For this
to hold up to the last token, n-grams that reach beyond the end of the stream are padded with an id of their own.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from core import errors
from core.data.batching import lanes

Array = npt.NDArray[np.int64]


class Counts(NamedTuple):
    """R distinct n-grams of N tokens, in lexicographic order of their ids, and the number of occurrences of each."""

    ngrams_RN: Array
    counts_R: Array


def count(stream: lanes.Stream, start: int, stop: int, order: int, end: int) -> Counts:
    """Counts the n-grams of `order` tokens that begin at positions [start, stop), wherever they end.

    Args:
        stream: the token ids.
        start: the first position.
        stop: the position after the last.
        order: tokens of an n-gram.
        end: id that pads n-grams beyond the end of the stream; greater than every token id.
    """
    # The last n-grams reach `order - 1` tokens beyond `stop`: into the next part, or into padding at the end.
    tokens = np.full(stop - start + order - 1, end, dtype=np.int64)
    ids = stream[start : min(stop + order - 1, len(stream))]
    tokens[: len(ids)] = ids
    return _aggregate(np.lib.stride_tricks.sliding_window_view(tokens, order), np.ones(stop - start, np.int64), end)


def merge(parts: Sequence[Counts], end: int) -> Counts:
    """Sums the counts of several parts."""
    if len(parts) == 1:
        return parts[0]
    ngrams_RN = np.concatenate([part.ngrams_RN for part in parts])
    return _aggregate(ngrams_RN, np.concatenate([part.counts_R for part in parts]), end)


def _aggregate(ngrams_RN: Array, counts_R: Array, end: int) -> Counts:
    """Sorts n-grams and sums the counts of equal ones."""
    order_R = np.lexsort(_pack(ngrams_RN, end)[::-1])  # lexsort's last key is its primary one
    ngrams_RN, counts_R = ngrams_RN[order_R], counts_R[order_R]
    is_new_R = np.ones(len(ngrams_RN), dtype=bool)
    # Sorted rows: an n-gram is new where it differs from the row before.
    is_new_R[1:] = (ngrams_RN[1:] != ngrams_RN[:-1]).any(axis=1)
    starts = np.flatnonzero(is_new_R)
    return Counts(ngrams_RN[starts], np.add.reduceat(counts_R, starts) if len(starts) else counts_R)


def _pack(ngrams_RN: Array, end: int) -> list[Array]:
    """Packs as many neighbouring ids as fit into one 63-bit integer: fewer sort keys, in the same order."""
    bits = max(1, end.bit_length())
    keys = []
    # 63 bits: with the sign bit, keys would be negative and sort before the others.
    for first in range(0, ngrams_RN.shape[1], 63 // bits):
        key = np.zeros(len(ngrams_RN), dtype=np.int64)
        for column in range(first, min(first + 63 // bits, ngrams_RN.shape[1])):
            key = (key << bits) | ngrams_RN[:, column]
        keys.append(key)
    return keys


def encode(counts: Counts) -> bytes:
    """Encodes counts as an Arrow file; equal counts give equal bytes."""
    order = counts.ngrams_RN.shape[1]
    # Half the bytes of the int64 that packing needs; ids fit, the padding id included.
    flat = pa.array(counts.ngrams_RN.astype(np.uint32).reshape(-1))
    batch = pa.record_batch(
        [pa.FixedSizeListArray.from_arrays(flat, order), pa.array(counts.counts_R)], names=["ngram", "count"]
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def decode(data: bytes, order: int, where: str) -> Counts:
    """Decodes the bytes of `encode`.

    Raises:
        IntegrityError: the bytes are damaged, or have another order.
    """
    try:
        table = pa.ipc.open_file(data).read_all()
        if not table.schema.field("ngram").type.equals(pa.list_(pa.uint32(), order)):
            raise errors.IntegrityError(
                f"{where}: does not contain n-grams of order {order}; remove it and train again"
            )
        flat = table["ngram"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        counts_R = table["count"].combine_chunks().to_numpy(zero_copy_only=False)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise errors.IntegrityError(f"{where}: cannot be read ({error}); remove it and train again") from error
    return Counts(flat.astype(np.int64).reshape(-1, order), counts_R.astype(np.int64))
