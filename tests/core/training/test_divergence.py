"""Streaks of skipped steps: nothing is saved among them, and a diverged run is resumed from before them."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import torch

from core import errors
from core.models import bundle
from core.reporting import training_history
from core.storage import location
from core.training import checkpoint, gradients, step
from tests.core.training import builders


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> location.Location:
    return builders.text_dataset(tmp_path_factory.mktemp("text"))


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[[Collection[int]], None]:
    """Makes the gradients of steps, counted from 1, infinite."""
    train_step, clip = step.Learner.train_step, gradients.clip_to_limits
    current = 0
    spoiled: Collection[int] = ()

    def counted(self: step.Learner, *arguments: Any) -> step.StepResult:
        nonlocal current
        current = arguments[-1] + 1
        return train_step(self, *arguments)

    def clipped(*arguments: Any) -> torch.Tensor:
        norm = clip(*arguments)
        return torch.tensor(float("inf")) if current in spoiled else norm

    monkeypatch.setattr(step.Learner, "train_step", counted)
    monkeypatch.setattr(gradients, "clip_to_limits", clipped)

    def set_steps(steps: Collection[int]) -> None:
        nonlocal spoiled
        spoiled = steps

    return set_steps


def _names(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "checkpoints").iterdir())


def test_what_is_due_among_skipped_steps_waits_for_a_finite_one(
    tmp_path: Path, text: location.Location, spoil: Callable[[Collection[int]], None]
) -> None:
    """A save is due at 4 and a validation at 5, both skipped; a resume in between waits, too, with the same bits."""
    spoil({4, 5})
    settings: dict[str, Any] = {"checkpoint_every_steps": 4, "validate_every_steps": 5, "max_steps": 7}
    settings["keep_checkpoints"] = 9
    builders.train(builders.job(tmp_path / "whole", text, **settings))
    assert _names(tmp_path / "whole") == ["step-00000006-e1", "step-00000007-e1"]
    builders.train(builders.job(tmp_path / "stopped", text, **settings), stop_after=5)
    stopped = checkpoint.find_newest(builders.location_of(tmp_path / "stopped")).ref
    assert stopped is not None
    assert (stopped.step, stopped.num_skipped_in_row) == (5, 2)
    builders.train(builders.job(tmp_path / "stopped", text, **settings))
    for name in ("whole", "stopped"):
        rows = training_history.read(builders.location_of(tmp_path / name))
        assert [row["step"] for row in rows if row["kind"] == "validation"] == [6, 7]
    assert builders.digest(tmp_path / "stopped") == builders.digest(tmp_path / "whole")


@pytest.mark.parametrize("keep", [1, 3])
def test_a_diverged_run_is_resumed_from_a_checkpoint_whose_next_step_was_finite(
    tmp_path: Path, text: location.Location, spoil: Callable[[Collection[int]], None], keep: int
) -> None:
    """The checkpoint of step 6 was saved in time, but its weights may be what makes step 7 infinite."""
    spoil({7, 8, 9})
    job = builders.job(tmp_path / "run", text, checkpoint_every_steps=1, keep_checkpoints=keep, max_steps=12)
    with pytest.raises(errors.DivergedError, match=r"step 9: .*step-00000005-e1, the same command resumes from it"):
        builders.train(job)
    spoil(())
    builders.train(job)
    builders.train(builders.job(tmp_path / "calm", text, max_steps=12))
    assert builders.digest(tmp_path / "run") == builders.digest(tmp_path / "calm")
    rows = training_history.read(builders.location_of(tmp_path / "run"))
    assert not any(row["num_skipped"] for row in rows if row["kind"] == "step")
    assert _names(tmp_path / "run") == [f"step-{step:08d}-e2" for step in range(13 - keep, 13)]


def test_a_run_stopped_among_skipped_steps_that_diverges_then_is_resumed_from_before_them(
    tmp_path: Path, text: location.Location, spoil: Callable[[Collection[int]], None]
) -> None:
    spoil({7, 8, 9})
    job = builders.job(tmp_path, text, checkpoint_every_steps=3, max_steps=12)
    builders.train(job, stop_after=8)
    root = builders.location_of(tmp_path)
    assert bundle.select_checkpoint(root).step == 6  # inference does not take the one that is in doubt
    with pytest.raises(errors.DivergedError, match="step-00000003-e1"):
        builders.train(job)
    newest = checkpoint.find_newest(root).ref
    assert newest is not None
    assert newest.step == 3


def test_a_run_without_a_good_checkpoint_starts_from_the_beginning(
    tmp_path: Path, text: location.Location, spoil: Callable[[Collection[int]], None]
) -> None:
    spoil({6, 7, 8})
    job = builders.job(tmp_path / "run", text, checkpoint_every_steps=5, max_steps=10)
    with pytest.raises(errors.DivergedError, match=r"no good checkpoint, the same command starts from the beginning"):
        builders.train(job)
    spoil(())
    builders.train(job)
    builders.train(builders.job(tmp_path / "calm", text, max_steps=10))
    assert builders.digest(tmp_path / "run") == builders.digest(tmp_path / "calm")


def test_a_run_that_ends_in_a_skipped_step_is_finished_and_its_last_checkpoint_marked(
    tmp_path: Path, text: location.Location, spoil: Callable[[Collection[int]], None]
) -> None:
    spoil({5})
    job = builders.job(tmp_path, text, checkpoint_every_steps=2, keep_checkpoints=1, max_steps=5)
    assert builders.train(job).num_skipped == 1
    newest = checkpoint.find_newest(builders.location_of(tmp_path)).ref
    assert newest is not None
    assert (newest.step, newest.num_skipped_in_row) == (5, 1)
    assert "step-00000004-e1" in _names(tmp_path)
    assert builders.train(job).step == 5


def test_a_relu_network_with_a_huge_rate_is_resumed_with_a_small_one(tmp_path: Path, text: location.Location) -> None:
    """The weights of a checkpoint are finite and large, and what they compute is not."""
    model = builders.TEXT.model_copy(update={"cell": "rnn", "nonlinearity": "relu"})
    settings: dict[str, Any] = {"optimizer": {"kind": "sgd"}, "checkpoint_every_steps": 1, "max_steps": 20}
    with pytest.raises(errors.DivergedError):
        builders.train(builders.job(tmp_path, text, model, learning_rate=1e30, clip_norm=None, **settings))
    summary = builders.train(builders.job(tmp_path, text, model, learning_rate=0.01, **settings))
    assert (summary.step, summary.num_skipped) == (20, 0)
