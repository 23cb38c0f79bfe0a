"""What the words of a corpus are like: how often they and their n-grams occur, how long lines are, what is rare.

Shards are counted one by one, then added up; a summary is what the report draws. Units are the entries of the
vocabulary: words, characters or pieces of words. Reserved names are no units, but for `<unk>`, which stands for one; no
n-gram goes over them, and none holds an unknown word.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from core.data.tokens import tokenizer, vocabulary

FORMAT: Final = "raycurrent-statistics"
FORMAT_VERSION: Final = 1
STEM: Final = "statistics"
ORDERS: Final = (1, 2, 3)
LONGEST: Final = 1000
"""Lines of so many units and more are counted together."""
NGRAM_TOKENS: Final = 1 << 22
"""Of a larger training split, n-grams are counted in some of the shards, so that their memory has a bound."""
ZIPF_RANKS: Final = (10, 1000)
MIN_FREQS: Final = (1, 2, 3, 5, 10, 20, 50, 100)
HEADS: Final = (10, 100, 1000)
TOP: Final = 100
_CURVE_POINTS = 60
_ID_BITS = 21

Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Counts:
    """What was counted of one column.

    Attributes:
        lengths: how many lines have so many units, by that number.
        units: how often each id occurs, by id.
        codes: of orders 2 and 3, the distinct n-grams, their ids in one number, sorted.
        counts: of orders 2 and 3, how often each occurs.
    """

    lengths: Array
    units: Array
    codes: tuple[Array, ...]
    counts: tuple[Array, ...]


def count(
    values: npt.NDArray[Any], offsets: Array, made: tokenizer.Tokenizer, separate: bool, with_ngrams: bool
) -> Counts:
    """Counts one column of a shard.

    Args:
        values: ids, end to end.
        offsets: where each row begins and ends in them.
        made: the tokenizer of the ids.
        separate: whether n-grams end with their line; else lines follow each other without a gap.
        with_ngrams: whether those of orders 2 and 3 are counted.
    """
    ids = values.astype(np.int64)
    usable = ids >= len(made.reserved)
    lengths = np.diff(offsets) - _per_row(~usable & (ids != made.unk_id), offsets)
    if made.vocabulary_size > 1 << _ID_BITS:
        usable &= ids < 1 << _ID_BITS
    found = [_ngrams(ids, usable, offsets if separate else None, order) for order in ORDERS[1:] if with_ngrams]
    none = np.empty(0, np.int64)
    return Counts(
        np.bincount(np.minimum(lengths, LONGEST), minlength=1).astype(np.int64),
        np.bincount(ids, minlength=made.vocabulary_size).astype(np.int64),
        tuple(codes for codes, _ in found) or (none, none),
        tuple(counts for _, counts in found) or (none, none),
    )


def _per_row(marked: npt.NDArray[np.bool_], offsets: Array) -> Array:
    before = np.concatenate(([0], np.cumsum(marked)))
    return before[offsets[1:]] - before[offsets[:-1]]


def _ngrams(ids: Array, usable: npt.NDArray[np.bool_], offsets: Array | None, order: int) -> tuple[Array, Array]:
    size = max(len(ids) - order + 1, 0)
    codes, whole = np.zeros(size, np.int64), np.ones(size, bool)
    for place in range(order):
        codes = codes << _ID_BITS | ids[place : place + size]
        whole &= usable[place : place + size]
    if offsets is not None:
        for back in range(1, order):  # what begins so near to the end of its row goes over it
            starts = offsets[1:] - back
            whole[starts[(starts >= 0) & (starts < size)]] = False
    found, counts = np.unique(codes[whole], return_counts=True)
    return found, counts.astype(np.int64)


def merge(first: Counts, second: Counts) -> Counts:
    """Adds up what was counted of two shards."""
    added = [_merged(*four) for four in zip(first.codes, first.counts, second.codes, second.counts, strict=True)]
    return Counts(
        _added(first.lengths, second.lengths),
        _added(first.units, second.units),
        tuple(codes for codes, _ in added),
        tuple(counts for _, counts in added),
    )


def _merged(codes: Array, counts: Array, more_codes: Array, more_counts: Array) -> tuple[Array, Array]:
    found, places = np.unique(np.concatenate((codes, more_codes)), return_inverse=True)
    return found, np.bincount(places, np.concatenate((counts, more_counts)), len(found)).astype(np.int64)


def _added(first: Array, second: Array) -> Array:
    total = np.zeros(max(len(first), len(second)), np.int64)
    total[: len(first)] += first
    total[: len(second)] += second
    return total


def pack(counts: Mapping[str, Counts]) -> bytes:
    """Returns the file of one shard: the arrays of all columns as one Arrow batch of lists."""
    arrays = [array for one in counts.values() for array in (one.lengths, one.units, *one.codes, *one.counts)]
    sink = pa.BufferOutputStream()
    batch = pa.record_batch([pa.array(arrays, pa.large_list(pa.int64()))], names=["counts"])
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def unpack(data: bytes, columns: Sequence[str]) -> dict[str, Counts]:
    """Reads what `pack` wrote."""
    rows = pa.ipc.open_file(pa.BufferReader(data)).get_batch(0).column(0)
    arrays = [row.values.to_numpy() for row in rows]
    each = len(arrays) // len(columns)
    found = {}
    for number, column in enumerate(columns):
        lengths, units, *ngrams = arrays[number * each : (number + 1) * each]
        half = len(ngrams) // 2
        found[column] = Counts(lengths, units, tuple(ngrams[:half]), tuple(ngrams[half:]))
    return found


def coverage(counts: vocabulary.Counts) -> list[dict[str, float]]:
    """Says for each of `MIN_FREQS` how many units stay, and which share of the text they are."""
    frequencies = np.fromiter(counts.by_unit.values(), np.int64, len(counts.by_unit))
    total = max(int(frequencies.sum()), 1)
    return [
        {"min_freq": least, "units": int(kept.size), "share": float(kept.sum()) / total}
        for least in MIN_FREQS
        for kept in [frequencies[frequencies >= least]]
    ]


def summary(counts: Counts, made: tokenizer.Tokenizer, covered: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Returns what the artefact says of one column."""
    units = counts.units.copy()
    num_unknown = int(units[made.unk_id])
    units[: len(made.reserved)] = 0
    num_tokens = int(units.sum()) + num_unknown
    known = np.flatnonzero(units)
    orders = [(known, units[known]), *zip(counts.codes, counts.counts, strict=True)]
    ranked = np.sort(units[known])[::-1]
    return {
        "lines": int(counts.lengths.sum()),
        "tokens": num_tokens,
        "unknown": num_unknown,
        "lengths": [[int(length), int(counts.lengths[length])] for length in np.flatnonzero(counts.lengths)],
        "orders": [_order(order, *found, made) for order, found in zip(ORDERS, orders, strict=True)],
        "head_shares": [
            {"units": head, "share": float(ranked[:head].sum()) / max(num_tokens, 1)}
            for head in HEADS
            if head <= len(ranked)
        ],
        "coverage": [dict(row) for row in covered],
    }


def _order(order: int, codes: Array, counts: Array, made: tokenizer.Tokenizer) -> dict[str, Any]:
    # Equal counts: the smaller ids first, which are the more frequent units.
    best = np.lexsort((codes, -counts))[:TOP] if len(codes) else codes
    ranked = np.sort(counts)[::-1]
    ranks = np.unique(np.geomspace(1, max(len(ranked), 1), _CURVE_POINTS).round().astype(np.int64))
    return {
        "order": order,
        "counted": int(counts.sum()),
        "distinct": len(codes),
        "zipf_exponent": zipf_exponent(ranked),
        "top": [[[made.token(one) for one in _ids(int(codes[row]), order)], int(counts[row])] for row in best],
        "ranks": [[int(rank), int(ranked[rank - 1])] for rank in ranks if rank <= len(ranked)],
    }


def _ids(code: int, order: int) -> list[int]:
    if order == 1:
        return [code]
    mask = (1 << _ID_BITS) - 1
    return [code >> _ID_BITS * place & mask for place in reversed(range(order))]


def zipf_exponent(ranked: Sequence[float] | npt.NDArray[Any]) -> float | None:
    """Fits count ∝ rank^-α by least squares in logarithms, on the ranks of `ZIPF_RANKS`; None with too few ranks.

    Source: document 000 section 8.3.3, its equation of the double logarithm.
    """
    first, last = ZIPF_RANKS
    counts = np.asarray(ranked[first - 1 : last], dtype=float)
    if len(counts) < first:
        return None
    slope, _ = np.polyfit(np.log(np.arange(first, first + len(counts))), np.log(counts), 1)
    return float(-slope)


def document(columns: Mapping[str, Mapping[str, Any]], ngram_tokens: int) -> dict[str, Any]:
    """Returns the artefact; `ngram_tokens`: of how many tokens n-grams were counted, in each column's shards."""
    return {"format": FORMAT, "version": FORMAT_VERSION, "ngram_tokens": ngram_tokens, "columns": dict(columns)}


def total(counted: Sequence[Counts]) -> Counts:
    """Adds up what was counted of several shards."""
    return functools.reduce(merge, counted)
