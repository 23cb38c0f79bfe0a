"""Checkpoints are whole or absent, verified, and the last good one is never lost."""

import dataclasses
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from core import errors
from core.data.dataset import shards
from core.models import bundle, factory
from core.models import state as states
from core.storage import commit, location
from core.training import checkpoint, progress, retention, run_log
from tests import s3
from tests.core.storage import test_control_files
from tests.core.training import builders


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> shards.Dataset:
    return shards.Dataset.open(builders.text_dataset(tmp_path_factory.mktemp("dataset")))


def make_snapshot(dataset: shards.Dataset, step: int, nll: float | None = None) -> checkpoint.Snapshot:
    torch.manual_seed(step)
    model = factory.build(builders.TEXT, {"text": 9}, None)
    result = None if nll is None else progress.Validation(step, nll, 0.5, 10)
    corpora = [progress.CorpusState(epoch=1, fraction=0.3)]
    state = progress.State(step=step, corpora=corpora, history=[progress.Validation(1, 3.0, 0.1, 10)])
    if result:
        state.history.append(result)
    optimizer = {"exp_avg/output.weight": torch.rand(9, 12)}
    hidden = ((torch.rand(6, 12), torch.rand(6, 12)),)
    made = bundle.Bundle(model, builders.TEXT, dataset.codecs, "none", "fp32")
    return checkpoint.Snapshot(made, optimizer, hidden, state, {"seed": 1}, result)


def _save(root: location.Location, dataset: shards.Dataset, step: int, epoch: int, nll: float | None = None) -> Any:
    return checkpoint.save(root, epoch, make_snapshot(dataset, step, nll), run_log.RunLog(root, epoch))


def _is_marked_best(ref: checkpoint.CheckpointRef) -> bool:
    best: bool = ref.folder.join(checkpoint.MANIFEST).read_json()["best"]
    return best


def test_a_checkpoint_is_loaded_bit_for_bit(tmp_path: Path, dataset: shards.Dataset) -> None:
    root = builders.location_of(tmp_path)
    saved, snapshot = _save(root, dataset, 7, 1, nll=2.5), make_snapshot(dataset, 7, nll=2.5)
    newest = checkpoint.find_newest(root).ref
    assert newest == saved
    loaded, weights = checkpoint.load(saved), bundle.load(saved.bundle).model.state_dict()
    assert loaded.state == snapshot.state
    assert checkpoint.load_state(saved) == (snapshot.state, snapshot.settings)
    assert snapshot.hidden is not None
    assert loaded.hidden is not None
    expected = {**snapshot.optimizer, **states.to_named(snapshot.hidden), **snapshot.bundle.model.state_dict()}
    for name, tensor in {**loaded.optimizer, **states.to_named(loaded.hidden), **weights}.items():
        assert torch.equal(tensor, expected.pop(name))
    assert not expected


def test_the_newest_checkpoint_is_by_fencing_number_and_then_by_step(tmp_path: Path, dataset: shards.Dataset) -> None:
    root = builders.location_of(tmp_path)
    assert checkpoint.find_newest(root) == checkpoint.NewestCheckpoint(None)
    for step, epoch in ((30, 1), (10, 2), (20, 2)):
        _save(root, dataset, step, epoch)
    newest = checkpoint.find_newest(root).ref
    assert newest is not None
    assert (newest.step, newest.fencing_number) == (20, 2)


def test_the_best_checkpoint_is_by_validation_and_marked_when_written(tmp_path: Path, dataset: shards.Dataset) -> None:
    root = builders.location_of(tmp_path)
    assert checkpoint.find_best(root) is None
    marks = [_is_marked_best(_save(root, dataset, step, 1, nll)) for step, nll in ((1, 2.0), (2, 3.5), (3, None))]
    best = checkpoint.find_best(root)
    assert marks == [True, False, False]
    assert best is not None
    assert best.step == 1
    assert bundle.find_folder(root) == best.bundle


# Losses and BLEU in the order of validations. By BLEU: 40 three times, of which the loss of 1.4 is the lowest; the last
# was not translated and comes last, though its loss is the lowest of all.
BLEUS = [(2.0, 30.0), (1.5, 40.0), (1.0, 20.0), (1.4, 40.0), (1.6, 40.0), (0.5, None)]


@pytest.mark.parametrize(
    ("metric", "best", "marks", "order"),
    [
        ("bleu", 4, [True, True, False, True, False, False], [4, 2, 5, 1, 3, 6]),
        ("perplexity", 6, [True, True, True, False, False, True], [6, 3, 4, 2, 5, 1]),
    ],
)
def test_the_best_checkpoint_by_bleu_is_by_loss_among_equal_bleus(
    tmp_path: Path, dataset: shards.Dataset, metric: Any, best: int, marks: list[bool], order: list[int]
) -> None:
    root = builders.location_of(tmp_path)
    history: list[progress.Validation] = []
    marked = []
    for step, (nll, bleu) in enumerate(BLEUS, 1):
        history.append(progress.Validation(step, nll, 0.5, 10, bleu))
        snapshot = make_snapshot(dataset, step, nll)
        state = dataclasses.replace(snapshot.state, history=list(history))
        snapshot = snapshot._replace(state=state, validation=history[-1], best_by=metric)
        marked.append(_is_marked_best(checkpoint.save(root, 1, snapshot, run_log.RunLog(root, 1))))
    assert marked == marks
    taken = checkpoint.find_best(root)
    assert taken is not None
    assert taken.step == best
    assert [candidate.step for candidate in bundle.select_checkpoints(root, 6)] == order
    retention.retain(root, 1, fencing_number=1)
    assert [checkpoint.read(folder).step for folder in checkpoint.committed(root)] == sorted({best, 6}, reverse=True)


def test_a_damaged_checkpoint_is_skipped_for_the_one_before(tmp_path: Path, dataset: shards.Dataset) -> None:
    root = builders.location_of(tmp_path)
    _save(root, dataset, 1, 1)
    saved = _save(root, dataset, 2, 1)
    chance = random.Random(0)
    names = [*(file.name for file in saved.files), checkpoint.MANIFEST]
    for turn in range(42):
        path = saved.folder.join(names[turn % len(names)]).path
        data = path.read_bytes()
        index = chance.randrange(len(data))
        damaged = data[:index] + bytes([data[index] ^ (1 << chance.randrange(7))]) + data[index + 1 :]
        path.write_bytes(data[:index] if turn % 3 == 0 else damaged)
        newest = checkpoint.find_newest(root)
        assert newest.ref is not None
        if path.name != checkpoint.MANIFEST:
            assert newest.ref.step == 1
            assert path.name in newest.skipped_checkpoints[0].reason
        path.write_bytes(data)
    swapped = saved.folder.join(checkpoint.MANIFEST).path
    swapped.write_bytes((tmp_path / "checkpoints" / "step-00000001-e1" / "MANIFEST.json").read_bytes())
    newest = checkpoint.find_newest(root)
    assert newest.ref is not None
    assert newest.ref.step == 1


def test_a_run_never_starts_over_by_itself(tmp_path: Path, dataset: shards.Dataset) -> None:
    root = builders.location_of(tmp_path)
    for step in (1, 2):
        saved = _save(root, dataset, step, 1)
        saved.folder.join(checkpoint.OPTIMIZER).path.write_bytes(b"gone")
    with pytest.raises(errors.IntegrityError, match="no checkpoint verifies"):
        checkpoint.find_newest(root)


def test_a_checkpoint_without_a_manifest_does_not_exist(tmp_path: Path, dataset: shards.Dataset) -> None:
    root = builders.location_of(tmp_path)
    _save(root, dataset, 1, 1)
    _save(root, dataset, 2, 1).folder.join(checkpoint.MANIFEST).remove()
    newest = checkpoint.find_newest(root)
    assert newest.ref is not None
    assert (newest.ref.step, newest.skipped_checkpoints) == (1, ())
    # A copy under the name of a later step verifies, and is not what its name says.
    shutil.copytree(newest.ref.folder.path, tmp_path / "checkpoints" / "step-00000009-e1")
    assert checkpoint.find_newest(root).ref == newest.ref


def test_a_worker_group_with_an_old_fencing_number_commits_nothing(tmp_path: Path, dataset: shards.Dataset) -> None:
    root = builders.location_of(tmp_path)
    numbers = [checkpoint.take_fencing_number(root, 1) for _ in range(3)]
    assert numbers == [1, 2, 3]
    with pytest.raises(errors.LockedError, match=r"number 3\) has taken over from this one \(.*number 2\)"):
        _save(root, dataset, 5, 2)
    assert checkpoint.find_newest(root).ref is None
    assert _save(root, dataset, 5, 3).fencing_number == 3


@pytest.mark.parametrize("what", ["weights", "optimizer", "hidden"])
def test_tensors_that_are_not_finite_are_never_saved(tmp_path: Path, dataset: shards.Dataset, what: str) -> None:
    root = builders.location_of(tmp_path)
    snapshot = make_snapshot(dataset, 5)
    assert snapshot.hidden is not None
    tensors = {
        "weights": next(snapshot.bundle.model.parameters()).data,
        "optimizer": snapshot.optimizer["exp_avg/output.weight"],
        "hidden": snapshot.hidden[0][0],
    }
    tensors[what][0, 0] = float("nan")
    with pytest.raises(errors.DivergedError, match=r"step 5: .* not finite"):
        checkpoint.save(root, 1, snapshot, run_log.RunLog(root, 1))
    assert not (tmp_path / "checkpoints").exists()


def test_the_newest_and_the_best_checkpoints_are_kept(tmp_path: Path, dataset: shards.Dataset) -> None:
    root = builders.location_of(tmp_path)
    for step, nll in ((1, 2.0), (2, 1.0), (3, 1.5), (4, None), (5, 1.4), (6, None)):
        _save(root, dataset, step, 1, nll)
        retention.retain(root, 2, fencing_number=9)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000002-e1", "step-00000005-e1", "step-00000006-e1"]


def test_an_interrupted_removal_leaves_no_partial_checkpoint(
    tmp_path: Path, dataset: shards.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many removals succeed, what can be read verifies, and two are left."""
    remove = location.Location.remove
    for allowed in (0, 1, 4, 7):
        root = builders.location_of(tmp_path / str(allowed))
        for step in (1, 2, 3):
            _save(root, dataset, step, 1)
        left = allowed

        def limited(self: location.Location) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise errors.StorageError("gone")
            remove(self)

        with monkeypatch.context() as patch:
            patch.setattr(location.Location, "remove", limited)
            try:
                retention.retain(root, 2, fencing_number=9)
            except errors.StorageError:
                assert allowed < 7
        newest = checkpoint.find_newest(root)
        assert newest.skipped_checkpoints == ()
        bundle.find_folder(root)
        manifests = list((tmp_path / str(allowed)).glob("checkpoints/*/MANIFEST.json"))
        assert len(manifests) == (3 if allowed == 0 else 2)


def test_a_failed_write_leaves_the_checkpoint_before(
    tmp_path: Path, dataset: shards.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full at the n-th file, for every n."""
    put = location.Location.put_if_absent
    for allowed in range(0, 9, 2):
        root = builders.location_of(tmp_path / str(allowed))
        _save(root, dataset, 1, 1)
        left = allowed

        def limited(self: location.Location, data: bytes) -> bool:
            nonlocal left
            left -= 1
            if left < 0:
                raise errors.StorageError(f"{self}: no space left on device")
            return put(self, data)

        failed = False
        with monkeypatch.context() as patch:
            patch.setattr(location.Location, "put_if_absent", limited)
            try:
                _save(root, dataset, 2, 1)
            except errors.StorageError:
                failed = True
        newest = checkpoint.find_newest(root).ref
        assert newest is not None
        assert newest.step == (1 if failed else 2)
        # Its own files are gone, so that the next save has their room.
        assert len(list((tmp_path / str(allowed) / "checkpoints").iterdir())) == newest.step
    assert not failed


def test_a_checkpoint_whose_commit_had_no_reply_stays(
    tmp_path: Path, dataset: shards.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = builders.location_of(tmp_path)
    put = location.Location.put_if_absent

    def fails_after_the_manifest(self: location.Location, data: bytes) -> bool:
        done = put(self, data)
        if self.name == checkpoint.MANIFEST:
            raise errors.StorageError("no reply")
        return done

    with monkeypatch.context() as patch:
        patch.setattr(location.Location, "put_if_absent", fails_after_the_manifest)
        with pytest.raises(errors.StorageError, match="no reply"):
            _save(root, dataset, 3, 1)
    assert [checkpoint.read(folder).step for folder in checkpoint.committed(root)] == [3]


def test_training_state_damaged_after_the_check_is_not_used(tmp_path: Path, dataset: shards.Dataset) -> None:
    root = builders.location_of(tmp_path)
    _save(root, dataset, 1, 1)
    newest = checkpoint.readable(root)[0]
    for name in (checkpoint.OPTIMIZER, checkpoint.HIDDEN, checkpoint.PROGRESS):
        path = newest.folder.join(name).path
        data = path.read_bytes()
        place = data.rindex(b"0") if name == checkpoint.PROGRESS else len(data) - 4
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(errors.IntegrityError, match=f"{path.name}: is damaged"):
            checkpoint.load(newest)
        path.write_bytes(data)


def test_a_start_removes_what_dead_starts_left_of_a_save(tmp_path: Path, dataset: shards.Dataset) -> None:
    """Of a save of this very start nothing is removed: it may be running."""
    root = builders.location_of(tmp_path)
    assert checkpoint.take_fencing_number(root, 1) == 1
    for step, number in ((1, 1), (2, 1), (3, 2)):
        _save(root, dataset, step, number)
    for name in ("step-00000002-e1", "step-00000003-e2"):
        (tmp_path / "checkpoints" / name / "MANIFEST.json").unlink()
        (tmp_path / "checkpoints" / name / "bundle" / ".tmp-half").write_bytes(b"half")
    assert checkpoint.take_fencing_number(root, 1) == 2
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step-00000001-e1", "step-00000003-e2"}


def test_old_checkpoints_make_room_before_a_save_on_a_full_disk(
    tmp_path: Path, dataset: shards.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Free is what four checkpoints leave of a disk for five and a half: there is room. With less, the oldest goes.

    The best, of step 1, and the last are never removed.
    """
    root = builders.location_of(tmp_path)
    saved = [_save(root, dataset, step, 1, 1.0 if step == 1 else 2.0) for step in (1, 2, 3, 4)]
    size = saved[-1].size_bytes
    size += 8192 * (len(saved[-1].files) + 4)  # with what blocks, manifest and run log take
    for disk, steps in ((5.5, [4, 3, 2, 1]), (4.5, [4, 3, 1]), (0.5, [4, 1])):

        def free_bytes(_: location.Location, disk: float = disk) -> int:
            return int((disk - len(checkpoint.committed(root))) * size)

        with monkeypatch.context() as patch:
            patch.setattr(location.Location, "free_bytes", free_bytes)
            retention.make_room(root, saved[-1], fencing_number=9)
        assert [checkpoint.read(folder).step for folder in checkpoint.committed(root)] == steps


@pytest.mark.parametrize("is_of_before", [False, True])
def test_a_damaged_manifest_never_changes_what_is_resumed_or_used(
    tmp_path: Path, dataset: shards.Dataset, is_of_before: bool
) -> None:
    """With it the checkpoint is used as it was; else the one before it is, or there is an error of integrity."""
    root = builders.location_of(tmp_path)
    first, second = (_save(root, dataset, step, 1, nll) for step, nll in ((1, 2.5), (2, 1.5)))
    path = second.folder.join(checkpoint.MANIFEST)
    data = path.read_bytes()
    if is_of_before:
        data = test_control_files.without_hash(data)
    for damaged in test_control_files.damages(data, count=150):
        path.replace(damaged)
        try:
            resumed, used = checkpoint.find_newest(root).ref, bundle.select_checkpoint(root).checkpoint
            best = checkpoint.find_best(root)
        except errors.IntegrityError:
            continue
        assert resumed in (first, second) or is_of_before
        assert used in (first.folder, second.folder)
        assert best in (first, second) or is_of_before


@pytest.mark.parametrize(
    "value", ["[]", '"x"', "1e999", "{}", '{"nll_nats": 1e999}', '{"tasks": 3, "step": 1}', "1" * 400]
)
def test_a_validation_of_another_form_is_damage(tmp_path: Path, dataset: shards.Dataset, value: str) -> None:
    """Files of before have no hash: whatever is in them, the other checkpoint is found."""
    root = builders.location_of(tmp_path)
    first, second = (_save(root, dataset, step, 1, nll) for step, nll in ((1, 2.5), (2, 1.5)))
    path = second.folder.join(checkpoint.MANIFEST)
    content = json.loads(path.read_bytes())
    del content["sha256"]
    text = json.dumps({**content, "validation": "PLACE", "num_skipped_in_row": "OTHER"})
    path.replace(text.replace('"PLACE"', value).replace('"OTHER"', "1e999").encode())
    assert checkpoint.find_newest(root).ref == first
    assert bundle.select_checkpoint(root).checkpoint in (first.folder, second.folder)


def test_a_group_that_was_replaced_removes_no_checkpoint(tmp_path: Path, dataset: shards.Dataset) -> None:
    root = builders.location_of(tmp_path)
    number = checkpoint.take_fencing_number(root, world_size=1)
    saved = [_save(root, dataset, step, number) for step in (1, 2, 3)]
    checkpoint.take_fencing_number(root, world_size=1)
    with pytest.raises(errors.LockedError, match="newer worker group"):
        retention.retain(root, 1, number)
    assert checkpoint.readable(root) == saved[::-1]


@pytest.mark.parametrize("kind", ["device", "pipe", "folder", "link"])
def test_weights_that_are_not_a_file_of_the_checkpoint_are_not_read(
    tmp_path: Path, dataset: shards.Dataset, kind: str
) -> None:
    """A link to an equal file outside is refused, too; the checkpoint before it is used."""
    root = builders.location_of(tmp_path / "run")
    first, second = (_save(root, dataset, step, 1, 3.0 - step) for step in (1, 2))
    weights = second.bundle.join(bundle.WEIGHTS_FILE).path
    weights.rename(tmp_path / "outside")
    if kind == "pipe":
        os.mkfifo(weights)
    elif kind == "folder":
        weights.mkdir()
    else:
        weights.symlink_to("/dev/zero" if kind == "device" else tmp_path / "outside")
    assert bundle.select_checkpoint(root).checkpoint == first.folder
    assert checkpoint.find_newest(root).ref == first
    with pytest.raises(errors.IntegrityError, match=r"model\.safetensors: is a"):
        bundle.select_checkpoint(second.folder)


def test_a_checkpoint_is_written_and_an_old_one_removed_in_a_few_requests_in_series(
    s3_root: location.Location, store: s3.Store, dataset: shards.Dataset
) -> None:
    """All ranks wait for these requests: the files of a checkpoint go at the same time, the manifest after them."""
    log = run_log.RunLog(s3_root, checkpoint.take_fencing_number(s3_root, world_size=1))
    for step in (1, 2, 3):
        checkpoint.save(s3_root, 1, make_snapshot(dataset, step, nll=1 / step), log)
    log.add({"kind": "step", "step": 4})
    with store.recording(latency_s=0.2) as saving:
        saved = checkpoint.save(s3_root, 1, make_snapshot(dataset, 4, nll=0.1), log)
    # The files, a segment of the run log, and the manifest; the question whether another group has started.
    assert saving.by_kind() == {"PUT": len(saved.files) + 2, "LIST": 1}
    # Three; more on a busy machine, where requests of the same time begin one after the other.
    assert saving.in_series() <= 5
    assert saving[-1].path.endswith(checkpoint.MANIFEST)
    assert saving[-2].kind == "LIST"
    with store.recording(latency_s=0.2) as removing:
        retention.retain(s3_root, 3, fencing_number=1)
    assert [ref.step for ref in checkpoint.readable(s3_root)] == [4, 3, 2]
    assert removing.in_series() <= 8
    # Before each file of the one that goes, whether another group has started; the manifest before the others.
    deleted = [request.path for request in removing if request.kind == "DELETE"]
    assert len(deleted) == len(saved.files) + 1
    assert deleted[0].endswith(checkpoint.MANIFEST)
    assert removing.by_kind()["LIST"] == 2 + len(deleted)


def test_a_save_that_failed_in_an_object_store_leaves_nothing_there(
    dataset: shards.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = location.Location.parse("memory://failed-save/run")
    _save(root, dataset, 1, 1)
    put = location.Location.put_if_absent

    def fails(self: location.Location, data: bytes) -> bool:
        if self.name == checkpoint.MANIFEST:
            raise errors.StorageError("no reply")
        return put(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(location.Location, "put_if_absent", fails)
        with pytest.raises(errors.StorageError, match="no reply"):
            _save(root, dataset, 2, 1)
    assert [checkpoint.read(folder).step for folder in checkpoint.folders(root)] == [1]


def _with_progress(ref: checkpoint.CheckpointRef, content: object) -> checkpoint.CheckpointRef:
    """Returns a checkpoint with another progress file, in the manifest by its right hash."""
    data = json.dumps(content).encode()
    ref.folder.join(checkpoint.PROGRESS).replace(data)
    record = commit.FileRecord(checkpoint.PROGRESS, commit.sha256_hex(data), len(data))
    return dataclasses.replace(ref, files=tuple(record if file.name == record.name else file for file in ref.files))


def test_training_state_of_another_step_or_form_is_not_used(tmp_path: Path, dataset: shards.Dataset) -> None:
    ref = _save(builders.location_of(tmp_path), dataset, 5, 1)
    stored = ref.folder.join(checkpoint.PROGRESS).read_json()
    other = {**stored, "state": {**stored["state"], "step": 6}}
    with pytest.raises(errors.IntegrityError, match=r"progress\.json: belongs to step 6, not to 5"):
        checkpoint.load(_with_progress(ref, other))
    forms: list[object] = [[], {**stored, "settings": None}]
    for wrong in forms:
        with pytest.raises(errors.IntegrityError, match=r"progress\.json: is not a progress file"):
            checkpoint.load(_with_progress(ref, wrong))


def test_a_model_without_hidden_state_has_none_after_a_resume(tmp_path: Path, dataset: shards.Dataset) -> None:
    root = builders.location_of(tmp_path)
    snapshot = make_snapshot(dataset, 3)._replace(hidden=None)
    assert checkpoint.load(checkpoint.save(root, 1, snapshot, run_log.RunLog(root, 1))).hidden is None


def test_files_of_another_run_in_the_place_of_a_checkpoint_are_not_replaced(
    tmp_path: Path, dataset: shards.Dataset
) -> None:
    root = builders.location_of(tmp_path)
    optimizer = root.join("checkpoints", "step-00000003-e1", checkpoint.OPTIMIZER)
    optimizer.put_if_absent(b"of another run")
    with pytest.raises(errors.LockedError, match="was written by another run; use another root"):
        _save(root, dataset, 3, 1)
