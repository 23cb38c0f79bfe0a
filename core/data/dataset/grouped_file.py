"""Files of groups: consecutive groups are read by two range requests, and all of them by one.

A file begins with the offset and the CRC-32 of each group: the hash in its name says nothing of a range.
"""

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from core import errors
from core.storage import commit, location

# Little-endian on every machine, since the files pass between nodes.
_ENTRY = np.dtype([("start", "<i8"), ("crc32", "<u4")])


def pack(body: bytes, bounds: Sequence[int]) -> bytes:
    """Returns a file of groups; group i has the bytes from `bounds[i]` to `bounds[i + 1]` of the body."""
    entries = np.zeros(len(bounds), _ENTRY)
    entries["start"] = bounds
    view = memoryview(body)
    entries["crc32"][:-1] = [zlib.crc32(view[bounds[i] : bounds[i + 1]]) for i in range(len(bounds) - 1)]
    return entries.tobytes() + body


def read(folder: location.Location, name: str, groups: range, num_groups: int) -> memoryview:
    """Reads consecutive groups, one after the other, of a file that has `num_groups`.

    Raises:
        NotFoundError: the file does not exist.
        IntegrityError: it is damaged.
    """
    return _read(folder, name, groups, num_groups)[0]


def read_each(folder: location.Location, name: str, groups: range, num_groups: int) -> list[memoryview]:
    """Reads consecutive groups; see `read`."""
    body, starts = _read(folder, name, groups, num_groups)
    return [body[starts[i] : starts[i + 1]] for i in range(len(groups))]


def _read(
    folder: location.Location, name: str, groups: range, num_groups: int
) -> tuple[memoryview, npt.NDArray[np.int64]]:
    """Returns the bytes of consecutive groups, and where each of them starts and the last one ends."""
    header_bytes = _ENTRY.itemsize * (num_groups + 1)
    file = folder.join(name)
    if len(groups) == num_groups:
        data = memoryview(commit.read_content(folder, name))
        entries, body = np.frombuffer(data[:header_bytes], _ENTRY), data[header_bytes:]
    else:
        # With the entry after the last group, where that group ends.
        header = file.read_range(_ENTRY.itemsize * groups.start, _ENTRY.itemsize * (groups.stop + 1))
        if len(header) != _ENTRY.itemsize * (len(groups) + 1):
            raise _damaged_error(file, groups)
        entries = np.frombuffer(header, _ENTRY)
        first, last = int(entries["start"][0]), int(entries["start"][-1])
        body = memoryview(file.read_range(header_bytes + first, header_bytes + last) if 0 <= first < last else b"")
    starts = entries["start"] - entries["start"][0]
    if len(body) != starts[-1]:
        raise _damaged_error(file, groups)
    for i in range(len(groups)):
        if zlib.crc32(body[starts[i] : starts[i + 1]]) != entries["crc32"][i]:
            raise _damaged_error(file, groups)
    return body, starts


def _damaged_error(file: location.Location, groups: range) -> errors.IntegrityError:
    return errors.IntegrityError(
        f"{file}: is damaged in groups {groups.start} to {groups.stop - 1}; restore it or make it again"
    )
