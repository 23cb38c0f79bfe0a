"""Columns of numbers in files: written in order, read in slices, mapped for access in any order.

They hold what is larger than memory should be. Pages of a mapping are not the process's own: the system takes them back
when it needs them, and all processes that map a file share them.
"""

import io
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Column:
    """Numbers of one type, in a file that is made by appending blocks of them.

    Args:
        path: of the file, which must not exist.
        dtype: type of the numbers.
    """

    def __init__(self, path: Path, dtype: npt.DTypeLike) -> None:
        self.path = path
        self.dtype = np.dtype(dtype)
        self._size = 0
        self._file: io.FileIO | None = io.FileIO(path, "x")

    def __len__(self) -> int:
        """Returns how many numbers there are."""
        return self._size

    def append(self, values: Array) -> None:
        """Appends a block, converted to the column's type."""
        assert self._file is not None, f"{self.path} is closed"
        np.ascontiguousarray(values, self.dtype).tofile(self._file)
        self._size += len(values)

    def close(self) -> "Column":
        """Ends the writing, and frees the descriptor."""
        if self._file is not None:
            self._file.close()
            self._file = None
        return self

    def read(self, start: int, stop: int) -> Array:
        """Returns a copy of the numbers [start, stop)."""
        return np.fromfile(self.path, self.dtype, max(0, stop - start), offset=start * self.dtype.itemsize)

    def blocks(self, size: int) -> Iterator[Array]:
        """Yields all numbers in order, `size` at a time."""
        return (self.read(start, min(start + size, len(self))) for start in range(0, len(self), size))

    def mapped(self) -> Array:
        """Returns all numbers as a mapping of the file; what is written to it does not reach the file."""
        return Mapping(self.path).array(self.dtype, 0, len(self))

    def writable(self, size: int) -> Array:
        """Makes an empty column one of `size` zeros, and returns a mapping through which the file is written."""
        self.close()
        os.truncate(self.path, size * self.dtype.itemsize)
        self._size = size
        return np.memmap(self.path, self.dtype, "r+") if size else np.empty(0, self.dtype)

    def remove(self) -> None:
        """Deletes the file; mappings of it stay valid."""
        self.close().path.unlink()
        self._size = 0


class Mapping:
    """A whole file in the address space, private to the process where it is written to.

    Raises:
        OSError: the file cannot be opened or mapped.
    """

    def __init__(self, path: Path) -> None:
        # Closed at once: the mapping keeps the file, and no descriptor stays open for each.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.size_bytes = os.fstat(descriptor).st_size
            # An empty file cannot be mapped.
            self._memory: mmap.mmap | bytearray = bytearray()
            if self.size_bytes:
                self._memory = mmap.mmap(descriptor, self.size_bytes, access=mmap.ACCESS_COPY)
        finally:
            os.close(descriptor)

    @property
    def memory(self) -> mmap.mmap | bytearray:
        """The bytes of the file."""
        return self._memory

    def array(self, dtype: npt.DTypeLike, offset: int, size: int) -> Array:
        """Returns `size` numbers that begin at the byte `offset`; they keep the mapping alive."""
        return np.frombuffer(self._memory, dtype, size, offset) if size else np.empty(0, dtype)

    def release(self) -> None:
        """Gives the pages that were read back to the system, which may still hold them for the next reader."""
        if isinstance(self._memory, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            self._memory.madvise(mmap.MADV_DONTNEED)
