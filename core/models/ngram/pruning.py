"""Pruning: the tables of an estimated model without the n-grams that occur rarely.

Of each order a threshold is given, and n-grams that occur no more often are left out. Thresholds do not fall with the
order: an n-gram's first and last n − 1 tokens occur at least as often as itself, so that both stay where it stays.

Source: KenLM's `lmplz --prune`, by Heafield et al. 2013, Scalable modified Kneser-Ney language model estimation.
"""

from pathlib import Path

import numpy as np

from core.data import columns
from core.models.ngram import levels


class Kept:
    """The rows of a level that stay, and their numbers among themselves.

    Args:
        level: the level.
        threshold: n-grams that occur as often or less are left out; 0: all stay.
        folder: for columns.
    """

    def __init__(self, level: levels.Level, threshold: int, folder: Path) -> None:
        self._level, self._threshold, self._folder = level, threshold, folder
        self._numbers: columns.Column | None = None
        if not threshold:
            return
        self._numbers, num_kept = columns.Column(folder / f"kept-{level.number}", np.int64), 0
        for rows in self._slices():
            is_kept_G = ~level.is_rare(rows, threshold)
            numbers_G = num_kept + np.cumsum(is_kept_G)
            # Of a row that stays, the number of those before it.
            self._numbers.append(numbers_G - is_kept_G)
            num_kept = int(numbers_G[-1])
        self._numbers.close()

    def select(self, column: columns.Column) -> columns.Column:
        """Returns the values, of those of all rows, that belong to the rows that stay."""
        if self._numbers is None:
            return column
        selected = columns.Column(column.path.with_suffix(".kept"), column.dtype)
        for rows in self._slices():
            selected.append(column.read(rows.start, rows.stop)[~self._level.is_rare(rows, self._threshold)])
        return selected.close()

    def keys(self, below: "Kept") -> columns.Column:
        """Returns the keys of the rows that stay, by the new numbers of their contexts."""
        keys = self.select(self._level.keys)
        if below._numbers is None:
            return keys
        renumbered = columns.Column(self._folder / f"renumbered-{self._level.number}", np.int64)
        numbers, size = below._numbers.mapped(), self._level.vocabulary_size
        for keys_G in keys.blocks(levels.ROWS_AT_ONCE):
            renumbered.append(numbers[keys_G // size] * size + keys_G % size)
        return renumbered.close()

    def _slices(self) -> list[slice]:
        size = len(self._level)
        starts = range(0, size, levels.ROWS_AT_ONCE)
        return [slice(start, min(start + levels.ROWS_AT_ONCE, size)) for start in starts]
