"""N-gram counts of a token stream: counted part by part, stored as sorted Arrow tables, and merged.

Only n-grams of the full order are stored. The count of a shorter one is the sum over those that begin with it. For this
to hold up to the last token, n-grams that reach beyond the end of the stream are padded with an id of their own.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from core import errors
from core.data.batching import lanes

Array = npt.NDArray[np.int64]
Ids = npt.NDArray[np.uint32]


class Counts(NamedTuple):
    """R distinct n-grams of N tokens, in lexicographic order of their ids, and the number of occurrences of each."""

    ngrams_RN: Ids
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
    tokens = _padded(stream, start, stop, order, end)
    return _aggregate(np.lib.stride_tricks.sliding_window_view(tokens, order), None, end)


def _padded(stream: lanes.Stream, start: int, stop: int, order: int, end: int) -> Ids:
    """Returns the tokens of all n-grams that begin at positions [start, stop), padded beyond the end of the stream."""
    # The last n-grams reach `order - 1` tokens beyond `stop`: into the next part, or into padding at the end.
    tokens = np.full(stop - start + order - 1, end, dtype=np.uint32)
    ids = stream[start : min(stop + order - 1, len(stream))]
    tokens[: len(ids)] = ids
    return tokens


def count_lines(stream: lanes.Stream, start: int, stop: int, order: int, end: int, line_end: int) -> Counts:
    """Counts the n-grams of lines: none crosses the end of its line, and each line begins with a context of its own.

    Every line end of the stream is two things: the last token of the line before it, and the beginning of the line
    after it, which is a context and never predicted. So `line_end` is the beginning of a line where it is the first of
    several tokens of an n-gram, and the end of one everywhere else. N-grams that the end of a line cuts are padded.

    Args:
        stream: the token ids of all lines, with a line end before, between and after them; see `WholeLines`.
        start: the first position.
        stop: the position after the last; counts of adjoining ranges add up to those of the whole.
        order: tokens of an n-gram.
        end: id that pads n-grams; greater than every token id.
        line_end: id of the token between lines.
    """
    windows_RN = np.lib.stride_tricks.sliding_window_view(_padded(stream, start, stop, order, end), order)
    # The line end before the first line ends none.
    first = int(start == 0 and windows_RN[0, 0] == line_end)
    ngrams_RN = _pad_after(windows_RN[first:], line_end, end)
    if order > 1:  # an n-gram of one token has no context, so that the beginning of a line is none
        beginnings_RN = windows_RN[(windows_RN[:, 0] == line_end) & (windows_RN[:, 1] != end)]
        beginnings_RN[:, 1:] = _pad_after(beginnings_RN[:, 1:], line_end, end)
        ngrams_RN = np.concatenate([ngrams_RN, beginnings_RN])
    return _aggregate(ngrams_RN, None, end)


def _pad_after(ngrams_RN: Ids, line_end: int, end: int) -> Ids:
    """Returns a copy of n-grams, padded after the first line end of each."""
    padded_RN = ngrams_RN.copy()
    follows_RN = np.logical_or.accumulate(padded_RN[:, :-1] == line_end, axis=1)
    padded_RN[:, 1:][follows_RN] = end
    return padded_RN


class WholeLines:
    """The token stream of a text of lines, with a line end before its first line and after its last.

    A stream read forward has one after each line, one read backward before each.
    """

    def __init__(self, stream: lanes.Stream, line_end: int, backward: bool) -> None:
        self._stream, self._backward = stream, backward
        self._added = np.array([line_end])

    def __len__(self) -> int:
        """Returns the number of tokens, the added one included."""
        return len(self._stream) + 1

    def __getitem__(self, index: slice, /) -> npt.NDArray[Any]:
        """Returns a copy of the ids of a range of positions."""
        start, stop, step = index.indices(len(self))
        assert step == 1, "streams have no steps"
        size, shift = len(self._stream), 0 if self._backward else 1
        inner = self._stream[max(0, start - shift) : max(0, min(stop - shift, size))]
        before = self._added[: int(not self._backward and start == 0 and stop > 0)]
        after = self._added[: int(self._backward and start <= size < stop)]
        return np.concatenate([before, inner, after])


def merge(parts: Sequence[Counts], end: int) -> Counts:
    """Sums the counts of several parts."""
    if len(parts) == 1:
        return parts[0]
    ngrams_RN = np.concatenate([part.ngrams_RN for part in parts])
    return _aggregate(ngrams_RN, np.concatenate([part.counts_R for part in parts]), end)


def _aggregate(ngrams_RN: Ids, counts_R: Array | None, end: int) -> Counts:
    """Sorts n-grams and sums the counts of equal ones; without counts each occurs once."""
    order_R, is_new_R = _sort(ngrams_RN, end)
    starts = np.flatnonzero(is_new_R)
    # Only now, of each different n-gram one: all of them would be several times as large.
    distinct_RN = ngrams_RN[order_R[starts]]
    if counts_R is None:
        return Counts(distinct_RN, np.diff(starts, append=len(order_R)))
    return Counts(distinct_RN, np.add.reduceat(counts_R[order_R], starts) if len(starts) else counts_R)


def _sort(ngrams_RN: Ids, end: int) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Returns the lexicographic order of n-grams, and where in this order one differs from the one before.

    Some columns at a time, as many as fit into an integer with two more numbers: the rank of the columns before among
    those of all n-grams, and the index of the n-gram. Such integers are sorted several times as fast as indices.
    """
    size, order = ngrams_RN.shape
    index_bits, id_bits = size.bit_length(), max(1, end.bit_length())
    order_R, is_new_R = np.arange(size), np.zeros(size, dtype=bool)
    rank_R, rank_bits, column = np.zeros(size, dtype=np.int64), 0, 0
    while column < order:
        # 63 bits: with the sign bit, keys would be negative and sort before the others.
        num_columns = min((63 - index_bits - rank_bits) // id_bits, order - column)
        key_R = rank_R
        for ids_R in ngrams_RN.T[column : column + max(1, num_columns)]:
            key_R = (key_R << id_bits) | ids_R
        if num_columns > 0:
            key_R = (key_R << index_bits) | np.arange(size)
            key_R.sort()
            order_R = key_R & ((1 << index_bits) - 1)
            key_R >>= index_bits
        else:  # more n-grams of a larger vocabulary than leave room for the index
            order_R = np.argsort(key_R)
            key_R = key_R[order_R]
        is_new_R = np.diff(key_R, prepend=-1) != 0
        column += max(1, num_columns)
        rank_R = np.empty(size, dtype=np.int64)
        rank_R[order_R] = np.cumsum(is_new_R)
        rank_bits = int(rank_R.max(initial=0)).bit_length()
    return order_R, is_new_R


def encode(counts: Counts) -> bytes:
    """Encodes counts as an Arrow file; equal counts give equal bytes."""
    order = counts.ngrams_RN.shape[1]
    flat = pa.array(counts.ngrams_RN.reshape(-1))
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
        table.validate(full=True)  # a length that leaves its buffer would read foreign memory
        kinds = (table.schema.field("ngram").type, table.schema.field("count").type)
        if kinds != (pa.list_(pa.uint32(), order), pa.int64()) or any(column.null_count for column in table.columns):
            raise errors.IntegrityError(
                f"{where}: does not contain n-grams of order {order}; remove it and train again"
            )
        flat = table["ngram"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        counts_R = table["count"].combine_chunks().to_numpy(zero_copy_only=False)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise errors.IntegrityError(f"{where}: cannot be read ({error}); remove it and train again") from error
    return Counts(flat.reshape(-1, order), counts_R)
