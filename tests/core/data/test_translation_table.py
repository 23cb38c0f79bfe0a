"""Tests of IBM model 1 against a direct implementation of its formulas."""

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


def _model_1(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> dict[int, dict[int, float]]:
    """t(target | source) after five iterations of EM, by source."""
    probabilities: dict[int, dict[int, float]] = collections.defaultdict(lambda: collections.defaultdict(lambda: 1.0))
    for _ in range(5):
        counts: dict[int, dict[int, float]] = collections.defaultdict(lambda: collections.defaultdict(float))
        for sources, target_row in pairs:
            for target in set(target_row):
                total = sum(probabilities[source][target] for source in set(sources))
                for source in set(sources):
                    counts[source][target] += probabilities[source][target] / total
        probabilities = collections.defaultdict(lambda: collections.defaultdict(float))
        for source, targets in counts.items():
            for target, count in targets.items():
                probabilities[source][target] = count / sum(targets.values())
    return probabilities


def _random(count: int = 60) -> list[tuple[list[int], list[int]]]:
    rng = np.random.default_rng(2)
    pairs = []
    for _ in range(count):
        source = rng.integers(0, 9, rng.integers(1, 6)).tolist()
        pairs.append((source, [(3 * token + 1) % 11 if rng.random() < 0.7 else 10 for token in source]))
    return pairs


@pytest.mark.parametrize("batch_lines", [7, 4096])
def test_candidates_are_those_of_the_direct_implementation(batch_lines: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translation_table, "_BATCH_LINES", batch_lines)
    pairs = _random()
    table = translation_table.estimate(Pairs(pairs), 10, 11, 4)
    expected = _model_1(pairs)
    for source in range(10):
        ranked = sorted(expected[source].items(), key=lambda item: (-round(item[1], 9), item[0]))[:4]
        candidates = [target for target in table.candidates_SC[source].tolist() if target >= 0]
        assert candidates == [target for target, _ in ranked], source
    assert (table.candidates_SC[9] == -1).all(), "a token that never occurs has no candidate"
    counts = collections.Counter(target for _, targets in pairs for target in targets)
    assert table.frequent_V.tolist() == sorted(range(11), key=lambda target: (-counts[target], target))


def test_two_pairs_by_hand() -> None:
    """`das haus`, `the house`; `das buch`, `the book`: each word is aligned, though `the` occurs with all."""
    table = translation_table.estimate(Pairs([([0, 1], [0, 1]), ([0, 2], [0, 2])]), 3, 3, 1)
    assert table.candidates_SC.tolist() == [[0], [1], [2]]
    assert table.frequent_V.tolist() == [0, 1, 2]


def test_a_large_corpus_is_sampled_at_even_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [([line], [line]) for line in range(10)]
    monkeypatch.setattr(translation_table, "MAX_PRODUCTS", 4)
    table = translation_table.estimate(Pairs(pairs), 10, 10, 1)
    assert [source for source, (target,) in enumerate(table.candidates_SC) if target >= 0] == [0, 3, 6, 9]
