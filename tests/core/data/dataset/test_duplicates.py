"""Duplicate lines by hash partitioning, against a plain set."""

import random
from pathlib import Path

import pytest

from core.data.dataset import duplicates
from core.storage import commit, location


@pytest.mark.parametrize("partitions", [1, 3, 8])
def test_partitioned_duplicates_equal_those_of_a_set(tmp_path: Path, partitions: int) -> None:
    chance = random.Random(partitions)
    lines = [(chance.choice("abcdefghij") * chance.randint(1, 3), chance.choice("xy")) for _ in range(120)]
    part_starts = [0, 50, 50, 51, 100]
    ends = [*part_starts[1:], len(lines)]
    folder = location.Location.parse(str(tmp_path))
    everything, parts = range(partitions), range(len(part_starts))
    files = []
    for start, end in zip(part_starts, ends, strict=True):
        hashes = duplicates.hash_lines((number, lines[number]) for number in range(start, end))
        data = duplicates.pack_hashes(hashes, everything, partitions)
        files.append(commit.put_content(folder, "hashes", ".bin", data).name)
    # Gathered in two steps, as where there are many files: two partitions of some files, then one of them.
    found = []
    for held in (range(start, min(start + 2, partitions)) for start in range(0, partitions, 2)):
        gathered = [
            commit.put_content(
                folder,
                "gathered",
                ".bin",
                duplicates.pack_hashes(
                    duplicates.join(duplicates.read_hashes(folder, file, held, partitions) for file in group),
                    held,
                    partitions,
                ),
            ).name
            for group in (files[:3], files[3:])
        ]
        for partition in held:
            groups = range(partition - held.start, partition - held.start + 1)
            hashes = duplicates.join(duplicates.read_hashes(folder, file, groups, len(held)) for file in gathered)
            data = duplicates.pack_duplicates(duplicates.find_duplicates(hashes), part_starts)
            found.append(commit.put_content(folder, "repeats", ".bin", data).name)
    merged = duplicates.merge(duplicates.read_duplicates(folder, file, parts, len(parts)) for file in found)
    file = commit.put_content(folder, "merged", ".bin", duplicates.pack_duplicates(merged, part_starts)).name
    for part, (start, end) in enumerate(zip(part_starts, ends, strict=True)):
        expected = [number for number in range(start, end) if lines[number] in lines[:number]]
        assert duplicates.read_duplicates(folder, file, range(part, part + 1), len(parts)).tolist() == expected


def test_hash_includes_the_border_between_sides() -> None:
    hashes = duplicates.hash_lines([(0, ("ab", "c")), (1, ("a", "bc")), (2, ("abc",)), (3, ("abc", ""))])
    assert len(duplicates.find_duplicates(hashes)) == 0


def test_partitions_fit_into_their_memory() -> None:
    lines = 1_000_000_000
    assert lines * 24 / duplicates.num_partitions(lines) <= duplicates.PARTITION_BYTES
    assert duplicates.num_partitions(10) == 1
