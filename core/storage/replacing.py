"""Replacing a complete output in its own folder: the old one stays readable until the new one is committed.

Shards are named by their content, so that those of both outputs lie side by side. The plan and the commit records of
the new output are in a folder of their own, `_next-<beginning of the plan's fingerprint>/`, in which a killed driver's
work is found again. When all parts are committed, the manifest is replaced: at this one step readers go over from the
old output to the new one. Then staged files, which have one name in both outputs, take their places, the old records
and shards are removed, and the new plan takes the place of the old one. A driver that is killed on the way leaves a
list of what is to be done, `_REPLACED.json`, for the next one.
"""

import functools
import re
import secrets
from collections.abc import Callable, Collection, Mapping
from typing import Any

from core import errors
from core.storage import commit, concurrent, contents, control_files, location

_NEXT = re.compile(r"_next-[0-9a-f]{16}")
_STAGED = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}")
_REPLACED = "_REPLACED.json"


def store_beside(store: commit.PartStore) -> commit.PartStore:
    """Returns the store of an output that is to replace the complete one in the folder of `store`."""
    return commit.PartStore(store.folder, store.plan, control=f"_next-{store.fingerprint[:16]}")


def stage(store: commit.PartStore, write: contents.Write, name: str) -> str:
    """Writes a file beside the place that it is to take with `swap`, and returns its name.

    Args:
        store: one from `store_beside`.
        write: writes its content.
        name: its place, below the folder.
    """
    # By place and at random: two places may have equal content, and two drivers may disagree about the content of one.
    staged = f"{commit.sha256_hex(name.encode())[:16]}-{secrets.token_hex(8)}"
    store.folder.join(store.control, staged).write_over(write)
    return staged


def swap(
    store: commit.PartStore,
    manifest: Mapping[str, Any],
    moves: Mapping[str, str],
    old_names: Collection[str],
    check: Callable[[], object],
) -> None:
    """Makes the output of a store from `store_beside` that of the folder, and removes the old one.

    Args:
        store: has all its parts committed.
        manifest: what readers will see.
        moves: the place of each staged file.
        old_names: files of the old output that its manifest does not list among its shards.
        check: raises an error if another driver has taken over; called before each step that destroys something.
    """
    folder = store.folder
    data = control_files.encode({**manifest, "plan": store.fingerprint})
    old = {*commit.listed(folder.join(commit.MANIFEST)), *commit.shards_of_records(folder), *old_names}
    note = {"manifest_sha256": commit.sha256_hex(data), "names": sorted(old), "moves": dict(moves)}
    check()
    folder.join(store.control, _REPLACED).replace(control_files.encode(note))
    check()
    folder.join(commit.MANIFEST).replace(data)
    _complete(folder, store.control, check)


def settle(folder: location.Location, check: Callable[[], object], keep: str | None) -> None:
    """Finishes the replacements that a killed driver left, and discards unfinished ones but that named `keep`.

    None as `keep` discards nothing: who does not replace the output leaves the work of one who would.
    """
    for name in folder.list_names():
        if not _NEXT.fullmatch(name):
            continue
        if _is_swapped(folder, name):
            _complete(folder, name, check)
        elif keep is not None and name != keep:
            _discard(folder, name, keep, check)


def drop_damaged(store: commit.PartStore, check: Callable[[], object]) -> None:
    """Removes the commit records of a store whose files do not verify, so that their parts are done again."""
    paths = commit.record_paths(store.folder.join(store.control) if store.control else store.folder)
    is_damaged = concurrent.map_in_order(functools.partial(_is_damaged, store), paths)
    commit.remove_paths([path for path, damaged in zip(paths, is_damaged, strict=True) if damaged], check)


def _is_damaged(store: commit.PartStore, path: location.Location) -> bool:
    """Returns whether a commit record, or one of the files that it lists, does not verify."""
    try:
        record = store.committed(path.name.removesuffix(".json"))
        files = (record or {}).get("files") or ()
        with control_files.parsing(str(path)):
            commit.verify(store.folder, [commit.FileRecord.from_json(file, str(path)) for file in files])
    except errors.IntegrityError:
        return True
    return False


def _is_swapped(folder: location.Location, name: str) -> bool:
    """Returns whether the manifest of the folder is the one that the replacement was to put there."""
    try:
        note = control_files.read_if_there(folder.join(name, _REPLACED))
        manifest = folder.join(commit.MANIFEST)
        return note is not None and commit.sha256_of_file(manifest) == note.get("manifest_sha256")
    except (errors.IntegrityError, errors.NotFoundError):
        return False


def _complete(folder: location.Location, name: str, check: Callable[[], object]) -> None:
    """Does what is left to do when the manifest is replaced, from any step on."""
    control = folder.join(name)
    note = control_files.read_if_there(control.join(_REPLACED)) or {}
    moves, names = note.get("moves") or {}, note.get("names") or ()
    for staged, final in moves.items():
        if control.join(staged).exists():
            check()
            folder.join(final).take(control.join(staged))
    kept = {*commit.listed(folder.join(commit.MANIFEST)), *moves.values()}
    commit.remove_paths(commit.record_paths(folder), check)
    commit.remove_files(folder, [old for old in names if old not in kept], check)
    plan = control.join(commit.PLAN)
    if plan.exists():
        check()
        folder.join(commit.PLAN).replace(plan.read_bytes())
    commit.remove_control(control, check)
    _remove_note(control, check)


def _discard(folder: location.Location, name: str, keep: str, check: Callable[[], object]) -> None:
    control = folder.join(name)
    # Equal parts of two outputs are one file.
    kept = {*commit.listed(folder.join(commit.MANIFEST)), *commit.shards_of_records(folder)}
    if keep:
        kept |= commit.shards_of_records(folder.join(keep))
    names = commit.shards_of_records(control) - kept
    commit.remove_control(control, check)
    commit.remove_files(folder, names, check)
    _remove_note(control, check)


def _remove_note(control: location.Location, check: Callable[[], object]) -> None:
    """Removes what is left of a replacement: staged files, and last the note, which says what the folder is."""
    staged = [name for name in control.list_names() if _STAGED.fullmatch(name)]
    commit.remove_files(control, [*staged, _REPLACED], check)
    control.remove_folder_if_empty()
