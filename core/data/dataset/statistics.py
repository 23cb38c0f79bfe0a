"""Word statistics of a dataset: frequencies of units and n-grams, line lengths, Zipf exponent, coverage.

Each shard is counted on its own, and the counts are merged; the report draws the summary. Units are the entries of the
vocabulary: words, characters or subwords. Reserved tokens are not units, except `<unk>`, which is counted as one
unknown unit. N-grams contain neither.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from core import errors
from core.data import uncompressed_arrow
from core.data.tokens import tokenizer as tokenizers

FORMAT: Final = "raycurrent-statistics"
FORMAT_VERSION: Final = 1
STEM: Final = "statistics"
ORDERS: Final = (1, 2, 3)
MAX_LENGTH: Final = 1000
"""Lines of this many units or more are counted as one length."""
NGRAM_TOKENS: Final = 1 << 22
"""Of a larger training split, n-grams are counted in a sample of the shards, which bounds their memory."""
ZIPF_RANKS: Final = (10, 1000)
MIN_FREQS: Final = (1, 2, 3, 5, 10, 20, 50, 100)
HEADS: Final = (10, 100, 1000)
TOP: Final = 100  # most frequent n-grams listed for each order
_CURVE_POINTS = 60
_ID_BITS = 21  # an n-gram of 3 ids is one 64-bit number

Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Counts:
    """Counts of one column.

    Attributes:
        lengths: number of lines by their number of units.
        units: number of occurrences by id.
        codes: of orders 2 and 3, the distinct n-grams, sorted, each packed into one number.
        counts: of orders 2 and 3, the number of occurrences of each.
    """

    lengths: Array
    units: Array
    codes: tuple[Array, ...]
    counts: tuple[Array, ...]


def count(
    values: npt.NDArray[Any], offsets: Array, tokenizer: tokenizers.Tokenizer, separate: bool, with_ngrams: bool
) -> Counts:
    """Counts one column of a shard.

    Args:
        values: the ids of all rows.
        offsets: the offset of each row in them, and the end.
        tokenizer: the tokenizer of the ids.
        separate: n-grams end with their line; else they continue over line ends, as in a token stream.
        with_ngrams: n-grams of orders 2 and 3 are counted.
    """
    ids = values.astype(np.int64)
    usable = ids >= len(tokenizer.reserved)
    # <eos> and language tags are not units; <unk> is a reserved token, but a word of the line.
    lengths = np.diff(offsets) - _count_per_row(~usable & (ids != tokenizer.unk_id), offsets)
    if tokenizer.vocabulary_size > 1 << _ID_BITS:
        # Rarer units than the first two million do not fit into the packed n-grams.
        usable &= ids < 1 << _ID_BITS
    # Order 1 is the count of units.
    ngrams = [_count_ngrams(ids, usable, offsets if separate else None, order) for order in ORDERS[1:] if with_ngrams]
    empty = np.empty(0, np.int64)
    return Counts(
        np.bincount(np.minimum(lengths, MAX_LENGTH), minlength=1).astype(np.int64),
        np.bincount(ids, minlength=tokenizer.vocabulary_size).astype(np.int64),
        tuple(codes for codes, _ in ngrams) or (empty, empty),
        tuple(counts for _, counts in ngrams) or (empty, empty),
    )


def _count_per_row(mask: npt.NDArray[np.bool_], offsets: Array) -> Array:
    """Returns the number of true entries in each row."""
    # Not np.add.reduceat, which gives an empty row the first entry of the next one.
    cumulative = np.concatenate(([0], np.cumsum(mask)))
    return cumulative[offsets[1:]] - cumulative[offsets[:-1]]


def _count_ngrams(ids: Array, usable: npt.NDArray[np.bool_], offsets: Array | None, order: int) -> tuple[Array, Array]:
    """Returns the distinct n-grams of usable ids as packed numbers, and their counts; within rows if given offsets."""
    size = max(len(ids) - order + 1, 0)
    codes, is_valid = np.zeros(size, np.int64), np.ones(size, bool)
    for index in range(order):
        codes = codes << _ID_BITS | ids[index : index + size]
        is_valid &= usable[index : index + size]
    if offsets is not None:
        # N-grams that begin less than `order` ids before the end of their row reach into the next one.
        for distance in range(1, order):
            starts = offsets[1:] - distance
            is_valid[starts[(starts >= 0) & (starts < size)]] = False
    distinct, counts = np.unique(codes[is_valid], return_counts=True)
    return distinct, counts.astype(np.int64)


def merge(first: Counts, second: Counts) -> Counts:
    """Returns the sum of the counts of two shards."""
    ngrams = [_merge_ngrams(*four) for four in zip(first.codes, first.counts, second.codes, second.counts, strict=True)]
    return Counts(
        _add(first.lengths, second.lengths),
        _add(first.units, second.units),
        tuple(codes for codes, _ in ngrams),
        tuple(counts for _, counts in ngrams),
    )


def _merge_ngrams(codes: Array, counts: Array, more_codes: Array, more_counts: Array) -> tuple[Array, Array]:
    """Returns the union of two sets of n-grams, with the sum of their counts."""
    distinct, indices = np.unique(np.concatenate((codes, more_codes)), return_inverse=True)
    return distinct, np.bincount(indices, np.concatenate((counts, more_counts)), len(distinct)).astype(np.int64)


def _add(first: Array, second: Array) -> Array:
    """Returns the sum of two histograms of unequal length."""
    total = np.zeros(max(len(first), len(second)), np.int64)
    total[: len(first)] += first
    total[: len(second)] += second
    return total


def pack(counts: Mapping[str, Counts]) -> bytes:
    """Returns the file of one shard: the arrays of all columns as one Arrow batch of lists."""
    arrays = [
        array for column in counts.values() for array in (column.lengths, column.units, *column.codes, *column.counts)
    ]
    sink = pa.BufferOutputStream()
    batch = pa.record_batch([pa.array(arrays, pa.large_list(pa.int64()))], names=["counts"])
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def unpack(data: bytes, columns: Sequence[str]) -> dict[str, Counts]:
    """Returns the counts of each column in a file that `pack` made.

    Raises:
        IntegrityError: it is not such a file.
    """
    try:
        batch = uncompressed_arrow.open_file(data).get_batch(0)
        batch.validate(full=True)  # offsets that leave a buffer would read foreign memory
        arrays = [row.values.to_numpy() for row in batch.column(0)]
    except (pa.ArrowException, OSError, AttributeError) as error:
        raise errors.IntegrityError(f"counts of tokens: cannot be read ({error}); prepare again") from error
    # In the order of `pack`: lengths, units, codes, counts.
    num_arrays = len(arrays) // len(columns)
    counts = {}
    for index, column in enumerate(columns):
        lengths, units, *ngrams = arrays[index * num_arrays : (index + 1) * num_arrays]
        half = len(ngrams) // 2
        counts[column] = Counts(lengths, units, tuple(ngrams[:half]), tuple(ngrams[half:]))
    return counts


def count_kept(frequencies: Iterable[int]) -> list[list[int]]:
    """Returns for each of `MIN_FREQS` the number of units that it keeps, and of their occurrences."""
    array = np.fromiter(frequencies, np.int64)
    return [[int(kept.size), int(kept.sum())] for min_freq in MIN_FREQS for kept in [array[array >= min_freq]]]


def coverage(kept: Sequence[Sequence[int]]) -> list[dict[str, float]]:
    """Returns for each of `MIN_FREQS` the number of units that it keeps, and their share of the text.

    Args:
        kept: the numbers of `count_kept`, or their sum over disjoint sets of units.
    """
    total = max(kept[0][1], 1)  # of the first `min_freq`, which is 1
    return [
        {"min_freq": min_freq, "units": units, "share": occurrences / total}
        for min_freq, (units, occurrences) in zip(MIN_FREQS, kept, strict=True)
    ]


def summary(counts: Counts, tokenizer: tokenizers.Tokenizer, rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Returns the statistics of one column for the report; `rows` are those of `coverage`."""
    units = counts.units.copy()
    num_unknown = int(units[tokenizer.unk_id])
    # Shares are those of the text: <unk> is part of it, <eos> is not.
    units[: len(tokenizer.reserved)] = 0
    num_tokens = int(units.sum()) + num_unknown
    known = np.flatnonzero(units)
    orders = [(known, units[known]), *zip(counts.codes, counts.counts, strict=True)]
    ranked = np.sort(units[known])[::-1]
    return {
        "lines": int(counts.lengths.sum()),
        "tokens": num_tokens,
        "unknown": num_unknown,
        "lengths": [[int(length), int(counts.lengths[length])] for length in np.flatnonzero(counts.lengths)],
        "orders": [_summarize_order(order, *ngrams, tokenizer) for order, ngrams in zip(ORDERS, orders, strict=True)],
        "head_shares": [
            {"units": head, "share": float(ranked[:head].sum()) / max(num_tokens, 1)}
            for head in HEADS
            if head <= len(ranked)
        ],
        "coverage": [dict(row) for row in rows],
    }


def _summarize_order(order: int, codes: Array, counts: Array, tokenizer: tokenizers.Tokenizer) -> dict[str, Any]:
    """Returns the statistics of the n-grams of one order: the most frequent ones, and counts by rank."""
    # Equal counts: the smaller ids first, which are the more frequent units.
    best = np.lexsort((codes, -counts))[:TOP] if len(codes) else codes
    ranked = np.sort(counts)[::-1]
    # Evenly spaced in logarithms, as the curve is drawn; low ranks round to the same number.
    ranks = np.unique(np.geomspace(1, max(len(ranked), 1), _CURVE_POINTS).round().astype(np.int64))
    return {
        "order": order,
        "counted": int(counts.sum()),
        "distinct": len(codes),
        "zipf_exponent": zipf_exponent(ranked),
        "top": [
            [[tokenizer.token(token_id) for token_id in _unpack_ids(int(codes[row]), order)], int(counts[row])]
            for row in best
        ],
        "ranks": [[int(rank), int(ranked[rank - 1])] for rank in ranks if rank <= len(ranked)],
    }


def _unpack_ids(code: int, order: int) -> list[int]:
    """Returns the ids of a packed n-gram."""
    if order == 1:
        return [code]
    mask = (1 << _ID_BITS) - 1
    return [code >> _ID_BITS * index & mask for index in reversed(range(order))]


def zipf_exponent(ranked: Sequence[float] | npt.NDArray[Any]) -> float | None:
    """Returns α of Zipf's law, count ∝ rank^-α, fitted by least squares in logarithms on the ranks of `ZIPF_RANKS`.

    None with too few ranks.

    Source: Zhang et al., Dive into Deep Learning (2021), section 8.3.3 "Natural Language Statistics".
    """
    # The head deviates from the law (function words), and the tail is flat steps of counts 1, 2, ….
    first, last = ZIPF_RANKS
    counts = np.asarray(ranked[first - 1 : last], dtype=float)
    if len(counts) < first:
        return None
    slope, _ = np.polyfit(np.log(np.arange(first, first + len(counts))), np.log(counts), 1)
    return float(-slope)


def document(columns: Mapping[str, Mapping[str, Any]], ngram_tokens: int) -> dict[str, Any]:
    """Returns the file of all columns; `ngram_tokens` is the number of tokens in which n-grams were counted."""
    return {"format": FORMAT, "version": FORMAT_VERSION, "ngram_tokens": ngram_tokens, "columns": dict(columns)}
