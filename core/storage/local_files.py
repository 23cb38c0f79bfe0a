"""Local files: atomic and durable writes, with put-if-absent by hard link.

A file is written under a temporary name in the same folder, synced, then linked or renamed, and the folder is synced.
"""

import errno
import os
import shutil
import stat
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Literal

# Not readable by other users; the umask can only take more away.
FILE_MODE = 0o640
FOLDER_MODE = 0o750
_TEMPORARY = (".writing-", ".tmp")
# What filesystems without hard links answer, such as FAT and some FUSE mounts. Others of link's errors are real ones.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


def is_temporary(name: str) -> bool:
    """Returns whether this is the temporary name of a writer that is running or was killed; readers ignore it."""
    return name.startswith(_TEMPORARY[0]) and name.endswith(_TEMPORARY[1])


def create(path: Path, write: Callable[[BinaryIO], object], mode: int = FILE_MODE) -> bool:
    """Creates a file with the permissions `mode` unless its name is taken; the name never shows partial content.

    Returns:
        False if the name is taken.
    """
    # Only saves writing a copy for nothing: the link below decides.
    if path.exists():
        return False
    make_folder(path.parent)
    temporary = _write_beside(path, write, mode)
    try:
        try:
            # A rename would replace the file of another writer; a link fails where the name is taken.
            os.link(temporary, path)
        except FileExistsError:
            # NFS may repeat a link request whose reply was lost: a second link to our file means that it was ours.
            if temporary.stat().st_nlink < 2:
                return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _create_without_links(path, write, mode)
    finally:
        temporary.unlink()
    sync_folder(path.parent)
    return True


def replace(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Replaces a file, or creates it: a reader sees the old or the new content, never a mixture."""
    make_folder(path.parent)
    temporary = _write_beside(path, write)
    try:
        # The content is synced already: else a power loss could leave the new name with no content.
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def remove(path: Path) -> None:
    """Deletes a file durably, if it exists."""
    try:
        path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return
    sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Creates a folder and its parents durably."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        # Another process may create it at the same time.
        path.mkdir(mode=FOLDER_MODE, exist_ok=True)
        sync_folder(path.parent)


class IrregularFileError(OSError):
    """A pipe, a device or a socket, named where a regular file is needed; the argument is its kind."""


def kind(path: Path) -> Literal["file", "folder", "pipe", "socket", "device"]:
    """Returns the kind of what a path names; symbolic links are followed."""
    return _kind(path.stat().st_mode)


def _kind(mode: int) -> Literal["file", "folder", "pipe", "socket", "device"]:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    return "pipe" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"


def open_regular(path: Path) -> BinaryIO:
    """Opens a regular file for reading. Anything else is refused first: opening or reading it may never end.

    Raises:
        IsADirectoryError: the path is a folder.
        IrregularFileError: it is a pipe, a device or a socket.
    """
    size_bytes(path)
    return path.open("rb")


def read(path: Path, start: int, stop: int) -> bytes:
    """Reads the bytes from `start` up to `stop`, or up to the end of the file."""
    with open_regular(path) as file:
        file.seek(start)
        return file.read(stop - start)


def size_bytes(path: Path) -> int:
    """Returns the size of a regular file; a pipe or a device has none, although the system says 0.

    Raises:
        IsADirectoryError: the path is a folder.
        IrregularFileError: it is a pipe, a device or a socket.
    """
    status = path.stat()
    # A folder has a size as well, of its entry, which a caller would take for that of a file.
    what = _kind(status.st_mode)
    if what == "folder":
        raise IsADirectoryError(errno.EISDIR, "is a folder")
    if what != "file":
        raise IrregularFileError(what)
    return status.st_size


def copy(source: Path, target: BinaryIO) -> None:
    """Copies a file's bytes into an open file."""
    with source.open("rb") as file:
        shutil.copyfileobj(file, target, 1 << 20)


def sync_folder(folder: Path) -> None:
    """Syncs a folder, so that the names in it survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_beside(path: Path, write: Callable[[BinaryIO], object], mode: int = FILE_MODE) -> Path:
    # In the same folder, since a link or rename cannot cross filesystems; unique, so a killed writer blocks no other.
    temporary = path.parent / f"{_TEMPORARY[0]}{uuid.uuid4().hex}{_TEMPORARY[1]}"
    try:
        # BaseException below: an interrupted write (KeyboardInterrupt) must leave no temporary file behind either.
        _write_new(temporary, write, mode)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _write_new(path: Path, write: Callable[[BinaryIO], object], mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        write(file)
        # Before the fsync, which sees only what Python's buffer has handed over.
        file.flush()
        os.fsync(file.fileno())


def _create_without_links(path: Path, write: Callable[[BinaryIO], object], mode: int) -> bool:
    """Creates a file on a filesystem without hard links, by exclusive create of its final name.

    A crash may leave a truncated file there, which the hashes in manifests reveal.
    """
    try:
        _write_new(path, write, mode)
    except FileExistsError:
        return False
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    return True
