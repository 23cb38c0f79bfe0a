"""Duplicate lines by hash partitioning, against a plain set."""

import random
from pathlib import Path

import pytest

from core.data.dataset import duplicates
from core.storage import location


@pytest.mark.parametrize("partitions", [1, 3, 8])
def test_partitioned_duplicates_equal_those_of_a_set(tmp_path: Path, partitions: int) -> None:
    chance = random.Random(partitions)
    lines = [(chance.choice("abcdefghij") * chance.randint(1, 3), chance.choice("xy")) for _ in range(120)]
    part_starts = [0, 50, 50, 51, 100]
    ends = [*part_starts[1:], len(lines)]
    folder = location.Location.parse(str(tmp_path))
    for part, (start, end) in enumerate(zip(part_starts, ends, strict=True)):
        hashes = duplicates.hash_lines((number, lines[number]) for number in range(start, end))
        folder.join(f"hashes-{part}").put_if_absent(duplicates.pack_hashes(hashes, partitions))
    for partition in range(partitions):
        hashes_of_parts = [
            duplicates.read_hashes(folder.join(f"hashes-{part}"), partition, partitions)
            for part in range(len(part_starts))
        ]
        data = duplicates.pack_duplicates(duplicates.find_duplicates(hashes_of_parts), part_starts)
        folder.join(f"repeats-{partition}").put_if_absent(data)
    for part, (start, end) in enumerate(zip(part_starts, ends, strict=True)):
        duplicate_lines = [
            line
            for partition in range(partitions)
            for line in duplicates.read_duplicates(folder.join(f"repeats-{partition}"), part, len(part_starts)).tolist()
        ]
        expected = [number for number in range(start, end) if lines[number] in lines[:number]]
        assert sorted(duplicate_lines) == expected


def test_hash_includes_the_border_between_sides() -> None:
    hashes = duplicates.hash_lines([(0, ("ab", "c")), (1, ("a", "bc")), (2, ("abc",)), (3, ("abc", ""))])
    assert len(duplicates.find_duplicates([hashes])) == 0


def test_partitions_fit_into_their_memory() -> None:
    lines = 1_000_000_000
    assert lines * 24 / duplicates.num_partitions(lines) <= duplicates.PARTITION_BYTES
    assert duplicates.num_partitions(10) == 1
