"""Local files of a dataset, memory-mapped, with the errors of a file that is missing or damaged."""

import errno
import hashlib
from pathlib import Path

import pyarrow as pa

from core import errors
from core.storage import local_files


def open_file(path: Path, where: str) -> pa.Buffer:
    """Maps a local file, which `where` names in errors.

    Raises:
        IntegrityError: it is missing.
        StorageError: it cannot be mapped.
    """
    try:
        return map_path(path)
    except FileNotFoundError as error:
        raise damaged(where, "is missing") from error
    except OSError as error:
        # What a process gets that has as many mappings as the kernel allows, however much memory is free.
        is_full = error.errno == errno.ENOMEM
        remedy = "raise vm.max_map_count, or give the process more memory" if is_full else "check the file"
        raise errors.StorageError(f"{where}: cannot be mapped ({error}); {remedy}") from error


def map_path(path: Path) -> pa.Buffer:
    """Maps a local file.

    Raises:
        OSError: it cannot be mapped.
    """
    local_files.size_bytes(path)  # refuses what is not a regular file: opening a pipe would wait for a writer
    # Closed at once: the buffer keeps the mapping, and no file descriptor stays open for each file.
    with pa.memory_map(str(path)) as mapped:
        return mapped.read_buffer()


def check(buffer: pa.Buffer, where: str, size_bytes: int, sha256: str | None) -> None:
    """Checks the size of a file, and its hash unless that is None.

    Raises:
        IntegrityError: one differs; the message has the expected and the actual value.
    """
    if buffer.size != size_bytes:
        raise damaged(where, f"expected {size_bytes} bytes, found {buffer.size}")
    if sha256 is not None:
        actual = hashlib.sha256(memoryview(buffer)).hexdigest()
        if actual != sha256:
            raise damaged(where, f"expected SHA-256 {sha256}, found {actual}")


def damaged(where: str, what: str) -> errors.IntegrityError:
    """Returns the error of a file that is not the one in the index."""
    return errors.IntegrityError(f"{where}: {what}; restore it, or remove the dataset and prepare again")
