"""Permutations that are computed element by element."""

import numpy as np
import pytest

from core.data.batching import shuffling


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 63, 64, 65, 1000, 65_537])
def test_permutation_has_each_value_once(size: int) -> None:
    assert sorted(shuffling.permuted(size, 7).tolist()) == list(range(size))


def test_slices_equal_slices_of_the_whole_permutation() -> None:
    whole = shuffling.permuted(10_000, 3)
    np.testing.assert_array_equal(shuffling.permuted(10_000, 3, 4_321, 4_400), whole[4_321:4_400])
    assert len(shuffling.permuted(10, 3, 8, 100)) == 2


def test_permutations_are_uniform() -> None:
    """In 2,000 permutations of ten, each value is at each position about 200 times (standard deviation 13)."""
    counts = np.zeros((10, 10), dtype=int)
    for seed in range(2_000):
        counts[np.arange(10), shuffling.permuted(10, shuffling.key("test", seed))] += 1
    assert abs(counts - 200).max() < 80


def test_keys_distinguish_types_and_order() -> None:
    different: list[tuple[int | str, ...]] = [(1, 2), (2, 1), ("1", 2), (12,), ("1, 2",)]
    assert len({shuffling.key(*parts) for parts in different}) == len(different)
