"""Length bucketing of pairs."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from core.data.batching import buckets

Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Skewed:
    """Pairs with many short and a few long sides, read a run at a time."""

    source: Array
    target: Array

    @property
    def num_lines(self) -> int:
        return len(self.source)

    def lengths(self, start: int, stop: int) -> dict[str, npt.NDArray[np.int32]]:
        assert stop - start <= buckets.RUN_LINES
        return {"source": self.source[start:stop].astype(np.int32), "target": self.target[start:stop].astype(np.int32)}

    def rows(self, indices: Array, column: str) -> list[npt.NDArray[np.uint16]]:
        base = 100 if column == "source" else 1000
        lengths = getattr(self, column)
        return [(base + index + np.arange(lengths[index])).astype(np.uint16) for index in indices]


class Counting(Skewed):
    """Counts the lines whose lengths are read."""

    num_read = 0

    def lengths(self, start: int, stop: int) -> dict[str, npt.NDArray[np.int32]]:
        Counting.num_read += stop - start
        return super().lengths(start, stop)


def skewed(num_lines: int) -> Skewed:
    chance = np.random.default_rng(0)
    source = np.clip(chance.lognormal(2.5, 0.6, num_lines), 1, 200).astype(np.int64)
    return Skewed(source, np.maximum(1, np.round(source * chance.normal(1.1, 0.1, num_lines))).astype(np.int64))


def longer(pairs: Skewed, lines: Array) -> Array:
    return np.maximum(pairs.source[lines], pairs.target[lines])


@pytest.mark.parametrize("num_lines", [1, 63, 64, 1000, 70_001])
@pytest.mark.parametrize("budget", [{"batch_tokens": 1500}, {"batch_lines": 64}])
def test_an_epoch_has_each_line_once(num_lines: int, budget: dict[str, Any]) -> None:
    batches = list(buckets.plan(skewed(num_lines), seed=1, epoch=0, **budget))
    assert sorted(np.concatenate([batch.lines for batch in batches]).tolist()) == list(range(num_lines))
    assert batches[-1].fraction == 1.0
    assert all(before.fraction < after.fraction for before, after in pairwise(batches))


def test_batches_fill_their_token_budget() -> None:
    pairs = skewed(20_000)
    batches = list(buckets.plan(pairs, seed=1, epoch=0, batch_tokens=1500))
    sizes = [int(longer(pairs, batch.lines).sum()) for batch in batches]
    assert max(sizes) <= 1500
    assert sum(size < 1300 for size in sizes) <= 1 + sum(len(batch.lines) < 8 for batch in batches)
    assert all(batch.num_targets == pairs.target[batch.lines].sum() for batch in batches)


def test_a_line_over_the_budget_is_a_batch_of_its_own() -> None:
    pairs = Skewed(np.array([3, 50, 3]), np.array([3, 2, 3]))
    batches = list(buckets.plan(pairs, seed=0, epoch=0, batch_tokens=10))
    assert sorted(sorted(batch.lines.tolist()) for batch in batches) == [[0, 2], [1]]


def test_all_batches_of_lines_but_one_are_full() -> None:
    """The 600 pairs of Dive into Deep Learning in batches of 64: nine full ones and one of 24."""
    sizes = [len(batch.lines) for batch in buckets.plan(skewed(600), seed=1, epoch=0, batch_lines=64)]
    assert sorted(sizes) == [24] + [64] * 9
    many = [len(batch.lines) for batch in buckets.plan(skewed(20_000), seed=1, epoch=0, batch_lines=64)]
    assert sorted(many) == [20_000 % 64] + [64] * (20_000 // 64)


def test_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        plan = buckets.plan(skewed(3000), seed, epoch, batch_tokens=1000)
        return [batch.lines.tolist() for batch in plan]

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_shares_of_all_ranks_are_the_batch(world_size: int) -> None:
    for batch in buckets.plan(skewed(300), seed=1, epoch=0, batch_tokens=100):
        shares = [buckets.share(batch, rank, world_size) for rank in range(world_size)]
        assert sorted(np.concatenate(shares).tolist()) == sorted(batch.lines.tolist())
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def _efficiency(pairs: Skewed, batches: list[Array]) -> float:
    valid = padded = 0
    for lines in batches:
        for side in (pairs.source[lines], pairs.target[lines]):
            valid += int(side.sum())
            padded += len(side) * int(side.max())
    return valid / padded


def test_bucketing_leaves_little_padding_with_skewed_lengths() -> None:
    pairs = skewed(20_000)
    in_buckets = [batch.lines for batch in buckets.plan(pairs, seed=1, epoch=0, batch_tokens=2048)]
    assert _efficiency(pairs, in_buckets) >= 0.9
    in_order = list(np.split(np.arange(20_000), 200))
    assert _efficiency(pairs, in_order) < 0.5


def test_batches_are_shuffled_and_their_lines_sorted_by_length() -> None:
    pairs = skewed(5000)
    batches = list(buckets.plan(pairs, seed=1, epoch=0, batch_tokens=1500))
    means = [longer(pairs, batch.lines).mean() for batch in batches]
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.4
    assert all((np.diff(pairs.source[batch.lines]) <= 0).all() for batch in batches)


def test_batches_mix_distant_lines() -> None:
    """A corpus sorted by topic must not give batches of one topic: runs of 64 lines are spread."""
    pairs = Skewed(np.full(10_000, 5), np.full(10_000, 5))
    for batch in buckets.plan(pairs, seed=1, epoch=0, batch_lines=100):
        assert np.ptp(batch.lines) > 2_000


def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of 4 blocks of 8 runs of 2 lines; a shuffle buffer has half a window, and a pool half of that."""
    for name, lines in {"RUN": 2, "BLOCK": 16, "WINDOW": 64, "SHUFFLE": 32, "POOL": 16}.items():
        monkeypatch.setattr(buckets, f"{name}_LINES", lines)


@pytest.mark.parametrize("num_lines", [64, 65, 66, 80, 128, 250, 256, 259])
def test_each_line_of_several_windows_is_in_one_batch(num_lines: int, monkeypatch: pytest.MonkeyPatch) -> None:
    small_windows(monkeypatch)
    batches = list(buckets.plan(skewed(num_lines), seed=1, epoch=0, batch_lines=5))
    assert sorted(np.concatenate([batch.lines for batch in batches]).tolist()) == list(range(num_lines))
    for batch in batches:
        rest = buckets.plan(skewed(num_lines), seed=1, epoch=0, batch_lines=5, start=batch.start)
        assert [later.lines.tolist() for later in rest] == [
            later.lines.tolist() for later in batches[batch.start.num_batches :]
        ]


def test_lines_of_a_window_are_from_few_blocks_in_random_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank copies the shards of a window from an object store: they must not be all shards of the dataset."""
    small_windows(monkeypatch)
    orders = []
    for epoch in (0, 1):
        batches = list(buckets.plan(skewed(259), seed=1, epoch=epoch, batch_lines=1))
        lines = np.concatenate([batch.lines for batch in batches])
        blocks = [set((lines[start : start + 64] // 16).tolist()) for start in range(0, 259, 64)]
        # Some lines of a window are carried into the next; without windows 64 lines would be from 16 blocks.
        assert max(map(len, blocks)) <= 2 * 4
        orders.append(blocks)
        assert any(max(window) - min(window) > 4 for window in blocks)
    assert orders[0] != orders[1]


def test_collate_pads_and_shifts_decoder_inputs() -> None:
    pairs = Skewed(np.array([2, 1]), np.array([1, 3]))
    batch = buckets.collate(pairs, np.array([0, 1]), pad_id=1, bos_id=2)
    assert batch.source_BS.tolist() == [[100, 101], [101, 1]]
    assert batch.source_lengths_B.tolist() == [2, 1]
    assert batch.targets_BT.tolist() == [[1000, 1, 1], [1001, 1002, 1003]]
    assert batch.inputs_BT.tolist() == [[2, 1, 1], [2, 1001, 1002]]
    assert batch.target_lengths_B.tolist() == [1, 3]
    assert {array.dtype for array in batch} == {np.dtype(np.int64)}


def test_collate_of_no_lines_has_no_rows() -> None:
    batch = buckets.collate(skewed(3), np.empty(0, np.int64), pad_id=1, bos_id=2)
    assert [array.shape[0] for array in batch] == [0] * 5
    assert batch.source_BS.ndim == 2


def test_planning_reads_at_most_one_shuffle_buffer_ahead() -> None:
    many = np.full(4 * buckets.SHUFFLE_LINES, 4)
    plan = buckets.plan(Counting(many, many), seed=1, epoch=0, batch_lines=512)
    Counting.num_read = 0
    next(plan)
    assert Counting.num_read <= buckets.SHUFFLE_LINES


def test_a_plan_from_a_later_pool_reads_its_shuffle_buffer_and_the_lines_that_were_carried_to_it() -> None:
    pairs = skewed(3 * buckets.SHUFFLE_LINES - 7)
    whole = list(buckets.plan(pairs, seed=1, epoch=0, batch_tokens=1500))
    for pool in (1, 20, 47):
        first = next(number for number, batch in enumerate(whole) if batch.start.pool == pool)
        start = whole[first].start
        assert start.num_batches == first
        Counting.num_read = 0
        rest = buckets.plan(Counting(pairs.source, pairs.target), seed=1, epoch=0, batch_tokens=1500, start=start)
        assert next(rest).lines.tolist() == whole[first].lines.tolist()
        assert Counting.num_read <= buckets.SHUFFLE_LINES + len(start.carried)
        assert [batch.lines.tolist() for batch in rest] == [batch.lines.tolist() for batch in whole[first + 1 :]]
