"""Overlap of held-out lines with training lines."""

import numpy as np

from core.data.dataset import arrow_file, overlap


def _side(*rows: list[int]) -> arrow_file.Side:
    offsets = np.concatenate(([0], np.cumsum([len(row) for row in rows])))
    return arrow_file.Side(np.array([token for row in rows for token in row], np.uint16), offsets)


def test_rows_have_equal_hashes_if_and_only_if_they_are_equal() -> None:
    rows = [[1, 2], [2, 1], [1, 2], [1, 2, 0], [], [0], [0, 0], [3, 3], [1, 2]]
    hashes = overlap.hash_rows(_side(*rows)).tolist()
    by_hash: dict[int, list[list[int]]] = {}
    for row, value in zip([row for row in rows if row], hashes, strict=True):
        by_hash.setdefault(value, []).append(row)
    assert sorted(map(len, by_hash.values())) == [1, 1, 1, 1, 1, 3]


def test_a_hash_depends_on_the_row_alone_and_not_on_its_place_in_a_shard() -> None:
    alone = overlap.hash_rows(_side([7, 8, 9]))
    after = overlap.hash_rows(_side([1], [5, 5, 5, 5], [7, 8, 9]))
    assert alone.tolist() == after[-1:].tolist()


def test_rows_that_are_too_short_do_not_count() -> None:
    assert len(overlap.hash_rows(_side([1], [1, 2], [1, 2, 3]), shortest=2)) == 2
