"""Temporary names of files and folders beside what is written, and the removal of those that killed writers left.

A name says which process writes it. So what a process of this machine left is known to be nobody's as soon as that
process has ended; what another machine left, which may share the filesystem, after it was not changed for a while.
"""

import contextlib
import functools
import hashlib
import os
import re
import shutil
import time
import uuid
from pathlib import Path

from core.storage import lock_owner

# A write takes minutes at most without a byte; clocks of two machines may differ.
ABANDONED_S = 3600.0
_FILE, _FILE_ENDING = ".writing-", ".tmp"
_FOLDER = ".staging-"
# Machine, process id and its start; a name of release 0.1 has no such part.
_WRITER = re.compile(r"-([0-9a-f]{8})-([0-9]{1,7})-([0-9]*)-[0-9a-f]{16}")


def file_beside(path: Path) -> Path:
    """Returns a new name for a file in the folder of another: a link or rename cannot cross filesystems."""
    # Unique, so that a killed writer blocks no other.
    return path.parent / f"{_FILE}{_writer(os.getpid())}-{uuid.uuid4().hex[:16]}{_FILE_ENDING}"


def folder_in(parent: Path) -> Path:
    """Returns a new name for a folder in another."""
    return parent / f"{_FOLDER}{_writer(os.getpid())}-{uuid.uuid4().hex[:16]}"


def is_temporary(name: str) -> bool:
    """Returns whether a writer that is running, or was killed, has given this name; readers ignore it."""
    return (name.startswith(_FILE) and name.endswith(_FILE_ENDING)) or name.startswith(_FOLDER)


def sweep(folder: Path, recursive: bool = True) -> None:
    """Removes what killed writers left in a folder, and in those below it if `recursive`.

    It belongs to nobody any more if it is this user's, and its writer ran on this machine and has ended, or nothing
    was written to it for `ABANDONED_S`.
    """
    for parent, folders, files in os.walk(folder):
        for name in filter(is_temporary, files):
            path = Path(parent, name)
            with contextlib.suppress(OSError):  # its writer is quicker than we are
                if _is_abandoned(path):
                    path.unlink()
        for name in filter(is_temporary, folders):
            if _is_abandoned(Path(parent, name)):
                shutil.rmtree(Path(parent, name), ignore_errors=True)
        folders[:] = [name for name in folders if recursive and not is_temporary(name)]


def _is_abandoned(path: Path) -> bool:
    try:
        if path.lstat().st_uid != os.getuid():
            return False
        has_ended = _writer_has_ended(path.name)
        return time.time() - _changed_unix_s(path) > ABANDONED_S if has_ended is None else has_ended
    except OSError:
        return False  # it is changing


def _writer_has_ended(name: str) -> bool | None:
    """Returns whether the writer of a name has ended; None where only its own machine knows."""
    match = _WRITER.search(name)
    if match is None or match[1] != _machine(os.getpid()):
        return None
    return lock_owner.is_dead({"pid": int(match[2]), "born": match[3] or None})


def _changed_unix_s(path: Path) -> float:
    """Returns when a file, or anything in a folder, was last changed."""
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_mtime
    return max(entry.lstat().st_mtime for entry in (path, *path.rglob("*")))


@functools.lru_cache(maxsize=1)
def _writer(pid: int) -> str:
    """Returns the part of a name that says whose it is; the id of the process is the key, as a fork changes it."""
    owner = lock_owner.this_process("")
    return f"{_machine(pid)}-{pid}-{owner['born'] or ''}"


@functools.lru_cache(maxsize=1)
def _machine(pid: int) -> str:
    del pid  # only the key: a forked child may be in another namespace
    return hashlib.sha256(lock_owner.this_process("")["machine"].encode()).hexdigest()[:8]
