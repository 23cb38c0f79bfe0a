"""Groups of parts: all of them in order, many tasks first, and then no task of too many parts."""

import pytest

from core.data.dataset import shard_table
from workers.prepare import part_groups


@pytest.mark.parametrize("num_items", [0, 1, 127, 255, 256, 1000, 65_536])
def test_groups_are_consecutive_and_keep_workers_busy(num_items: int) -> None:
    groups = part_groups.of(range(num_items))
    assert [item for group in groups for item in group] == list(range(num_items))
    assert len(groups) >= min(num_items, part_groups.LEAST_TASKS)
    assert max(map(len, groups), default=0) <= part_groups.MOST_PARTS


def _table(sizes_bytes: list[int]) -> shard_table.ShardTable:
    records = [
        shard_table.ShardRecord(f"train/part-{number:05d}.arrow", 1, {"text": 1}, size, f"{number:064x}")
        for number, size in enumerate(sizes_bytes)
    ]
    return shard_table.ShardTable.of(records, ("text",))


@pytest.mark.parametrize(
    ("sizes_bytes", "expected"),
    [
        ([1 << 23] * 3, [1, 1, 1]),
        ([1 << 20] * 9, [4, 4, 1]),
        ([1] * 100, [64, 36]),
        ([1 << 23] * 256, [2] * 128),
    ],
)
def test_small_shards_are_read_together(sizes_bytes: list[int], expected: list[int]) -> None:
    table = _table(sizes_bytes)
    groups = part_groups.of_shards(table, 1 << 24)
    assert [*map(len, groups)] == expected
    assert [shard for group in groups for shard in group] == list(table)


def test_a_task_reads_no_more_small_shards_than_a_part_has_bytes() -> None:
    groups = part_groups.of_shards(_table([1 << 10] * 6), 1 << 11)
    assert [*map(len, groups)] == [2, 2, 2]
