"""Local files: atomic and durable writes, with put-if-absent by hard link.

A file is written under a temporary name in the same folder, synced, then linked or renamed, and the folder is synced.
"""

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Literal

from core.storage import temporary

# Not readable by other users; the umask can only take more away.
FILE_MODE = 0o640
FOLDER_MODE = 0o750
_FOLDER_ATTEMPTS = 3
# What filesystems without hard links answer, such as FAT and some FUSE mounts. Others of link's errors are real ones.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


def create(path: Path, write: Callable[[BinaryIO], object], mode: int = FILE_MODE) -> bool:
    """Creates a file with the permissions `mode` unless its name is taken; the name never shows partial content.

    Returns:
        False if the name is taken.
    """
    # Only saves writing a copy for nothing: the link below decides.
    if path.exists():
        return False
    beside = _write_beside(path, write, mode)
    try:
        try:
            # A rename would replace the file of another writer; a link fails where the name is taken.
            os.link(beside, path)
        except FileExistsError:
            # NFS may repeat a link request whose reply was lost: a second link to our file means that it was ours.
            if beside.stat().st_nlink < 2:
                return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _create_without_links(path, write, mode)
    finally:
        beside.unlink()
    sync_folder(path.parent)
    return True


def replace(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Replaces a file, or creates it: a reader sees the old or the new content, never a mixture."""
    beside = _write_beside(path, write)
    try:
        # The content is synced already: else a power loss could leave the new name with no content.
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def move(source: Path, path: Path) -> None:
    """Moves a file to another name on the same filesystem, replacing a file that has it; durable."""
    make_folder(path.parent)
    source.replace(path)
    sync_folder(path.parent)
    sync_folder(source.parent)


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
    # Looked at again when it is open, and opened so that a pipe put there in between would not block.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    file = os.fdopen(descriptor, "rb")
    try:
        _refuse_irregular(os.fstat(descriptor).st_mode)
    except BaseException:
        file.close()
        raise
    return file


def read(path: Path, start: int, stop: int) -> bytes:
    """Reads the bytes from `start` up to `stop`, or up to the end of the file."""
    with open_regular(path) as file:
        # Python allocates all that is asked for. The kernel's own files say that their size is 0.
        size = os.fstat(file.fileno()).st_size or stop
        file.seek(start)
        return file.read(max(0, min(stop, size) - start))


def size_bytes(path: Path) -> int:
    """Returns the size of a regular file; a pipe or a device has none, although the system says 0.

    Raises:
        IsADirectoryError: the path is a folder.
        IrregularFileError: it is a pipe, a device or a socket.
    """
    status = path.stat()
    _refuse_irregular(status.st_mode)
    return status.st_size


def _refuse_irregular(mode: int) -> None:
    # A folder has a size as well, of its entry, which a caller would take for that of a file.
    what = _kind(mode)
    if what == "folder":
        raise IsADirectoryError(errno.EISDIR, "is a folder")
    if what != "file":
        raise IrregularFileError(what)


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
    beside = temporary.file_beside(path)
    attempt = 0
    while True:
        attempt += 1
        make_folder(path.parent)
        try:
            # BaseException below: an interrupted write (KeyboardInterrupt) must leave no temporary file behind either.
            _write_new(beside, write, mode)
        except FileNotFoundError:
            # A driver that finished has just removed the folder, which was empty.
            if attempt == _FOLDER_ATTEMPTS:
                raise
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        else:
            return beside


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
