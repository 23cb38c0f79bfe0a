"""Groups of parts, or of their shards, that one task takes: a file and a commit record for several of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from core.data.dataset import shard_table
from workers.prepare import line_tasks

LEAST_TASKS = 128
"""Tasks that a pass has before any takes several parts: more workers than most clusters have."""
MOST_PARTS = 64
"""Parts of a task at most: what a worker that dies has done in vain."""
LEAST_BYTES = 1 << 22
"""Bytes of shards below which a task takes more, up to the size of a part: those of held-out lines are small."""

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class PartsTask:
    """Consecutive parts of a source, whose lines are counted or sampled into one file."""

    name: str
    parts: tuple[line_tasks.PartTask, ...]

    @property
    def weight(self) -> int:
        """The number of lines."""
        return sum(part.weight for part in self.parts)


def of(items: Sequence[_Item], most: int = MOST_PARTS) -> list[tuple[_Item, ...]]:
    """Returns consecutive groups of equal size, but for the last; the size depends on the number of items alone.

    Args:
        items: the parts.
        most: items of a group, if that is less than `MOST_PARTS`; at least one.
    """
    size = max(1, min(len(items) // LEAST_TASKS, MOST_PARTS, most))
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]


def of_shards(table: shard_table.ShardTable, part_size_bytes: int) -> list[tuple[shard_table.ShardRecord, ...]]:
    """Returns consecutive groups of shards of about equal bytes, which depend on the shards and the size of parts."""
    least_bytes = max(min(LEAST_BYTES, part_size_bytes), int(table.size_bytes.sum()) // LEAST_TASKS)
    groups: list[list[shard_table.ShardRecord]] = []
    num_bytes = 0
    for shard in table:
        if not groups or num_bytes + shard.size_bytes > least_bytes or len(groups[-1]) == MOST_PARTS:
            groups.append([])
            num_bytes = 0
        groups[-1].append(shard)
        num_bytes += shard.size_bytes
    return [*map(tuple, groups)]
