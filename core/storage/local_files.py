"""How bytes reach a local name: whole, durable, and at most once where that is asked for."""

import errno
import os
import shutil
import stat
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

FILE_MODE = 0o640
FOLDER_MODE = 0o750
_TEMPORARY = (".writing-", ".tmp")
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


def is_temporary(name: str) -> bool:
    """Whether a writer that is busy or was killed left this name; no reader looks at it."""
    return name.startswith(_TEMPORARY[0]) and name.endswith(_TEMPORARY[1])


def create(path: Path, write: Callable[[BinaryIO], object]) -> bool:
    """Puts a new file in place unless its name is taken; the name never shows less than the whole.

    Returns:
        False if something is there already.
    """
    if path.exists():
        return False
    make_folder(path.parent)
    temporary = _write_beside(path, write)
    try:
        try:
            os.link(temporary, path)
        except FileExistsError:
            # A network filesystem may repeat a link whose reply was lost: two links mean that it was ours.
            if temporary.stat().st_nlink < 2:
                return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _create_without_links(path, write)
    finally:
        temporary.unlink()
    sync_folder(path.parent)
    return True


def replace(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Puts a file in place of what is there, if anything: a reader sees the old or the new one, whole."""
    make_folder(path.parent)
    temporary = _write_beside(path, write)
    try:
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def remove(path: Path) -> None:
    """Removes a file, durably; one that is missing is fine."""
    try:
        path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return
    sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Makes a folder and its parents, durably."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for made in reversed(missing):
        made.mkdir(mode=FOLDER_MODE, exist_ok=True)
        sync_folder(made.parent)


def read(path: Path, start: int, stop: int) -> bytes:
    """Reads the bytes from `start` up to `stop`, fewer where the file ends before."""
    with path.open("rb") as file:
        file.seek(start)
        return file.read(stop - start)


def size_bytes(path: Path) -> int:
    """Returns the size of a file.

    Raises:
        IsADirectoryError: it is a folder.
    """
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder")
    return status.st_size


def copy(source: Path, target: BinaryIO) -> None:
    """Copies a file's bytes into an open file."""
    with source.open("rb") as file:
        shutil.copyfileobj(file, target, 1 << 20)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_beside(path: Path, write: Callable[[BinaryIO], object]) -> Path:
    temporary = path.parent / f"{_TEMPORARY[0]}{uuid.uuid4().hex}{_TEMPORARY[1]}"
    try:
        _write_new(temporary, write)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _write_new(path: Path, write: Callable[[BinaryIO], object]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def _create_without_links(path: Path, write: Callable[[BinaryIO], object]) -> bool:
    """Where links do not exist: exclusive create of the name itself; a crash may leave a part, which hashes show."""
    try:
        _write_new(path, write)
    except FileExistsError:
        return False
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    return True
