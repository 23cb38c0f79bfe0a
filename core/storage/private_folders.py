"""Temporary folders of one user's processes: private from the start, and swept by the next run if they are abandoned.

A run that is killed cannot remove its folder, and its processes may write to it for some time. So a folder is removed
only if it is this user's, was not changed for a while, and no living process uses it.
"""

import contextlib
import errno
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from core import errors
from core.storage import store_errors, temporary

MODE = 0o700
_PREFIX = "rc-"
# What a disk says, and no mistake of ours.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Creates a folder of a new name among the temporary files (`TMPDIR`), and removes it at the end.

    Raises:
        StorageError: no such folder can be made, or its disk is full.
    """
    folder = create(temporary_folder())
    # As long as it is open, `sweep` sees that the folder is in use.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with _translated(folder):
            yield folder
    finally:
        os.close(descriptor)
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def staging(parent: Path) -> Iterator[Path]:
    """Creates a folder of a new name in another, and removes it at the end; `temporary.sweep` if it is left behind.

    It is for what goes to the same disk: that of temporary files may be small.

    Raises:
        StorageError: the folder cannot be made, or its disk is full.
    """
    folder = temporary.folder_in(parent)
    with _translated(folder):
        parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=MODE)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _translated(folder: Path) -> Iterator[None]:
    """Raises our errors for those of the disk of a folder; files in stores raise errors of ours anyway."""
    try:
        yield
    except OSError as error:
        full = store_errors.translated(str(folder), folder, error) if error.errno in _DISK_ERRORS else None
        if full is None:
            raise
        raise full from error


def create(base: Path) -> Path:
    """Creates a folder of a new name, after those that killed processes left are removed.

    Raises:
        StorageError: it cannot be made.
    """
    sweep(base)
    try:
        return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))  # which is private to the user
    except OSError as error:
        raise errors.StorageError(
            f"{base}: no temporary folder can be made there ({error.strerror}); set TMPDIR to one with free space"
        ) from error


def temporary_folder() -> Path:
    """Returns the folder of temporary files.

    Raises:
        StorageError: there is none that can be written.
    """
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise errors.StorageError(f"TMPDIR: {error.strerror}; set it to a folder with free space") from error


def make(folder: Path) -> None:
    """Creates a folder and its parents, each private to the user."""
    for path in (*reversed(folder.parents), folder):
        # `Path.mkdir` applies its mode to the last folder alone.
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=MODE)


def sweep(base: Path) -> None:
    """Removes the folders that killed processes left in another."""
    candidates = [path for path in base.glob(f"{_PREFIX}*") if _is_old(path)]
    used = _used_by_processes(base) if candidates else set()
    for path in candidates:
        if path.name not in used:
            shutil.rmtree(path, ignore_errors=True)


def _is_old(path: Path) -> bool:
    """Returns whether a path is a folder of this user in which no folder was changed for `temporary.ABANDONED_S`."""
    try:
        status = path.lstat()
        if path.is_symlink() or not path.is_dir() or status.st_uid != os.getuid():
            return False
        folders = [Path(parent) for parent, _, _ in os.walk(path)]
        newest_s = max(folder.lstat().st_mtime for folder in folders)
    except OSError:
        return False  # it is changing
    return time.time() - newest_s > temporary.ABANDONED_S


def _used_by_processes(base: Path) -> set[str]:
    """Returns the names of folders that a living process was started with, has opened, or has mapped."""
    pattern = re.compile(re.escape(f"{base}/".encode()) + rb"(" + _PREFIX.encode() + rb"[\w-]+)")
    used: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        texts = []
        for name in ("cmdline", "environ", "maps"):
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                texts.append((process / name).read_bytes())
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    texts.append(os.fsencode(descriptor.readlink()))
        used |= {match.decode() for text in texts for match in pattern.findall(text)}
    return used


def shared_by_processes(folder: Path, variable: str) -> Path:
    """Makes a folder of a fixed name, which all processes of this user share, unless it is there; returns it.

    Args:
        folder: the folder; the one above it exists.
        variable: environment variable that names another place, for error messages.

    Raises:
        StorageError: it belongs to another user, or cannot be made.
    """
    try:
        folder.mkdir(mode=MODE, exist_ok=True)  # private: corpora and models may be confidential
    except OSError as error:
        raise errors.StorageError(
            f"{folder}: cannot be made ({error.strerror}); set {variable} to a folder with free space"
        ) from error
    # In a shared /tmp another user may have made the folder first, and could replace what is in it.
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise errors.StorageError(f"{folder}: belongs to another user; set {variable} to a folder of your own")
    return folder
