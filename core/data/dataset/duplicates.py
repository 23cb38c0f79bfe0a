"""Exact duplicates in a corpus of any size, found by hash partitioning on disk.

First the hashes of all lines are written, grouped by partition. Then each partition is read from all of these
files, and the lines that repeat an earlier one are written, grouped by part (see `grouped_file`).
"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from core.data.dataset import grouped_file
from core.storage import location

PARTITION_BYTES = 1 << 26
"""Approximate memory for the hashes of one partition, and for those of one file."""
# Little-endian on every machine, since the files pass between nodes.
_HASH = np.dtype([("high", "<u8"), ("low", "<u8"), ("line", "<i8")])
_LINE = np.dtype("<i8")

Hashes = npt.NDArray[np.void]
Lines = npt.NDArray[np.int64]


def num_partitions(num_lines: int) -> int:
    """Returns the number of partitions with which each fits into `PARTITION_BYTES`."""
    return 1 + num_lines * _HASH.itemsize // PARTITION_BYTES


def lines_of_file() -> int:
    """Returns the number of lines whose hashes fit into `PARTITION_BYTES`."""
    return PARTITION_BYTES // _HASH.itemsize


def hash_lines(lines: Iterable[tuple[int, Sequence[str]]]) -> Hashes:
    """Returns the line numbers with a 128-bit hash of the sides of each line."""
    rows = []
    for number, sides in lines:
        # A line feed keeps the sides apart: no side contains one. 128 bits make a chance collision negligible.
        digest = hashlib.blake2b("\n".join(sides).encode(), digest_size=16).digest()
        rows.append((int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little"), number))
    return np.array(rows, dtype=_HASH)


def join(hashes: Iterable[Hashes]) -> Hashes:
    """Returns the hashes of several parts or files, in their order."""
    # The empty array gives the type where there are none.
    return np.concatenate([np.empty(0, _HASH), *hashes])


def pack_hashes(hashes: Hashes, partitions: range, num_partitions: int) -> bytes:
    """Returns a file of hashes, grouped by partition, in the given order within each.

    Args:
        hashes: hashes of these partitions alone.
        partitions: the partitions of the file.
        num_partitions: of the source.
    """
    # By the hash, so that equal lines of all parts meet in one partition, whichever worker read them.
    partition_of = (hashes["high"] % np.uint64(num_partitions)).astype(np.int64)
    # Stable keeps the order within a partition: equal parts give equal bytes.
    order = np.argsort(partition_of, kind="stable")
    starts = np.searchsorted(partition_of[order], np.arange(partitions.start, partitions.stop + 1))
    return grouped_file.pack(hashes[order].tobytes(), (starts * _HASH.itemsize).tolist())


def read_hashes(folder: location.Location, name: str, groups: range, num_groups: int) -> Hashes:
    """Reads the hashes of consecutive groups of a file that has `num_groups`: a group for each of its partitions."""
    return np.frombuffer(grouped_file.read(folder, name, groups, num_groups), dtype=_HASH)


def find_duplicates(hashes: Hashes) -> Lines:
    """Returns the sorted numbers of the lines that repeat an earlier one."""
    # Equal hashes become neighbours, in line order: all but the first of them are duplicates.
    hashes = hashes[np.lexsort((hashes["line"], hashes["low"], hashes["high"]))]
    same = (hashes["high"][1:] == hashes["high"][:-1]) & (hashes["low"][1:] == hashes["low"][:-1])
    return np.sort(hashes["line"][1:][same]).astype(np.int64)


def merge(lines: Iterable[Lines]) -> Lines:
    """Returns the duplicate lines of several files, sorted."""
    return np.sort(np.concatenate([np.empty(0, np.int64), *lines]))


def pack_duplicates(lines: Lines, part_starts: Sequence[int]) -> bytes:
    """Returns a file of sorted duplicate lines, grouped by part.

    Args:
        lines: duplicate lines of these parts alone.
        part_starts: the first line of each part of the file.
    """
    starts = [*np.searchsorted(lines, part_starts).tolist(), len(lines)]
    return grouped_file.pack(lines.astype(_LINE).tobytes(), [start * _LINE.itemsize for start in starts])


def read_duplicates(folder: location.Location, name: str, parts: range, num_parts: int) -> Lines:
    """Reads the duplicate lines of some consecutive parts from a file that has `num_parts`, numbered from 0."""
    return np.frombuffer(grouped_file.read(folder, name, parts, num_parts), dtype=_LINE).astype(np.int64)
