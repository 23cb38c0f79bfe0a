"""What a run keeps, and what a resume passes over, after training diverged."""

from pathlib import Path

import pytest

from core.data.dataset import shards
from core.storage import location
from core.training import checkpoint, retention, run_log
from tests.core.training import builders
from tests.core.training.test_checkpoint import make_snapshot

Refs = dict[int, checkpoint.CheckpointRef]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> shards.Dataset:
    return shards.Dataset.open(builders.text_dataset(tmp_path_factory.mktemp("dataset")))


@pytest.fixture
def root(tmp_path: Path) -> location.Location:
    return builders.location_of(tmp_path)


def save(root: location.Location, dataset: shards.Dataset, losses: dict[int, float | None]) -> Refs:
    """Saves a checkpoint of each step, with its validation loss if it has one."""
    return {
        step: checkpoint.save(root, 1, make_snapshot(dataset, step, nll), run_log.RunLog(root, 1))
        for step, nll in losses.items()
    }


def steps_of(root: location.Location) -> list[int]:
    return [checkpoint.read(folder).step for folder in checkpoint.committed(root)]


def test_a_resume_takes_the_newest_checkpoint_from_before_the_streak(
    root: location.Location, dataset: shards.Dataset
) -> None:
    """No step after 2 was finite: those of 2 and 3 would diverge again. Then the step after 1 is not finite either."""
    saved = save(root, dataset, dict.fromkeys((1, 2, 3)))
    assert retention.pass_over_diverged(root, step=5, last_finite_step=2) == saved[1]
    assert [step for step in saved if checkpoint.is_diverged(saved[step].folder)] == [2, 3]
    assert saved[3].folder.join(checkpoint.DIVERGED).read_json()["step"] == 5
    assert checkpoint.find_newest(root).ref == saved[1]
    assert retention.pass_over_diverged(root, step=4, last_finite_step=1) is None
    assert saved[3].folder.join(checkpoint.DIVERGED).read_json()["step"] == 5, "the first divergence stays"
    assert checkpoint.find_newest(root).ref is None, "the run starts from its beginning"


def test_no_checkpoint_is_named_where_those_from_before_the_streak_are_damaged(
    root: location.Location, dataset: shards.Dataset
) -> None:
    saved = save(root, dataset, dict.fromkeys((1, 2)))
    (weights,) = saved[1].folder.path.rglob("model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    assert retention.pass_over_diverged(root, step=4, last_finite_step=2) is None


def test_checkpoints_after_which_training_diverged_go_unless_one_is_the_best(
    root: location.Location, dataset: shards.Dataset
) -> None:
    saved = save(root, dataset, {1: 2.0, 2: 1.9, 3: 1.0, 4: None, 5: None})
    retention.pass_over_diverged(root, step=8, last_finite_step=3)
    retention.retain(root, keep=1, fencing_number=9)
    assert steps_of(root) == [3, 2]
    assert not saved[4].folder.path.exists(), "with its mark"


def test_nothing_is_removed_where_training_diverged_after_every_checkpoint(
    root: location.Location, dataset: shards.Dataset
) -> None:
    save(root, dataset, dict.fromkeys((1, 2, 3)))
    retention.pass_over_diverged(root, step=4, last_finite_step=0)
    retention.retain(root, keep=1, fencing_number=9)
    assert steps_of(root) == [3, 2, 1]


def test_a_damaged_checkpoint_is_neither_counted_nor_removed(root: location.Location, dataset: shards.Dataset) -> None:
    saved = save(root, dataset, dict.fromkeys((1, 2, 3)))
    retention.retain(root, keep=1, fencing_number=9, spared=[saved[3].folder])
    assert steps_of(root) == [3, 2]


def test_a_spared_checkpoint_makes_no_room_and_a_store_without_limits_needs_none(
    root: location.Location, dataset: shards.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = save(root, dataset, dict.fromkeys((1, 2, 3)) | {4: 1.0, 5: None})
    monkeypatch.setattr(location.Location, "free_bytes", lambda _: None)
    retention.make_room(root, saved[5], fencing_number=9)
    assert steps_of(root) == [5, 4, 3, 2, 1]
    monkeypatch.setattr(location.Location, "free_bytes", lambda _: 0)
    retention.make_room(root, saved[5], fencing_number=9, spared=[saved[2].folder])
    assert steps_of(root) == [5, 4, 2]
