"""Temporary folders of one user's processes: private from the start, and swept by the next run if they are abandoned.

A run that is killed cannot remove its folder, and its processes may write to it for some time. So a folder is removed
only if it is this user's, was not changed for a while, and no living process uses it.
"""

import contextlib
import os
import re
import shutil
import tempfile
import time
from pathlib import Path

from core.storage import local_files

MODE = 0o700


def create(base: Path, prefix: str) -> Path:
    """Creates a folder of a new name, after abandoned ones of this prefix are removed."""
    sweep(base, prefix)
    return Path(tempfile.mkdtemp(prefix=prefix, dir=base))  # which is private to the user


def make(folder: Path) -> None:
    """Creates a folder and its parents, each private to the user."""
    for path in (*reversed(folder.parents), folder):
        # `Path.mkdir` applies its mode to the last folder alone.
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=MODE)


def sweep(base: Path, prefix: str) -> None:
    """Removes the folders of this prefix that killed processes left in another."""
    candidates = [path for path in base.glob(f"{prefix}*") if _is_old(path)]
    used = _used_by_processes(base, prefix) if candidates else set()
    for path in candidates:
        if path.name not in used:
            shutil.rmtree(path, ignore_errors=True)


def _is_old(path: Path) -> bool:
    """Returns whether a path is a folder of this user in which no folder was changed for `ABANDONED_S`."""
    try:
        status = path.lstat()
        if path.is_symlink() or not path.is_dir() or status.st_uid != os.getuid():
            return False
        folders = [Path(parent) for parent, _, _ in os.walk(path)]
        newest_s = max(folder.lstat().st_mtime for folder in folders)
    except OSError:
        return False  # it is changing
    return time.time() - newest_s > local_files.ABANDONED_S


def _used_by_processes(base: Path, prefix: str) -> set[str]:
    """Returns the names of folders that a living process was started with, has opened, or has mapped."""
    pattern = re.compile(re.escape(f"{base}/{prefix}".encode()) + rb"(\w+)")  # the letters of `mkdtemp`
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
    return {f"{prefix}{rest}" for rest in used}
