"""Removal of the folder of parts: at the end of a single file, and what killed drivers left in it."""

import contextlib
import re
from collections.abc import Callable

from core import errors
from core.storage import commit, control_files, location, replacing, run_lock

# Shards, states of streams, and copies of inputs, named by the beginning of the hash of their content.
_CONTENT = re.compile(r"[A-Za-z0-9._-]+-[0-9a-f]{16}\.(arrow|safetensors|txt)")
_COPY = re.compile(r"[A-Za-z0-9-]+-[0-9a-f]{16}\.txt")


def remove_parts(folder: location.Location, lock: run_lock.RunLock) -> None:
    """Removes the folder of the parts of a merged file: all that we write there, then the lock, then the folder.

    Files of others stay, and the folder with them.

    Raises:
        LockedError: another driver has taken over.
    """
    store = commit.PartStore(folder, {})
    store.remove(lock.check)
    replacing.settle(folder, lock.check, keep="")
    # Those that no record lists: of attempts that lost, and of workers that were believed dead.
    commit.remove_files(folder, [name for name in folder.list_names() if _CONTENT.fullmatch(name)], lock.check)
    sweep(folder, lock.check)
    lock.remove()
    folder.remove_folder_if_empty()


def remove_behind(folder: location.Location, store: commit.PartStore, stage: str) -> None:
    """Removes the folder of parts beside a complete output that a killed driver left, or that holds a staged input.

    One that is in use, or in which another output is being made, is left alone.
    """
    if not folder.list_names():
        return
    with contextlib.suppress(errors.LockedError), run_lock.RunLock(folder, stage) as lock:
        plan = control_files.read_if_there(folder.join(commit.PLAN))
        if plan is None or plan.get("fingerprint") == store.fingerprint:
            remove_parts(folder, lock)


def remove_copies(folder: location.Location, check: Callable[[], object]) -> None:
    """Removes the unpacked copies of inputs from a folder."""
    commit.remove_files(folder, [name for name in folder.list_names() if _COPY.fullmatch(name)], check)
    folder.remove_folder_if_empty()


def sweep(folder: location.Location, check: Callable[[], object]) -> None:
    """Removes temporary files that writers which were killed left in a folder, below it, and beside it."""
    check()
    folder.sweep()
    # The merged file is written there, among files of the user, which are not ours to look through.
    folder.parent.sweep(recursive=False)
