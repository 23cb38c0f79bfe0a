"""Word counts of a corpus of any size, merged on disk partition by partition.

Each file has the words of some parts of the corpus, grouped by the partition of their hash. All counts of a word meet
in one partition, whose merge therefore knows its frequency in the whole corpus, and leaves out what no vocabulary
takes: the vocabulary is the same as that of all counts together.
"""

import collections
import heapq
import itertools
import json
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from core.data.dataset import grouped_file
from core.data.tokens import vocabulary
from core.storage import location

PARTITION_BYTES = 1 << 32
"""Text whose words are one partition: some three million words in a text of that size, in 1 GiB of memory."""


class Entry(NamedTuple):
    """A word, its number of occurrences, and the position of the first one, which orders words of equal frequency."""

    word: str
    frequency: int
    position: int


def num_partitions(num_bytes: int) -> int:
    """Returns the number of partitions for a text of this size."""
    return 1 + num_bytes // PARTITION_BYTES


def pack(counts: Mapping[str, vocabulary.Counts], first_position: int, num_partitions: int) -> bytes:
    """Returns a file of the words of some parts, grouped by partition.

    Args:
        counts: by column, in the order of first occurrence.
        first_position: the position of the first word of each column.
        num_partitions: of the corpus.
    """
    groups: list[dict[str, list[Entry]]] = [{column: [] for column in counts} for _ in range(num_partitions)]
    for column, column_counts in counts.items():
        for position, (word, count) in enumerate(column_counts.by_unit.items(), first_position):
            groups[zlib.crc32(word.encode()) % num_partitions][column].append(Entry(word, count, position))
    # A line for each file, so that groups of several files are joined as they are.
    return _pack([json.dumps(group, ensure_ascii=False, separators=(",", ":")).encode() + b"\n" for group in groups])


def gather(folder: location.Location, names: Iterable[str], groups: range, num_groups: int) -> bytes:
    """Returns a file of consecutive groups of several files, each of which has `num_groups`.

    Raises:
        IntegrityError: a file is damaged.
    """
    files = [grouped_file.read_each(folder, name, groups, num_groups) for name in names]
    return _pack([b"".join(pieces) for pieces in zip(*files, strict=True)])


def _pack(groups: Sequence[bytes]) -> bytes:
    return grouped_file.pack(b"".join(groups), [*itertools.accumulate(map(len, groups), initial=0)])


def merge(groups: Iterable[memoryview], columns: Sequence[str]) -> dict[str, list[Entry]]:
    """Returns by column the words of one partition, from its group in each file, in the order of the files."""
    counts: dict[str, collections.Counter[str]] = {column: collections.Counter() for column in columns}
    positions: dict[str, dict[str, int]] = {column: {} for column in columns}
    for group in groups:
        for line in bytes(group).split(b"\n")[:-1]:
            content = json.loads(line)
            for column in columns:
                counts[column].update({word: count for word, count, _ in content[column]})
                for word, _, position in content[column]:
                    # Files are in the order of the text: the first position stays.
                    positions[column].setdefault(word, position)
    return {
        column: [Entry(word, count, positions[column][word]) for word, count in counts[column].items()]
        for column in columns
    }


def keep(entries: Iterable[Entry], min_freq: int, max_size: int | None, without: Collection[str]) -> list[Entry]:
    """Returns the words that a vocabulary may take, the most frequent first.

    Args:
        entries: all words of some partitions.
        min_freq: least number of occurrences.
        max_size: of the vocabulary.
        without: reserved tokens and symbols, which have an id already.
    """
    frequent = (entry for entry in entries if entry.frequency >= min_freq and entry.word not in without)

    def rank(entry: Entry) -> tuple[int, int]:
        return -entry.frequency, entry.position

    return sorted(frequent, key=rank) if max_size is None else heapq.nsmallest(max_size, frequent, key=rank)


def to_counts(entries: Iterable[Entry]) -> vocabulary.Counts:
    """Returns the words in the order of their first occurrence."""
    in_order = sorted(entries, key=lambda entry: entry.position)
    return vocabulary.Counts(collections.Counter({entry.word: entry.frequency for entry in in_order}))
