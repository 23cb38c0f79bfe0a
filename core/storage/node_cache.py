"""Copies of files in an object store on the disk of a node, within a limit.

All processes of a user on a node share them: a file is fetched once, by the process that needs it first, and its hash
is compared then. The least recently opened ones go when the limit is reached. A copy that goes while a process has it
mapped stays readable there, and takes its space until that process closes it.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from core import errors
from core.storage import local_files, location, private_folders, temporary

FOLDER_VARIABLE: Final = "RAYCURRENT_CACHE"
_ENDING = ".copy"
_SETTING = "cluster.cache_size_bytes"
_Mapped = TypeVar("_Mapped")


@dataclass(frozen=True)
class NodeCache:
    """The copies on this node; at most `size_bytes` of them, those that are being fetched included."""

    size_bytes: int = 1 << 35

    def open(
        self, file: location.Location, sha256: str, size_bytes: int, map_path: Callable[[Path], _Mapped]
    ) -> _Mapped:
        """Maps the copy of a file, which is fetched and verified where it is not here.

        Args:
            file: the file.
            sha256: its hash.
            size_bytes: its size.
            map_path: maps a local file, or raises FileNotFoundError.

        Raises:
            IntegrityError: the file does not have this hash.
            StorageError: it cannot be read, or does not fit.
        """
        folder = _folder()
        path = folder / f"{sha256}{_ENDING}"
        while True:
            # Again where another process has removed it in between: the last use is now, so it comes last.
            with contextlib.suppress(FileNotFoundError):
                os.utime(path)
                if path.stat().st_size == size_bytes:
                    return map_path(path)
            self._fetch(file, path, sha256, size_bytes)

    def _fetch(self, file: location.Location, path: Path, sha256: str, size_bytes: int) -> None:
        # Ranks of a node go through the same shards at about the same time: one of them fetches, the others wait. One
        # of 256 locks, since a lock for each file would leave a file for each.
        with _locked(path.parent / f"lock-{sha256[:2]}"):
            if path.exists() and path.stat().st_size == size_bytes:
                return
            beside = temporary.file_beside(path)
            try:
                self._reserve(beside, size_bytes)
                _copy(file, beside, sha256, size_bytes)
                # Under the lock, so that whoever counts the files meets this one by one of its names.
                with _locked(path.parent / "lock"):
                    beside.replace(path)
            except OSError as error:
                raise errors.StorageError(
                    f"{path}: the copy of {file} cannot be written ({error.strerror}, "
                    f"{shutil.disk_usage(path.parent).free} bytes are free); set {FOLDER_VARIABLE} to a folder with "
                    f"more space, or {_SETTING} to less than that"
                ) from error
            finally:
                beside.unlink(missing_ok=True)

    def _reserve(self, beside: Path, size_bytes: int) -> None:
        """Creates an empty file of a size, after others were removed that together with it are too many.

        Raises:
            StorageError: it is larger than the limit.
        """
        if size_bytes > self.size_bytes:
            raise errors.StorageError(
                f"{_SETTING}: a file of {size_bytes} bytes does not fit into {self.size_bytes}; raise it"
            )
        folder = beside.parent
        with _locked(folder / "lock"):
            # What killed processes left counts until it is removed.
            temporary.sweep(folder, recursive=False)
            stats = _list_files(folder)
            used_bytes = sum(stat.st_size for _, stat in stats)
            # The disk may be smaller than the limit. Files that are being fetched count as if they were complete.
            pending_bytes = sum(max(0, stat.st_size - 512 * stat.st_blocks) for _, stat in stats)
            most_bytes = min(self.size_bytes, used_bytes + shutil.disk_usage(folder).free - pending_bytes)
            for path, stat in sorted(stats, key=lambda pair: pair[1].st_mtime_ns):
                if used_bytes + size_bytes <= most_bytes:
                    break
                if not path.name.startswith("."):  # being fetched
                    path.unlink(missing_ok=True)
                    used_bytes -= stat.st_size
            with beside.open("xb") as opened:
                opened.truncate(size_bytes)


def _list_files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    files = []
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # of a fetch that failed
                if not entry.name.startswith("lock"):
                    files.append((Path(entry.path), entry.stat()))
    return files


def _copy(file: location.Location, path: Path, sha256: str, size_bytes: int) -> None:
    digest = hashlib.sha256()
    with path.open("r+b") as opened:
        for block in file.read_blocks(size_bytes):
            digest.update(block)
            opened.write(block)
        opened.flush()
        # Nobody compares the hash again: after a power loss a name must not have another content.
        os.fsync(opened.fileno())
    if digest.hexdigest() != sha256:
        raise errors.IntegrityError(
            f"{file}: expected SHA-256 {sha256}, found {digest.hexdigest()}; restore the file from a copy"
        )
    local_files.sync_folder(path.parent)


def _folder() -> Path:
    """Returns the folder of the copies, private to the user.

    Raises:
        StorageError: it belongs to another user, or cannot be made.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    # Below the one that is named, which on Kubernetes belongs to root.
    folder = (Path(named) if named else private_folders.temporary_folder()) / f"raycurrent-{os.getuid()}"
    return private_folders.shared_by_processes(folder, FOLDER_VARIABLE)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock among processes and threads; the kernel gives it back if this process is killed."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
