"""Finding equal lines in a corpus of any size: hashes are spread over partitions on disk, each small enough.

First every part writes the hashes of its lines, sorted by partition; then each partition is read from all parts and
gives the lines that repeat an earlier one, sorted by part. Both kinds of file begin with the places at which
their stretches start, so that a reader fetches its stretch alone.
"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from core.storage import location

PARTITION_BYTES = 1 << 26
"""What the hashes of one partition may take in memory, about."""
_HASH = np.dtype([("high", "<u8"), ("low", "<u8"), ("line", "<i8")])

Hashes = npt.NDArray[np.void]
Lines = npt.NDArray[np.int64]


def num_partitions(num_lines: int) -> int:
    """Returns how many partitions keep each within its share of memory."""
    return 1 + num_lines * _HASH.itemsize // PARTITION_BYTES


def hash_lines(lines: Iterable[tuple[int, Sequence[str]]]) -> Hashes:
    """Returns a 128-bit hash of the sides of each line, with its number."""
    rows = []
    for number, sides in lines:
        digest = hashlib.blake2b("\n".join(sides).encode(), digest_size=16).digest()
        rows.append((int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little"), number))
    return np.array(rows, dtype=_HASH)


def pack_hashes(hashes: Hashes, partitions: int) -> bytes:
    """Returns the file of one part: its hashes by partition, in line order in each."""
    partition_of = (hashes["high"] % np.uint64(partitions)).astype(np.int64)
    order = np.argsort(partition_of, kind="stable")
    starts = np.searchsorted(partition_of[order], np.arange(partitions + 1))
    return starts.astype("<i8").tobytes() + hashes[order].tobytes()


def read_hashes(place: location.Location, partition: int, partitions: int) -> Hashes:
    """Fetches the hashes of one partition from the file of one part."""
    return np.frombuffer(_stretch(place, partition, partitions, _HASH.itemsize), dtype=_HASH)


def repeats(pieces: Sequence[Hashes]) -> Lines:
    """Returns the sorted numbers of the lines that repeat an earlier one."""
    hashes = np.concatenate([np.empty(0, _HASH), *pieces])
    hashes = hashes[np.lexsort((hashes["line"], hashes["low"], hashes["high"]))]
    same = (hashes["high"][1:] == hashes["high"][:-1]) & (hashes["low"][1:] == hashes["low"][:-1])
    return np.sort(hashes["line"][1:][same]).astype(np.int64)


def pack_repeats(lines: Lines, part_starts: Sequence[int]) -> bytes:
    """Returns the file of one partition: the lines that repeat an earlier one, by the part that they are in."""
    starts = [*np.searchsorted(lines, part_starts).tolist(), len(lines)]
    return np.array(starts, dtype="<i8").tobytes() + lines.astype("<i8").tobytes()


def read_repeats(place: location.Location, part: int, num_parts: int) -> Lines:
    """Fetches the lines of one part from the file of one partition."""
    return np.frombuffer(_stretch(place, part, num_parts, 8), dtype="<i8").astype(np.int64)


def _stretch(place: location.Location, number: int, num_stretches: int, item_bytes: int) -> bytes:
    start, stop = np.frombuffer(place.read_range(8 * number, 8 * number + 16), dtype="<i8").tolist()
    body = 8 * (num_stretches + 1)
    return place.read_range(body + item_bytes * start, body + item_bytes * stop)
