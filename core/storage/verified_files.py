"""Files that some process of a node has verified, so that the others need not.

Notes of them are in a folder of this user's among the temporary files (`TMPDIR/raycurrent-UID-models`), which all
processes of a node share.
"""

import hashlib
import os
import time
from pathlib import Path

from core.storage import private_folders

# A file that was changed less long ago may be changed again without another time of change.
_SETTLED_S = 2.0


def folder() -> Path:
    """Returns the folder, which is made if there is none.

    Raises:
        StorageError: it cannot be made, or belongs to another user.
    """
    made = private_folders.temporary_folder() / f"raycurrent-{os.getuid()}-models"
    return private_folders.shared_by_processes(made, "TMPDIR")


def is_verified(path: Path, key: str) -> bool:
    """Returns whether a local file, unchanged since, was verified on this node; see `set_verified`."""
    return _mark(path.stat(), key).exists()


def set_verified(path: Path, key: str) -> None:
    """Notes for all processes of this node that a local file was verified.

    Args:
        path: the file.
        key: what it was verified to be, its hash included.
    """
    status = path.stat()
    # A change within one tick of the clock of the filesystem would not show.
    if time.time() - status.st_ctime > _SETTLED_S:
        _mark(status, key).touch(mode=0o600)


def _mark(status: os.stat_result, key: str) -> Path:
    # The time of change cannot be set by hand, unlike that of modification.
    about = (key, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return folder() / f"{hashlib.sha256(repr(about).encode()).hexdigest()}.verified"
