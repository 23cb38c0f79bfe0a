"""The checkpoint format: written whole or not at all, verified before it is believed.

`checkpoints/step-00000500-e3/` holds `bundle/` (what inference needs), `training/` (what a resume needs besides) and,
written last, `MANIFEST.json` with the hash of each file. e3 is the fencing epoch: each start of the worker group
takes a new one, and a group that sees a newer one commits nothing any more.
"""

import json
import logging
import os
import re
import socket
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from core import errors
from core.models import bundle, weights
from core.models import state as states
from core.storage import commit, location
from core.training import progress

EPOCHS = "epochs"
FORMAT, VERSION, MANIFEST = bundle.CHECKPOINT_FORMAT, bundle.CHECKPOINT_VERSION, bundle.CHECKPOINT_MANIFEST
PROGRESS = "training/progress.json"
OPTIMIZER, HIDDEN = "training/optimizer.safetensors", "training/hidden.safetensors"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckpointRef:
    """A committed checkpoint.

    `is_best` says that no earlier validation of the run was better, by `best_by`; a later one may have been since.
    """

    folder: location.Location
    step: int
    epoch: int
    validation: progress.Validation | None
    is_best: bool
    best_by: bundle.Metric
    files: tuple[commit.FileRecord, ...]

    @property
    def bundle(self) -> location.Location:
        """Where its bundle is."""
        return self.folder.join(bundle.FOLDER)


class Snapshot(NamedTuple):
    """All that a checkpoint holds: what goes on from it goes on as if it had never stopped.

    Attributes:
        bundle: the model, with what inference needs.
        optimizer: the optimiser's tensors by name.
        hidden: the state of every lane, in order of lanes; None where each batch starts from zero.
        state: where the run is.
        settings: what the run was made with; a resume compares them.
        validation: of this very step, if there was one.
        best_by: what validations are compared by.
    """

    bundle: bundle.Bundle
    optimizer: Mapping[str, Tensor]
    hidden: states.State | None
    state: progress.State
    settings: Mapping[str, Any]
    validation: progress.Validation | None
    best_by: bundle.Metric = "perplexity"


class Search(NamedTuple):
    """The newest checkpoint that verifies; newer ones that do not, and why."""

    found: CheckpointRef | None
    damaged: tuple[location.Location, ...]
    passed_over: tuple[str, ...]


def take_epoch(root: location.Location, world_size: int) -> int:
    """Takes the next fencing epoch: from now on no older group of workers commits a checkpoint here."""
    content = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "world_size": world_size,
        "started_unix_s": time.time(),
    }
    data = json.dumps(content).encode()
    while True:
        epoch = newest_epoch(root) + 1
        if root.join(EPOCHS, f"{epoch:08d}.json").put_if_absent(data):
            return epoch


def newest_epoch(root: location.Location) -> int:
    """The fencing epoch that was taken last; 0 before the first."""
    names = root.join(EPOCHS).list_names()
    return max((int(name[:8]) for name in names if re.fullmatch(r"[0-9]{8}\.json", name)), default=0)


def save(root: location.Location, epoch: int, snapshot: Snapshot, record: progress.Record) -> CheckpointRef:
    """Writes a checkpoint and, before its manifest, the rows of the record up to it.

    Raises:
        DivergedError: a tensor holds values that are not finite; nothing is written.
        LockedError: a newer group of workers has started.
        StorageError: it cannot be written; checkpoints before it stay as they are.
    """
    hidden = {} if snapshot.hidden is None else states.to_named(snapshot.hidden)
    _refuse_infinite(snapshot, hidden)
    state, validation = snapshot.state, snapshot.validation
    folder = root.join(bundle.CHECKPOINTS, f"step-{state.step:08d}-e{epoch}")
    content = {f"{bundle.FOLDER}/{name}": data for name, data in bundle.to_files(snapshot.bundle).items()}
    content[OPTIMIZER] = weights.to_bytes(snapshot.optimizer)
    if hidden:
        content[HIDDEN] = weights.to_bytes(hidden)
    is_best = validation is not None and validation == best(state.history[::-1], snapshot.best_by)
    about = {
        "step": state.step,
        "epoch": epoch,
        "validation": validation.to_json() if validation else None,
        "best": is_best,
        "best_by": snapshot.best_by,
    }
    content[PROGRESS] = _document({**about, "state": state.to_json(), "settings": dict(snapshot.settings)})
    files = tuple(_put(folder, name, data) for name, data in sorted(content.items()))
    record.flush(state.step)
    newest = newest_epoch(root)
    if newest > epoch:
        raise errors.LockedError(
            f"{root}: start {newest} of this run has taken over from start {epoch}; this one has to end"
        )
    manifest = {"format": FORMAT, "version": VERSION, **about, "files": [file.to_json() for file in files]}
    commit.write_manifest(folder, MANIFEST, manifest)
    return CheckpointRef(folder, state.step, epoch, validation, is_best, snapshot.best_by, files)


def find_newest(root: location.Location) -> Search:
    """Finds the checkpoint that a resume takes: the highest (epoch, step) that verifies.

    Raises:
        IntegrityError: there are checkpoints, but none verifies: a run never starts over by itself.
    """
    damaged, passed_over = [], []
    for folder in committed(root):
        try:
            found = read(folder)
            commit.verify(folder, found.files)
        except errors.IntegrityError as error:
            _log.warning("checkpoint passed over: %s", error)
            damaged.append(folder)
            passed_over.append(str(error))
        else:
            return Search(found, tuple(damaged), tuple(passed_over))
    if passed_over:
        raise errors.IntegrityError(
            f"{root}: no checkpoint verifies; restore one from a copy, or use another root; newest: {passed_over[0]}"
        )
    return Search(None, (), ())


def committed(root: location.Location) -> list[location.Location]:
    """The folders of checkpoints that were finished, newest first."""
    every = root.join(bundle.CHECKPOINTS)
    folders = [every.join(name) for name in every.list_names() if bundle.CHECKPOINT_NAME.fullmatch(name)]
    folders.sort(key=_key, reverse=True)
    return [folder for folder in folders if folder.join(MANIFEST).exists()]


def find_best(root: location.Location) -> CheckpointRef | None:
    """Finds the checkpoint with the best validation that verifies, by what the newest one compares them by.

    Of equal ones it is the newest.
    """
    for ref in _validated(_readable(root)):
        try:
            commit.verify(ref.folder, ref.files)
        except errors.IntegrityError as error:
            _log.warning("checkpoint passed over: %s", error)
        else:
            return ref
    return None


def read(folder: location.Location) -> CheckpointRef:
    """Reads a checkpoint's manifest; its files are not verified yet.

    Raises:
        NotFoundError: it was not committed.
        IntegrityError: the manifest is damaged.
    """
    content = commit.read_manifest(folder, MANIFEST, FORMAT, VERSION)
    where = str(folder.join(MANIFEST))
    try:
        validation = progress.Validation.from_json(content["validation"]) if content["validation"] else None
        files = tuple(commit.FileRecord.from_json(entry, where) for entry in content["files"])
        step, epoch, is_best = int(content["step"]), int(content["epoch"]), bool(content["best"])
        best_by: bundle.Metric = "bleu" if content.get("best_by") == "bleu" else "perplexity"
    except (KeyError, TypeError, ValueError) as error:
        raise errors.IntegrityError(f"{where}: is not complete ({error}); restore it") from error
    if not {PROGRESS, OPTIMIZER} <= {file.name for file in files} or _key(folder) != (epoch, step):
        raise errors.IntegrityError(f"{where}: is not the manifest of this folder; restore it")
    return CheckpointRef(folder, step, epoch, validation, is_best, best_by, files)


class Restored(NamedTuple):
    """What a resume reads besides the bundle."""

    optimizer: dict[str, Tensor]
    hidden: states.State | None
    state: progress.State
    settings: dict[str, Any]


def load(ref: CheckpointRef) -> Restored:
    """Reads the training state of a checkpoint, checking each file as it is read.

    Raises:
        IntegrityError: a file is damaged.
    """
    where = str(ref.folder.join(PROGRESS))
    state, settings = load_state(ref)
    optimizer = weights.from_bytes(_checked(ref, OPTIMIZER), str(ref.folder.join(OPTIMIZER)))
    hidden = None
    if any(file.name == HIDDEN for file in ref.files):
        hidden = states.from_named(weights.from_bytes(_checked(ref, HIDDEN), str(ref.folder.join(HIDDEN))))
    if state.step != ref.step:
        raise errors.IntegrityError(f"{where}: belongs to step {state.step}, not to {ref.step}; restore it")
    return Restored(optimizer, hidden, state, settings)


def load_state(ref: CheckpointRef) -> tuple[progress.State, dict[str, Any]]:
    """Reads where the run was and what it was made with.

    Raises:
        IntegrityError: the file is damaged.
    """
    where = str(ref.folder.join(PROGRESS))
    content = json.loads(_checked(ref, PROGRESS))
    if not isinstance(content, dict) or not isinstance(content.get("settings"), dict):
        raise errors.IntegrityError(f"{where}: is no progress file; restore it")
    return progress.State.from_json(content.get("state", {}), where), content["settings"]


def retain(root: location.Location, keep: int, spared: Collection[location.Location] = ()) -> None:
    """Removes all checkpoints but the newest `keep` and the best, each manifest first: no reader sees half of one.

    Those that were found damaged are `spared`, for whoever looks into it, and count for nothing.
    """
    readable = [ref for ref in _readable(root) if ref.folder not in spared]
    best = next(iter(_validated(readable)), None)
    for ref in readable[keep:]:
        if ref is best:
            continue
        ref.folder.join(MANIFEST).remove()
        for file in ref.files:
            ref.folder.join(file.name).remove()
        _remove_empty(ref.folder)


def _readable(root: location.Location) -> list[CheckpointRef]:
    """The checkpoints whose manifests can be read, newest first."""
    readable = []
    for folder in committed(root):
        try:
            readable.append(read(folder))
        except errors.IntegrityError as error:
            _log.warning("checkpoint passed over: %s", error)
    return readable


def _key(folder: location.Location) -> tuple[int, int]:
    match = bundle.CHECKPOINT_NAME.fullmatch(folder.name)
    assert match is not None
    return int(match[2]), int(match[1])


def best(validations: Sequence[progress.Validation], metric: bundle.Metric) -> progress.Validation | None:
    """Returns the best of some validations, the first of equal ones; None of none."""
    return min(validations, key=lambda one: _place(one, metric), default=None)


def _validated(newest_first: Sequence[CheckpointRef]) -> list[CheckpointRef]:
    """Those with a validation, the best first, of equal ones the newest."""
    placed = [(_place(ref.validation, newest_first[0].best_by), ref) for ref in newest_first if ref.validation]
    return [ref for _, ref in sorted(placed, key=lambda one: one[0])]


def _place(validation: progress.Validation, metric: bundle.Metric) -> tuple[float, float]:
    return bundle.preference(metric, validation.to_json())


def _put(folder: location.Location, name: str, data: bytes) -> commit.FileRecord:
    record = commit.FileRecord(name, commit.sha256_hex(data), len(data))
    place = folder.join(name)
    if not place.put_if_absent(data) and commit.sha256_hex(place.read_bytes()) != record.sha256:
        raise errors.LockedError(f"{place}: was written by another run; use another root")
    return record


def _checked(ref: CheckpointRef, name: str) -> bytes:
    place = ref.folder.join(name)
    expected = next(file.sha256 for file in ref.files if file.name == name)
    try:
        data = place.read_bytes()
    except errors.NotFoundError as error:
        raise errors.IntegrityError(f"{place}: is missing, but its manifest names it; restore it") from error
    if (found := commit.sha256_hex(data)) != expected:
        raise errors.IntegrityError(f"{place}: is damaged: expected sha256 {expected}, found {found}; restore it")
    return data


def _refuse_infinite(snapshot: Snapshot, hidden: Mapping[str, Tensor]) -> None:
    groups: Sequence[Mapping[str, Tensor]] = (snapshot.bundle.model.state_dict(), snapshot.optimizer, hidden)
    for tensors in groups:
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise errors.DivergedError(
                    f"step {snapshot.state.step}: {name} holds values that are not finite, so no checkpoint is "
                    "written; go on from the one before with a lower learning rate or smaller clip_norm"
                )


def _remove_empty(folder: location.Location) -> None:
    """Removes the folders of a removed checkpoint; an object store has none."""
    if folder.is_local:
        for place in (folder.join(bundle.FOLDER).path, folder.join("training").path, folder.path):
            if place.is_dir() and not any(place.iterdir()):
                place.rmdir()


def _document(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
