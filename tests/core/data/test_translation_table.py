"""IBM model 1, against its formulas written plainly."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from core.data import translation_table


class Pairs:
    """Pairs of lines in memory."""

    def __init__(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> None:
        self._columns = {"source": [np.array(s) for s, _ in pairs], "target": [np.array(t) for _, t in pairs]}

    @property
    def num_lines(self) -> int:
        return len(self._columns["source"])

    def lengths(self, start: int, stop: int) -> Mapping[str, Any]:
        return {side: np.array([len(row) for row in rows[start:stop]]) for side, rows in self._columns.items()}

    def rows(self, indices: Any, column: str) -> list[Any]:
        return [self._columns[column][index] for index in indices]


def _plainly(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> dict[int, dict[int, float]]:
    """t(target | source) after five rounds, by source."""
    shares: dict[int, dict[int, float]] = collections.defaultdict(lambda: collections.defaultdict(lambda: 1.0))
    for _ in range(5):
        counts: dict[int, dict[int, float]] = collections.defaultdict(lambda: collections.defaultdict(float))
        for sources, targets in pairs:
            for target in set(targets):
                total = sum(shares[source][target] for source in set(sources))
                for source in set(sources):
                    counts[source][target] += shares[source][target] / total
        shares = collections.defaultdict(lambda: collections.defaultdict(float))
        for source, found in counts.items():
            for target, count in found.items():
                shares[source][target] = count / sum(found.values())
    return shares


def _random(count: int = 60) -> list[tuple[list[int], list[int]]]:
    chance = np.random.default_rng(2)
    pairs = []
    for _ in range(count):
        source = chance.integers(0, 9, chance.integers(1, 6)).tolist()
        pairs.append((source, [(3 * token + 1) % 11 if chance.random() < 0.7 else 10 for token in source]))
    return pairs


@pytest.mark.parametrize("at_once", [7, 4096])
def test_the_likeliest_translations_are_those_of_the_formulas(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translation_table, "_LINES_AT_ONCE", at_once)
    pairs = _random()
    found = translation_table.table(Pairs(pairs), 10, 11, 4)
    expected = _plainly(pairs)
    for source in range(10):
        ranked = sorted(expected[source].items(), key=lambda item: (-round(item[1], 9), item[0]))[:4]
        own = [target for target in found.candidates_SC[source].tolist() if target >= 0]
        assert own == [target for target, _ in ranked], source
    assert (found.candidates_SC[9] == -1).all(), "a token that never occurs goes with nothing"
    counts = collections.Counter(target for _, targets in pairs for target in targets)
    assert found.frequent_V.tolist() == sorted(range(11), key=lambda target: (-counts[target], target))


def test_two_pairs_by_hand() -> None:
    """`das haus`, `the house`; `das buch`, `the book`: each word finds its own, though `the` is beside them all."""
    found = translation_table.table(Pairs([([0, 1], [0, 1]), ([0, 2], [0, 2])]), 3, 3, 1)
    assert found.candidates_SC.tolist() == [[0], [1], [2]]
    assert found.frequent_V.tolist() == [0, 1, 2]


def test_of_a_large_corpus_lines_are_taken_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [([line], [line]) for line in range(10)]
    monkeypatch.setattr(translation_table, "MOST_PRODUCTS", 4)
    found = translation_table.table(Pairs(pairs), 10, 10, 1)
    assert [source for source, (target,) in enumerate(found.candidates_SC) if target >= 0] == [0, 3, 6, 9]
