"""Checkpoints that a run keeps, and those that a resume passes over."""

import functools
import itertools
import logging
from collections.abc import Collection

from core import errors
from core.models import bundle
from core.storage import commit, concurrent, control_files, location
from core.training import checkpoint

# For each file of a checkpoint, its manifest, and the rows of the run log: sizes are rounded up to blocks of the disk.
_RESERVE_PER_FILE_BYTES = 8192
_log = logging.getLogger(__name__)


def retain(root: location.Location, keep: int, fencing_number: int, spared: Collection[location.Location] = ()) -> None:
    """Removes all checkpoints but the newest `keep` and the best, for the worker group of a fencing number.

    Damaged checkpoints are `spared`, that is kept for diagnosis, and not counted. Those after which training diverged
    are not counted either: only the best one is still of use.

    Raises:
        LockedError: a newer worker group has started, which decides now what is kept.
    """
    all_readable, marked = concurrent.pair(lambda: checkpoint.readable(root), lambda: _marked(root))
    readable = [ref for ref in all_readable if ref.folder not in spared]
    # The best of all: inference uses it, however old it is.
    best = next(iter(checkpoint.best_first(readable)), None)
    diverged = [ref for ref in readable if ref.folder in marked]
    usable = [ref for ref in readable if ref not in diverged]
    for ref in diverged + usable[keep:] if usable else ():
        if ref is not best:
            _remove(ref, fencing_number, is_marked=ref in diverged)


def _marked(root: location.Location) -> set[location.Location]:
    """Returns the checkpoints after which training diverged."""
    folders = checkpoint.folders(root)
    return set(itertools.compress(folders, concurrent.map_in_order(checkpoint.is_diverged, folders)))


def make_room(
    root: location.Location,
    last: checkpoint.CheckpointRef,
    fencing_number: int,
    spared: Collection[location.Location] = (),
) -> None:
    """Removes old checkpoints where the disk has no room for another one of the last one's size.

    The oldest go first; the last one and the best stay.

    Raises:
        LockedError: a newer worker group has started.
    """
    needed_bytes = last.size_bytes + _RESERVE_PER_FILE_BYTES * (len(last.files) + 4)
    if _has_room(root, needed_bytes):
        return
    readable = [ref for ref in checkpoint.readable(root) if ref.folder not in spared]
    best = next(iter(checkpoint.best_first(readable)), None)
    for ref in reversed(readable):
        if ref.folder == last.folder or ref is best:
            continue
        _log.warning("%s: removed before its time: the disk has no room for the next checkpoint", ref.folder)
        _remove(ref, fencing_number, is_marked=checkpoint.is_diverged(ref.folder))
        if _has_room(root, needed_bytes):
            return


def _has_room(root: location.Location, needed_bytes: int) -> bool:
    free_bytes = root.free_bytes()
    return free_bytes is None or free_bytes >= needed_bytes


def _remove(ref: checkpoint.CheckpointRef, fencing_number: int, is_marked: bool) -> None:
    """Removes a checkpoint, with its mark of divergence; its manifest first: a partly removed one is ignored.

    Raises:
        LockedError: a worker group newer than `fencing_number` has started; it may be reading this checkpoint.
    """
    mark = [checkpoint.DIVERGED] if is_marked else []
    # Before each step: this process may have been stopped in the middle, and be believed dead.
    check = functools.partial(checkpoint.check_not_replaced, ref.folder.parent.parent, fencing_number)
    commit.remove_paths([ref.folder.join(checkpoint.MANIFEST)], check)
    commit.remove_paths([ref.folder.join(name) for name in (*(file.name for file in ref.files), *mark)], check)
    for folder in (ref.folder.join(bundle.FOLDER), ref.folder.join("training"), ref.folder):
        folder.remove_folder_if_empty()


def pass_over_diverged(root: location.Location, step: int, last_finite_step: int) -> checkpoint.CheckpointRef | None:
    """Marks the checkpoints that a resume would diverge from again, and returns the one that it takes.

    A checkpoint is good if the step after it was finite. All steps of the streak began from the weights of the last
    finite one, and none of their gradients was finite: a checkpoint of that very step would end in the same way, with
    any learning rate.

    Args:
        root: of the run.
        step: the step at which the run diverged.
        last_finite_step: the last step that changed the weights.
    """
    readable = [ref for ref in checkpoint.readable(root) if not checkpoint.is_diverged(ref.folder)]
    mark = control_files.encode({"format": "raycurrent-diverged", "version": 1, "step": step})
    for ref in itertools.takewhile(lambda ref: ref.step >= last_finite_step, readable):
        ref.folder.join(checkpoint.DIVERGED).put_if_absent(mark)
    try:
        return checkpoint.find_newest(root).ref
    except errors.IntegrityError:  # those that are left are damaged
        return None
