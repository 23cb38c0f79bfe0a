"""Shuffles: files that are grouped by partition are read again partition by partition.

Of G files and K partitions, G·K ranges would be read: 230 million for the line hashes of a TiB. So files are gathered
first, about √G of them for about √K partitions at a time.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PartitionsTask:
    """Some consecutive partitions of several files.

    Attributes:
        name: of its commit record.
        files: the files.
        partitions: those that each file has.
        wanted: the partitions to read.
        num_partitions: of the source.
    """

    name: str
    files: tuple[str, ...]
    partitions: range
    wanted: range
    num_partitions: int
    weight: int = 1

    @property
    def groups(self) -> range:
        """The wanted partitions, as groups of a file."""
        return range(self.wanted.start - self.partitions.start, self.wanted.stop - self.partitions.start)


def gather_tasks(stem: str, files: Sequence[str], num_partitions: int) -> list[PartitionsTask]:
    """Returns the tasks that gather partitions; none where that saves no request.

    Args:
        stem: of the names of the tasks.
        files: each has all partitions.
        num_partitions: their number.
    """
    groups, buckets = _split(len(files)), _split(num_partitions)
    with_gathering = len(files) * len(buckets) + len(groups) * (len(buckets) + num_partitions)
    if with_gathering >= len(files) * num_partitions:
        return []
    everything = range(num_partitions)
    return [
        PartitionsTask(
            f"{stem}-{bucket:05d}-{group:05d}",
            tuple(files[numbers.start : numbers.stop]),
            everything,
            wanted,
            num_partitions,
        )
        for bucket, wanted in enumerate(buckets)
        for group, numbers in enumerate(groups)
    ]


def partition_tasks(
    stem: str, files: Sequence[str], gathered: Sequence[PartitionsTask], num_partitions: int
) -> list[PartitionsTask]:
    """Returns a task for each partition.

    Args:
        stem: of the names of the tasks.
        files: those that the tasks of `gathered` wrote, in their order; without any, files with all partitions.
        gathered: what `gather_tasks` returned.
        num_partitions: the number of partitions.
    """
    files_of: dict[range, list[str]] = {}
    for task, name in zip(gathered, files, strict=False):
        files_of.setdefault(task.wanted, []).append(name)
    if not gathered:
        files_of[range(num_partitions)] = [*files]
    return [
        PartitionsTask(
            f"{stem}-{partition:05d}", tuple(names), partitions, range(partition, partition + 1), num_partitions
        )
        for partitions, names in files_of.items()
        for partition in partitions
    ]


def _split(number: int) -> list[range]:
    """Returns consecutive ranges that make up `range(number)`, about as many as each is long."""
    length = max(1, math.isqrt(number))
    return [range(start, min(start + length, number)) for start in range(0, number, length)]
