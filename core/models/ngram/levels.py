"""N-grams of the orders 1 … N, derived from the counts of those of order N, in columns on disk.

One pass over the counts, which come in lexicographic order, gives the n-grams of all orders in order of their keys (see
`core.models.ngram.ngram_model`): each is a prefix of some. A second pass finds the suffix of each.

Source: Heafield et al. 2013, Scalable modified Kneser-Ney language model estimation, section 3 (sorted streams on
disk). Here suffixes are found by searches that neighbours share, in place of a second sort.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from core.data import columns, ngram_counts

Array = npt.NDArray[Any]

# Rows that are in memory together: about 100 bytes each.
ROWS_AT_ONCE = 1 << 17


@dataclass
class Level:
    """The distinct n-grams of one order n, sorted by key.

    The first token of a line's first n-grams is the beginning of the line, which only occurs as a context.

    Attributes:
        number: n.
        keys: their keys; at level 1 the tokens themselves, with a row for every entry of the vocabulary.
        counts: their numbers of occurrences.
        suffixes: rows, one level below, of the n-grams without their first token; at level 1 zero.
        num_contexts: rows of the level below; at level 1 one.
        line_rows: the range of rows whose n-grams begin with the beginning of a line.
        first: the row of the n-gram at the beginning of a stream; -1 if the stream is shorter, or counted by line.
        vocabulary_size: V.
    """

    number: int
    keys: columns.Column
    counts: columns.Column
    suffixes: columns.Column
    num_contexts: int
    line_rows: tuple[int, int]
    first: int
    vocabulary_size: int

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self.keys)

    def context_rows(self, keys_G: Array) -> Array:
        """Returns the rows, one level below, of the n-grams without their last token."""
        return keys_G // self.vocabulary_size if self.number > 1 else np.zeros_like(keys_G)

    def is_rare(self, rows: slice, threshold: int) -> Array:
        """Returns which n-grams of a range of rows occur no more often than a threshold; with threshold 0 none."""
        if not threshold:
            return np.zeros(rows.stop - rows.start, bool)
        return self.counts.read(rows.start, rows.stop) <= threshold

    def slabs(self) -> Iterator["Slab"]:
        """Yields all rows in order, in slabs of whole contexts, of which together there is each once."""
        keys, context, size = self.keys.mapped(), 0, len(self)
        starts = range(0, size, ROWS_AT_ONCE)
        stops = {self._context_end(keys, min(start + ROWS_AT_ONCE, size) - 1) for start in starts}
        for start, stop in itertools.pairwise((0, *sorted({*stops, size}))):
            contexts_G = self.context_rows(keys[start:stop])
            # Contexts after which nothing was seen have no rows: those before the next slab are in this one.
            next_context = self.num_contexts if stop == size else int(contexts_G[-1]) + 1
            yield Slab(slice(start, stop), contexts_G - context, next_context - context)
            context = next_context

    def _context_end(self, keys: Array, row: int) -> int:
        """Returns the row after the last one that has the context of a given row."""
        if self.number == 1:
            return len(keys)
        return int(np.searchsorted(keys, (keys[row] // self.vocabulary_size + 1) * self.vocabulary_size))


class Slab(NamedTuple):
    """The rows of adjacent contexts of a level.

    Attributes:
        rows: the range of rows.
        contexts_G: the context of each row, numbered from 0 in this slab.
        num_contexts: number of contexts, those without rows included.
    """

    rows: slice
    contexts_G: Array
    num_contexts: int

    def sums(self, values_G: Array) -> Array:
        """Returns the sum of the values of the rows of each context, added up one after the other."""
        return np.bincount(self.contexts_G, weights=values_G, minlength=self.num_contexts)


def find_rows(keys: Array, wanted: Array) -> Array:
    """Returns the row of each wanted key among sorted ones; -1 if it does not occur or is negative."""
    if not len(keys):
        return np.full(wanted.shape, -1)
    # Sorted first: then neighbouring searches read the same pages of a mapping, and the same lines of a cache.
    order = np.argsort(wanted)
    wanted = wanted[order]
    rows = np.searchsorted(keys, wanted)
    # A key above all others would be inserted at the end, where there is no row.
    rows[rows == len(keys)] = 0
    in_order = np.empty_like(rows)
    in_order[order] = np.where(keys[rows] == wanted, rows, -1)
    return in_order


def build(
    blocks: Iterable[ngram_counts.Counts],
    order: int,
    vocabulary_size: int,
    beginning: tuple[int, ...],
    line_end: int | None,
    folder: Path,
) -> list[Level]:
    """Derives the levels 1 … N from the n-grams of order N.

    Args:
        blocks: the distinct n-grams and their counts, in lexicographic order.
        order: N.
        vocabulary_size: V.
        beginning: the first N tokens of a stream, padded by V.
        line_end: id of the token between lines, if the n-grams were counted by line.
        folder: for the columns.
    """
    by_line = line_end is not None and order > 1
    counts_V = np.zeros(vocabulary_size, np.int64)
    writers = [_Writer(folder, level, vocabulary_size, line_end if by_line else None) for level in range(2, order + 1)]
    for block in blocks:
        ngrams_RN: Array = block.ngrams_RN
        counts_R: Array = block.counts_R
        token_counts_R = counts_R
        if by_line:
            # The end of a line is followed by padding, the beginning of one by a token of the line.
            token_counts_R = counts_R * ~((ngrams_RN[:, 0] == line_end) & (ngrams_RN[:, 1] < vocabulary_size))
        np.add.at(counts_V, ngrams_RN[:, 0], token_counts_R)
        rows_R = ngrams_RN[:, 0].astype(np.int64)
        for column, writer in enumerate(writers, 1):
            # N-grams that reach into the padding are complete up to the column before, and end here.
            is_complete_R = ngrams_RN[:, column] < vocabulary_size
            if not is_complete_R.all():
                ngrams_RN, counts_R = ngrams_RN[is_complete_R], counts_R[is_complete_R]
                rows_R = rows_R[is_complete_R]
            rows_R = writer.write(rows_R, ngrams_RN[:, column], counts_R)
    line_rows = (line_end, line_end + 1) if by_line and line_end is not None else (0, 0)
    first = -1 if by_line else beginning[0]
    tokens, counts, suffixes = (
        columns.Column(folder / f"{name}-1", np.int64) for name in ("keys", "counts", "suffixes")
    )
    tokens.append(np.arange(vocabulary_size))
    counts.append(counts_V)
    suffixes.append(np.zeros(vocabulary_size, np.int64))
    made = [Level(1, tokens.close(), counts.close(), suffixes.close(), 1, line_rows, first, vocabulary_size)]
    for writer, token in zip(writers, beginning[1:], strict=True):
        made.append(writer.finish(made[-1], token))
    return made


class _Writer:
    """Writes the columns of one level as blocks of n-grams come in."""

    def __init__(self, folder: Path, level: int, vocabulary_size: int, line_end: int | None) -> None:
        self._keys = columns.Column(folder / f"keys-{level}", np.int64)
        self._counts = columns.Column(folder / f"counts-{level}", np.int64)
        self._suffixes = columns.Column(folder / f"suffixes-{level}", np.int64)
        self._vocabulary_size, self._line_end = vocabulary_size, line_end
        # Of the last n-gram, which the next block may begin with again.
        self._last_key, self._last_count = -1, 0

    def write(self, contexts_R: Array, tokens_R: Array, counts_R: Array) -> Array:
        """Writes the n-grams of a block, given the rows of their contexts, and returns the row of each."""
        keys_R = contexts_R * self._vocabulary_size + tokens_R
        if not len(keys_R):
            return keys_R
        # Equal keys are adjacent: n-grams in lexicographic order have ascending keys.
        is_new_R = np.diff(keys_R, prepend=self._last_key) != 0
        rows_R = len(self._keys) - 1 + np.cumsum(is_new_R)
        starts = np.flatnonzero(is_new_R)
        sums = np.add.reduceat(counts_R, starts if is_new_R[0] else np.concatenate([[0], starts]))
        if is_new_R[0]:
            sums = np.concatenate([[self._last_count], sums])[int(self._last_key < 0) :]
        else:
            sums[0] += self._last_count
        self._counts.append(sums[:-1])
        self._keys.append(keys_R[starts])
        self._last_key, self._last_count = int(keys_R[-1]), int(sums[-1])
        return rows_R

    def finish(self, below: Level, token: int) -> Level:
        """Returns the level, after the suffixes are found; `token` ends the n-gram at the beginning of a stream."""
        if self._last_key >= 0:
            self._counts.append(np.array([self._last_count]))
        size, keys = self._vocabulary_size, self._keys.close().mapped()
        keys_below, suffixes_below = below.keys.mapped(), below.suffixes.mapped()
        for keys_G in self._keys.blocks(ROWS_AT_ONCE):
            contexts_G, suffixes_G = np.divmod(keys_G, size)
            if below.number > 1:
                # The suffix of (context, token) is (suffix of the context, token).
                suffixes_G = find_rows(keys_below, suffixes_below[contexts_G] * size + suffixes_G)
            self._suffixes.append(suffixes_G)
        first = -1
        if below.first >= 0 and token < size:
            first = int(find_rows(keys, np.array([below.first * size + token]))[0])
        start, stop = (int(np.searchsorted(keys, row * size)) for row in below.line_rows)
        made = (self._keys, self._counts.close(), self._suffixes.close())
        return Level(below.number + 1, *made, len(below), (start, stop), first, size)
