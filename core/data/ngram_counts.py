"""N-gram counts of a token stream: counted part by part, stored as sorted Arrow tables, and merged.

Parts are counted, stored and merged in blocks, so that memory grows neither with the text nor with a part.

Only n-grams of the full order are stored. The count of a shorter one is the sum over those that begin with it. For this
to hold up to the last token, n-grams that reach beyond the end of the stream are padded with an id of their own.
"""

import bisect
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from core import errors
from core.data import columns, uncompressed_arrow
from core.data.batching import lanes

# N-grams that are in memory together where many are counted or merged: about 80 bytes each while they are sorted.
ROWS_AT_ONCE = 1 << 18
# Of more files, groups are merged first, so that what must be known of each stays little.
_MAX_MERGED = 64

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


class StoredCounts(NamedTuple):
    """Counts in a file, of which slices are read.

    Attributes:
        path: the file.
        order: tokens of an n-gram.
        size: number of distinct n-grams.
        ngrams_offset: first byte of the ids, as `Counts` has them.
        counts_offset: first byte of the counts.
    """

    path: Path
    order: int
    size: int
    ngrams_offset: int
    counts_offset: int

    def read(self, start: int, stop: int) -> Counts:
        """Returns a copy of the n-grams [start, stop) and of their counts."""
        num_ids, offset = (stop - start) * self.order, self.ngrams_offset + start * self.order * 4
        ngrams_RN = np.fromfile(self.path, np.uint32, num_ids, offset=offset).reshape(-1, self.order)
        return Counts(ngrams_RN, np.fromfile(self.path, np.int64, stop - start, offset=self.counts_offset + start * 8))

    def ngram(self, row: int) -> tuple[int, ...]:
        """Returns one n-gram."""
        offset = self.ngrams_offset + row * self.order * 4
        return tuple(np.fromfile(self.path, np.uint32, self.order, offset=offset).tolist())

    def position(self, ngram: tuple[int, ...]) -> int:
        """Returns the number of n-grams before a given one, which need not be among them."""
        return bisect.bisect_left(range(self.size), ngram, key=self.ngram)


def merged(parts: Sequence[StoredCounts], end: int, folder: Path, rows: int = ROWS_AT_ONCE) -> Iterator[Counts]:
    """Yields the summed counts of several parts in lexicographic order, in blocks of `rows` n-grams more or less.

    All parts are cut at the same n-grams, so that one block after the other is read, sorted and summed: the merge of
    an external sort.

    Args:
        parts: their counts.
        end: id that pads n-grams.
        folder: for temporary files, if there are many parts.
        rows: n-grams of all parts that are in memory together; at most twice as many.
    """
    level = 0
    while len(parts) > _MAX_MERGED:
        level += 1
        groups = [parts[start : start + _MAX_MERGED] for start in range(0, len(parts), _MAX_MERGED)]
        parts = [
            store(merged(group, end, folder, rows), folder / f"merged-{level}-{number}.arrow", group[0].order)
            for number, group in enumerate(groups)
        ]
    if len(parts) == 1:
        yield from (parts[0].read(start, min(start + rows, parts[0].size)) for start in range(0, parts[0].size, rows))
        return
    # A sample of each part, of n-grams that are `step` apart: between two of all samples in order lie `step` n-grams
    # of the sample's own part, and fewer of each other part.
    step = max(1, rows // max(1, len(parts)))
    sample = sorted(part.ngram(row) for part in parts for row in range(step, part.size, step))
    starts = [0] * len(parts)
    for ngram in (*sample[rows // step - 1 :: rows // step], None):
        stops = [part.size if ngram is None else part.position(ngram) for part in parts]
        cuts = zip(parts, starts, stops, strict=True)
        slices = [part.read(start, stop) for part, start, stop in cuts if start < stop]
        if slices:
            yield merge(slices, end)
        starts = stops


def store(blocks: Iterable[Counts], path: Path, order: int) -> StoredCounts:
    """Writes counts that come in lexicographic order to a new file, as `encode` has them."""
    ngrams = columns.Column(path.with_suffix(".ngrams"), np.uint32)
    counts = columns.Column(path.with_suffix(".counts"), np.int64)
    for block in blocks:
        ngrams.append(block.ngrams_RN.reshape(-1))
        counts.append(block.counts_R)
    ngrams.close()
    counts.close()
    # An Arrow file has all ids before all counts: both are mapped, and copied behind each other.
    with pa.OSFile(str(path), "wb") as sink:
        _write(sink, Counts(ngrams.mapped().reshape(-1, order), counts.mapped()))
    ngrams.remove()
    counts.remove()
    return open_stored(path, order, str(path))


def open_stored(path: Path, order: int, where: str) -> StoredCounts:
    """Opens a file of counts, whose bytes were verified.

    Raises:
        IntegrityError: it is damaged, or has another order.
    """
    mapping = columns.Mapping(path)
    start = pa.py_buffer(mapping.memory).address
    ngrams, counts = _columns(mapping.memory, order, where)
    offsets = [
        values.buffers()[1].address - start + values.offset * values.type.bit_width // 8 if len(values) else 0
        for values in (ngrams, counts)
    ]
    if not all(0 <= offset <= mapping.size_bytes for offset in offsets):  # compressed, so that Arrow has made a copy
        raise errors.IntegrityError(f"{where}: is not as this program writes it; remove it and train again")
    return StoredCounts(path, order, len(counts), *offsets)


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
    sink = pa.BufferOutputStream()
    _write(sink, counts)
    return bytes(sink.getvalue())


def _write(sink: Any, counts: Counts) -> None:
    flat = pa.array(counts.ngrams_RN.reshape(-1))
    batch = pa.record_batch(
        [pa.FixedSizeListArray.from_arrays(flat, counts.ngrams_RN.shape[1]), pa.array(counts.counts_R)],
        names=["ngram", "count"],
    )
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def decode(data: bytes, order: int, where: str) -> Counts:
    """Decodes the bytes of `encode`.

    Raises:
        IntegrityError: the bytes are damaged, or have another order.
    """
    ngrams, counts = _columns(data, order, where)
    return Counts(ngrams.to_numpy().reshape(-1, order), counts.to_numpy())


def _columns(data: Any, order: int, where: str) -> tuple[pa.Array, pa.Array]:
    """Returns the ids of all n-grams, one after the other, and the counts, as views of the data."""
    try:
        reader = uncompressed_arrow.open_file(data)
        kinds = (reader.schema.field("ngram").type, reader.schema.field("count").type)
        if kinds != (pa.list_(pa.uint32(), order), pa.int64()) or reader.num_record_batches != 1:
            raise errors.IntegrityError(
                f"{where}: does not contain n-grams of order {order}; remove it and train again"
            )
        batch = reader.get_batch(0)
        batch.validate(full=True)  # a length that leaves its buffer would read foreign memory
        ngrams, counts = batch.column("ngram").flatten(), batch.column("count")
        nulls = batch.column("ngram").null_count + ngrams.null_count + counts.null_count
        if nulls or len(ngrams) != order * len(counts):
            raise errors.IntegrityError(f"{where}: lacks ids or counts; remove it and train again")
    except (pa.ArrowException, OSError, KeyError) as error:
        raise errors.IntegrityError(f"{where}: cannot be read ({error}); remove it and train again") from error
    return ngrams, counts
