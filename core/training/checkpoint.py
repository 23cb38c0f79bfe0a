"""Checkpoints: written whole or not at all, verified before use.

`checkpoints/step-00000500-e3/` holds `bundle/` (all that inference needs), `training/` (the rest, for a resume) and,
written last, `MANIFEST.json` with the hash of each file: a folder without it is not a checkpoint. e3 is the fencing
number: each start of the worker group takes a new one, and a group that sees a newer one commits nothing any more. So
workers that were believed dead cannot overwrite the work of their successors.

Source: Kleppmann 2017, Designing Data-Intensive Applications, chapter 8, "Fencing tokens".
"""

import contextlib
import functools
import itertools
import json
import logging
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from core import errors
from core.config import training_settings
from core.models import bundle, weights
from core.models import state as states
from core.storage import commit, concurrent, contents, control_files, json_values, location, root_layout
from core.training import progress, run_log

FENCING_FOLDER = "epochs"  # the stored name
FORMAT, VERSION, MANIFEST = bundle.CHECKPOINT_FORMAT, bundle.CHECKPOINT_VERSION, bundle.CHECKPOINT_MANIFEST
DIVERGED = bundle.CHECKPOINT_DIVERGED
PROGRESS = "training/progress.json"
OPTIMIZER, HIDDEN = "training/optimizer.safetensors", "training/hidden.safetensors"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckpointRef:
    """A committed checkpoint; `validation` is that of its step, if there was one.

    `num_skipped_in_row` is not 0 only where a run was stopped inside a streak of skipped steps.
    """

    folder: location.Location
    step: int
    fencing_number: int
    validation: progress.Validation | None
    best_by: training_settings.Metric
    files: tuple[commit.FileRecord, ...]
    num_skipped_in_row: int = 0

    @property
    def size_bytes(self) -> int:
        """The size of its files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def bundle(self) -> location.Location:
        """The folder of its bundle."""
        return self.folder.join(bundle.FOLDER)


class Snapshot(NamedTuple):
    """All that a checkpoint holds: a run that is resumed from it continues as if it had never stopped.

    Attributes:
        bundle: the model, with all that inference needs.
        optimizer: the optimizer's tensors by name.
        hidden: the hidden state of every lane, in order of lanes; None where each batch starts from zero.
        state: the position of the run.
        settings: settings that a resume compares with its own.
        validation: of this very step, if there was one.
        best_by: the metric that validations are compared by.
    """

    bundle: bundle.Bundle
    optimizer: Mapping[str, Tensor]
    hidden: states.State | None
    state: progress.State
    settings: Mapping[str, Any]
    validation: progress.Validation | None
    best_by: training_settings.Metric = "perplexity"


class SkippedCheckpoint(NamedTuple):
    """A damaged checkpoint, and the error that reading it gave."""

    folder: location.Location
    reason: str


class NewestCheckpoint(NamedTuple):
    """The newest checkpoint that verifies, None where there is none; and the newer ones, which are damaged."""

    ref: CheckpointRef | None
    skipped_checkpoints: tuple[SkippedCheckpoint, ...] = ()


def take_fencing_number(root: location.Location, world_size: int) -> int:
    """Takes the next fencing number: from now on no older worker group commits a checkpoint here.

    What older groups left of saves that did not end, as they were killed or the disk was full, is removed.
    """
    content = {
        # For whoever examines a root by hand; nothing reads it.
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "world_size": world_size,
        "started_unix_s": time.time(),
    }
    data = control_files.encode(content)
    while True:
        number = newest_fencing_number(root) + 1
        # Of two groups that try the same number, one finds the file written already, and tries the next.
        if root.join(FENCING_FOLDER, f"{number:08d}.json").put_if_absent(data):
            _sweep(root, number)
            return number


def _sweep(root: location.Location, fencing_number: int) -> None:
    for folder in set(folders(root)).difference(committed(root)):
        if _sort_key(folder)[0] < fencing_number:
            _log.info("%s: removed, a save that did not end", folder)
            remove_incomplete(folder)


def newest_fencing_number(root: location.Location) -> int:
    """Returns the fencing number that was taken last; 0 before the first."""
    names = root.join(FENCING_FOLDER).list_names()
    return max((int(name[:8]) for name in names if re.fullmatch(r"[0-9]{8}\.json", name)), default=0)


def save(root: location.Location, fencing_number: int, snapshot: Snapshot, log: run_log.RunLog) -> CheckpointRef:
    """Writes a checkpoint and, before its manifest, the rows of the run log up to it.

    Raises:
        DivergedError: a tensor holds values that are not finite; nothing is written.
        LockedError: a newer worker group has started.
        StorageError: the checkpoint cannot be written; its files are taken away, those before it stay as they are.
    """
    hidden = {} if snapshot.hidden is None else states.to_named(snapshot.hidden)
    # Before anything is written: no resume may ever start from a tensor that is not finite.
    _check_finite(snapshot, hidden)
    state, validation = snapshot.state, snapshot.validation
    folder = root.join(root_layout.CHECKPOINTS, f"step-{state.step:08d}-e{fencing_number}")
    content = {f"{bundle.FOLDER}/{name}": data for name, data in bundle.to_contents(snapshot.bundle).items()}
    content[OPTIMIZER] = weights.to_bytes(snapshot.optimizer)
    if hidden:
        content[HIDDEN] = weights.to_bytes(hidden)
    # Reversed, so that the newest of equally good validations counts as best, as in `find_best`.
    best_validation = progress.best_validation(state.history[::-1], snapshot.best_by)
    about = {
        "step": state.step,
        "epoch": fencing_number,  # the stored name
        "validation": validation.to_json() if validation else None,
        "best": validation is not None and validation == best_validation,
        "best_by": snapshot.best_by,
    }
    if state.num_skipped_in_row:
        about["num_skipped_in_row"] = state.num_skipped_in_row
    content[PROGRESS] = _to_json({**about, "state": state.to_json(), "settings": dict(snapshot.settings)})
    try:
        writes: list[Callable[[], commit.FileRecord | None]] = [
            functools.partial(_put, folder, name, data) for name, data in sorted(content.items())
        ]
        # Before the manifest: a resume from this checkpoint does not repeat these steps, nor write their rows.
        writes.append(functools.partial(log.flush, state.step))
        # At the same time: all ranks wait for the slowest of these requests, not for their sum.
        written = concurrent.map_in_order(lambda write: write(), writes)
        files = tuple(record for record in written if record is not None)
        # Checked as late as possible, just before the manifest makes the checkpoint visible.
        check_not_replaced(root, fencing_number)
        manifest = {"format": FORMAT, "version": VERSION, **about, "files": [file.to_json() for file in files]}
        commit.write_manifest(folder, MANIFEST, manifest)
    except errors.StorageError:
        remove_incomplete(folder)  # on a full disk it would take the room of the next one
        raise
    skipped = state.num_skipped_in_row
    return CheckpointRef(folder, state.step, fencing_number, validation, snapshot.best_by, files, skipped)


def check_not_replaced(root: location.Location, fencing_number: int) -> None:
    """Checks that no newer worker group has started: before a checkpoint becomes visible, or is removed.

    Raises:
        LockedError: one has.
    """
    newest = newest_fencing_number(root)
    if newest > fencing_number:
        raise errors.LockedError(
            f"{root}: a newer worker group of this run (fencing number {newest}) has taken over from this one "
            f"(fencing number {fencing_number}); this one ends"
        )


def remove_incomplete(folder: location.Location) -> None:
    """Removes the files of a save that was not committed; what cannot be removed is left to the next start."""
    with contextlib.suppress(errors.StorageError):
        # A manifest whose reply was lost has committed the checkpoint.
        if _is_committed(folder):
            return
        if folder.is_local:  # with temporary files, which no listing shows
            shutil.rmtree(folder.path, ignore_errors=True)
            return
        for parent in (folder.join(bundle.FOLDER), folder.join("training")):
            for name in parent.list_names():
                parent.join(name).remove()


def find_newest(root: location.Location) -> NewestCheckpoint:
    """Finds the checkpoint that a resume starts from: the highest (fencing number, step) that verifies.

    Those after which training diverged are passed over; where there are no others, the run starts from its beginning.

    Raises:
        IntegrityError: there are checkpoints, but none verifies: a run never starts over by itself.
    """
    skipped_checkpoints: list[SkippedCheckpoint] = []
    for folder in committed(root):
        if is_diverged(folder):
            continue
        try:
            ref = read(folder)
            commit.verify(folder, ref.files)
        except errors.IntegrityError as error:
            _log.warning("skipping damaged checkpoint: %s", error)
            skipped_checkpoints.append(SkippedCheckpoint(folder, str(error)))
        else:
            return NewestCheckpoint(ref, tuple(skipped_checkpoints))
    if skipped_checkpoints:
        raise errors.IntegrityError(
            f"{root}: no checkpoint verifies; restore one from a copy, or use another root; newest: "
            f"{skipped_checkpoints[0].reason}"
        )
    return NewestCheckpoint(None)


def committed(root: location.Location) -> list[location.Location]:
    """Returns the folders of complete checkpoints, newest first; one without a manifest is being written, or torn."""
    every = folders(root)
    return list(itertools.compress(every, concurrent.map_in_order(_is_committed, every)))


def folders(root: location.Location) -> list[location.Location]:
    """Returns the folders of all checkpoints, complete or not, newest first."""
    parent = root.join(root_layout.CHECKPOINTS)
    named = [parent.join(name) for name in parent.list_names() if bundle.CHECKPOINT_NAME.fullmatch(name)]
    return sorted(named, key=_sort_key, reverse=True)


def _is_committed(folder: location.Location) -> bool:
    return folder.join(MANIFEST).is_file()


def find_best(root: location.Location) -> CheckpointRef | None:
    """Finds the checkpoint with the best validation all of whose files verify, by the metric of the newest one.

    Of equal ones it is the newest. Unlike `bundle.select_checkpoints`, which is for inference, it checks the
    training state too, and ignores checkpoints without a validation.
    """
    for ref in best_first(readable(root)):
        try:
            commit.verify(ref.folder, ref.files)
        except errors.IntegrityError as error:
            _log.warning("skipping damaged checkpoint: %s", error)
        else:
            return ref
    return None


def read(folder: location.Location) -> CheckpointRef:
    """Reads a checkpoint's manifest; its files are not verified yet.

    Raises:
        NotFoundError: the checkpoint was not committed.
        IntegrityError: the manifest is damaged.
    """
    content = commit.read_manifest(folder, MANIFEST, FORMAT, VERSION)
    where = str(folder.join(MANIFEST))
    with control_files.parsing(where):
        validation = progress.Validation.from_json(content["validation"]) if content["validation"] else None
        files = tuple(commit.FileRecord.from_json(entry, where) for entry in content["files"])
        step, fencing_number = int(content["step"]), int(content["epoch"])  # stored names
        best_by: training_settings.Metric = "bleu" if content.get("best_by") == "bleu" else "perplexity"
        num_skipped_in_row = int(content.get("num_skipped_in_row", 0))
    # The name of a folder decides which checkpoint is the newest: the manifest must say the same.
    if not {PROGRESS, OPTIMIZER} <= {file.name for file in files} or _sort_key(folder) != (fencing_number, step):
        raise errors.IntegrityError(f"{where}: is not the manifest of this folder; restore it")
    return CheckpointRef(folder, step, fencing_number, validation, best_by, files, num_skipped_in_row)


class Restored(NamedTuple):
    """Contents of a checkpoint besides the bundle."""

    optimizer: dict[str, Tensor]
    hidden: states.State | None
    state: progress.State


def load(ref: CheckpointRef) -> Restored:
    """Reads the training state of a checkpoint, checking each file as it is read.

    Raises:
        IntegrityError: a file is damaged.
    """
    state, _ = load_state(ref)
    optimizer = weights.from_bytes(_read_verified(ref, OPTIMIZER), str(ref.folder.join(OPTIMIZER)))
    hidden = None
    if any(file.name == HIDDEN for file in ref.files):
        hidden = states.from_named(weights.from_bytes(_read_verified(ref, HIDDEN), str(ref.folder.join(HIDDEN))))
    if state.step != ref.step:
        where = ref.folder.join(PROGRESS)
        raise errors.IntegrityError(f"{where}: belongs to step {state.step}, not to {ref.step}; restore it")
    return Restored(optimizer, hidden, state)


def load_state(ref: CheckpointRef) -> tuple[progress.State, dict[str, Any]]:
    """Reads the position of the run and the settings that it was made with.

    Raises:
        IntegrityError: the file is damaged.
    """
    where = str(ref.folder.join(PROGRESS))
    content = json_values.parse(_read_verified(ref, PROGRESS), where)
    if not isinstance(content, dict) or not isinstance(content.get("settings"), dict):
        raise errors.IntegrityError(f"{where}: is not a progress file; restore it")
    return progress.State.from_json(content.get("state", {}), where), content["settings"]


def readable(root: location.Location) -> list[CheckpointRef]:
    """Returns the checkpoints whose manifests can be read, newest first."""
    return [ref for ref in concurrent.map_in_order(_read_if_readable, folders(root)) if ref is not None]


def _read_if_readable(folder: location.Location) -> CheckpointRef | None:
    """Reads a checkpoint's manifest; None if it was not committed, or if its manifest is damaged."""
    try:
        return read(folder)
    except errors.NotFoundError:
        return None
    except errors.IntegrityError as error:
        _log.warning("skipping damaged checkpoint: %s", error)
        return None


def is_diverged(folder: location.Location) -> bool:
    """Returns whether training diverged after a checkpoint, so that a resume passes over it."""
    return folder.join(DIVERGED).is_file()


def _sort_key(folder: location.Location) -> tuple[int, int]:
    """Returns (fencing number, step): after damage, a newer group may repeat steps that an older one had done."""
    match = bundle.CHECKPOINT_NAME.fullmatch(folder.name)
    assert match is not None
    return int(match[2]), int(match[1])


def best_first(newest_first: Sequence[CheckpointRef]) -> list[CheckpointRef]:
    """Returns those with a validation, the best first, of equal ones the newest."""
    # The metric may have changed on a resume: that of the newest checkpoint counts for all.
    validated = [
        (training_settings.selection_key(newest_first[0].best_by, ref.validation.to_json()), ref)
        for ref in newest_first
        if ref.validation
    ]
    return [ref for _, ref in sorted(validated, key=lambda entry: entry[0])]  # stable: equal ones stay newest first


def _put(folder: location.Location, name: str, data: contents.Content) -> commit.FileRecord:
    file = folder.join(name)
    record = commit.FileRecord(name, *contents.sha256_and_size(data))
    # A file of the same bytes is left from an attempt of this group whose checkpoint was not committed.
    if not contents.put_if_absent(file, data) and commit.sha256_of_file(file) != record.sha256:
        raise errors.LockedError(f"{file}: was written by another run; use another root")
    return record


def _read_verified(ref: CheckpointRef, name: str) -> bytes:
    return commit.read_file(ref.folder, next(record for record in ref.files if record.name == name))


def _check_finite(snapshot: Snapshot, hidden: Mapping[str, Tensor]) -> None:
    groups: Sequence[Mapping[str, Tensor]] = (snapshot.bundle.model.state_dict(), snapshot.optimizer, hidden)
    for tensors in groups:
        for name, tensor in tensors.items():
            if not weights.is_finite(tensor):
                raise errors.DivergedError(
                    f"step {snapshot.state.step}: {name} holds values that are not finite, so no checkpoint is "
                    "written; resume from the one before with a lower learning_rate or smaller clip_norm"
                )


def _to_json(content: Mapping[str, Any]) -> bytes:
    # Floats are written in full, so that a resume reads the same bits; NaN, which JSON lacks, is an error.
    return (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
