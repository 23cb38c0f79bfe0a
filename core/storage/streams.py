"""Streams: pipes and descriptors as inputs, which one process can read once; devices, which are refused; and stdout.

An input stream is copied to a file before anything else reads it: workers and repeated runs need a file that remains.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import BinaryIO, TextIO

from core import errors
from core.storage import local_files, location

# Names whose file depends on the process that opens it, or whose size the system reports as 0.
_OF_THIS_PROCESS = ("/dev/stdin", "/dev/fd/", "/proc/")


def is_stream(path: location.Location) -> bool:
    """Returns whether a location is a pipe, or a descriptor of this process such as `/dev/fd/63`."""
    if not path.is_local:
        return False
    return str(path).startswith(_OF_THIS_PROCESS) or (path.exists() and local_files.kind(path.path) == "pipe")


def refuse_device(path: location.Location, where: str) -> None:
    """Refuses a device or a socket as an input: reading it might never end.

    Raises:
        UsageError: it is one; `where` is the option or setting that names it.
    """
    if path.is_local and path.exists() and (kind := local_files.kind(path.path)) in ("device", "socket"):
        raise errors.UsageError(f"{where}: {str(path)!a} is a {kind}, not a regular file or a pipe; name a file")


@contextlib.contextmanager
def open_stream(path: location.Location) -> Iterator[BinaryIO]:
    """Opens a stream for reading once, from its beginning to its end.

    Raises:
        UsageError: it is a device or a socket.
        StorageError: it cannot be opened.
    """
    refuse_device(path, "input")
    try:
        file = path.path.open("rb")
    except OSError as error:
        raise errors.StorageError(f"{path}: cannot be opened ({error.strerror}); check what writes to it") from error
    with file:
        yield file


@contextlib.contextmanager
def open_stdout(descriptor: int) -> Iterator[TextIO]:
    """Opens a copy of the descriptor of standard output, for text in UTF-8 whatever the terminal's encoding is.

    Raises:
        ClosedOutputError: its reader went away.
        StorageError: it cannot be written, for example to a full disk.
    """
    try:
        # A copy, since closing it must not close the caller's descriptor.
        with os.fdopen(os.dup(descriptor), "w", encoding="utf-8", newline="\n") as out:
            yield out
    except BrokenPipeError as error:
        raise errors.ClosedOutputError("standard output: its reader went away; read it to its end") from error
    except OSError as error:
        raise errors.StorageError(
            f"standard output: cannot be written ({error.strerror}); write to a file with free space"
        ) from error
