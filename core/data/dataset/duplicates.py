"""Exact duplicates in a corpus of any size, found by hash partitioning on disk.

First each part writes the hashes of its lines, grouped by partition. Then each partition is read from the files of all
parts, and the lines that repeat an earlier one are written, grouped by part. Both kinds of file begin with the start of
each group, so that a reader fetches one group by one range request.
"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from core.storage import location

PARTITION_BYTES = 1 << 26
"""Approximate memory for the hashes of one partition."""
# Little-endian on every machine, since the files pass between nodes.
_HASH = np.dtype([("high", "<u8"), ("low", "<u8"), ("line", "<i8")])

Hashes = npt.NDArray[np.void]
Lines = npt.NDArray[np.int64]


def num_partitions(num_lines: int) -> int:
    """Returns the number of partitions with which each fits into `PARTITION_BYTES`."""
    return 1 + num_lines * _HASH.itemsize // PARTITION_BYTES


def hash_lines(lines: Iterable[tuple[int, Sequence[str]]]) -> Hashes:
    """Returns the line numbers with a 128-bit hash of the sides of each line."""
    rows = []
    for number, sides in lines:
        # A line feed keeps the sides apart: no side contains one. 128 bits make a chance collision negligible.
        digest = hashlib.blake2b("\n".join(sides).encode(), digest_size=16).digest()
        rows.append((int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little"), number))
    return np.array(rows, dtype=_HASH)


def pack_hashes(hashes: Hashes, partitions: int) -> bytes:
    """Returns the file of one part: its hashes grouped by partition, in line order within each."""
    # By the hash, so that equal lines of all parts meet in one partition, whichever worker read them.
    partition_of = (hashes["high"] % np.uint64(partitions)).astype(np.int64)
    # Stable keeps the line order within a partition: equal parts give equal bytes.
    order = np.argsort(partition_of, kind="stable")
    starts = np.searchsorted(partition_of[order], np.arange(partitions + 1))
    return starts.astype("<i8").tobytes() + hashes[order].tobytes()


def read_hashes(file: location.Location, partition: int, partitions: int) -> Hashes:
    """Reads the hashes of one partition from the file of one part."""
    return np.frombuffer(_read_group(file, partition, partitions, _HASH.itemsize), dtype=_HASH)


def find_duplicates(hashes_of_parts: Sequence[Hashes]) -> Lines:
    """Returns the sorted numbers of the lines that repeat an earlier one."""
    # The empty array gives the type where there are no parts.
    hashes = np.concatenate([np.empty(0, _HASH), *hashes_of_parts])
    # Equal hashes become neighbours, in line order: all but the first of them are duplicates.
    hashes = hashes[np.lexsort((hashes["line"], hashes["low"], hashes["high"]))]
    same = (hashes["high"][1:] == hashes["high"][:-1]) & (hashes["low"][1:] == hashes["low"][:-1])
    return np.sort(hashes["line"][1:][same]).astype(np.int64)


def pack_duplicates(lines: Lines, part_starts: Sequence[int]) -> bytes:
    """Returns the file of one partition: the lines that repeat an earlier one, grouped by part."""
    starts = [*np.searchsorted(lines, part_starts).tolist(), len(lines)]
    return np.array(starts, dtype="<i8").tobytes() + lines.astype("<i8").tobytes()


def read_duplicates(file: location.Location, part: int, num_parts: int) -> Lines:
    """Reads the duplicate lines of one part from the file of one partition."""
    return np.frombuffer(_read_group(file, part, num_parts, 8), dtype="<i8").astype(np.int64)


def _read_group(file: location.Location, group: int, num_groups: int, item_bytes: int) -> bytes:
    """Reads the items of one group by two range requests: its start and stop, then the items."""
    start, stop = np.frombuffer(file.read_range(8 * group, 8 * group + 16), dtype="<i8").tolist()
    # After the starts of all groups and the end of the last one.
    body = 8 * (num_groups + 1)
    return file.read_range(body + item_bytes * start, body + item_bytes * stop)
