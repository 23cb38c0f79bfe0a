"""Content of a file to write: bytes, a local file that may be larger than memory, or what a function writes."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

from core.storage import location

Content = bytes | Path
Write = Callable[[BinaryIO], object]
"""A function that writes a content into an open file. It may be called again, and writes the same bytes then."""


def sha256_and_size(content: Content) -> tuple[str, int]:
    """Returns the SHA-256 of some content, and its size in bytes."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest(), len(content)
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), content.stat().st_size


def put_if_absent(path: location.Location, content: Content) -> bool:
    """Writes a new file; see `Location.put_if_absent`."""
    return path.put_if_absent(content) if isinstance(content, bytes) else path.put_file_if_absent(content)


def replace(path: location.Location, content: Content) -> None:
    """Writes a file, replacing an existing one; see `Location.replace`."""
    if isinstance(content, bytes):
        path.replace(content)
    else:
        path.replace_by_file(content)


class Hashed:
    """A function that writes a content, and knows the hash and the size of what was written.

    Args:
        write: writes the content.
        check: called behind it; an error of it leaves no file.
    """

    def __init__(self, write: Write, check: Callable[[], object] = lambda: None) -> None:
        self._write = write
        self._check = check
        self._written: _HashingFile | None = None

    def __call__(self, file: BinaryIO) -> None:
        """Writes the content into an open file."""
        written = _HashingFile(file)
        self._write(cast(BinaryIO, written))
        self._check()
        # Not before: a writer that stops half way has written another content.
        self._written = written

    def sha256_and_size(self) -> tuple[str, int]:
        """Returns the SHA-256 and the size in bytes; writes the content to nowhere if it was not written."""
        if self._written is None:
            self(cast(BinaryIO, _Nowhere()))
        assert self._written is not None
        return self._written.digest.hexdigest(), self._written.tell()


class _Nowhere(io.RawIOBase):
    def write(self, data: Any) -> int:
        return len(data)


class _HashingFile(io.RawIOBase):
    """A file that passes bytes on to another one."""

    def __init__(self, file: BinaryIO) -> None:
        self.digest = hashlib.sha256()
        self._file = file
        self._size_bytes = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size_bytes

    def write(self, data: Any) -> int:
        self._file.write(data)
        self.digest.update(data)
        self._size_bytes += len(data)
        return len(data)
