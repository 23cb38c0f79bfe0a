"""Whole runs on one rank: the ends of a run, its checkpoints and its run log."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from core import errors
from core.data.dataset import shards
from core.models import bundle
from core.reporting import training_history
from core.storage import location
from core.telemetry import metrics
from core.training import checkpoint, collective, step, trainer, validation
from tests.core.training import builders


@pytest.mark.parametrize(
    ("kind", "settings", "trained", "validated"),
    [
        ("text", {}, ("stream", 6), ("stream", 6)),
        ("text", {"sampling": "random"}, ("window", None), ("stream", 6)),
        ("pairs", {}, ("line", None), ("line", None)),
    ],
)
def test_every_row_with_a_perplexity_has_its_unit(
    tmp_path: Path,
    text: location.Location,
    pairs: location.Location,
    kind: str,
    settings: dict[str, Any],
    trained: tuple[str, int | None],
    validated: tuple[str, int | None],
) -> None:
    model = builders.TEXT if kind == "text" else builders.PAIRS
    job = builders.job(tmp_path, text if kind == "text" else pairs, model, epochs=1, **settings)
    summary = builders.train(job)
    assert summary.best_validation is not None
    rows = [row for row in training_history.read(builders.location_of(tmp_path)) if "perplexity" in row]
    assert {row["kind"] for row in rows} == {"step", "validation"}
    for row in [*rows, summary.best_validation.to_json()]:
        expected = trained if row.get("kind") == "step" else validated
        assert (row["unit"], row.get("lanes")) == expected
        assert row["eos_counted"] == (kind == "pairs")  # this text has no line ends


def test_training_reduces_the_loss_and_reports_it(tmp_path: Path, text: location.Location) -> None:
    recorded, watch = metrics.InMemoryMetrics(), builders.Watch()
    job = builders.job(tmp_path, text, epochs=12, learning_rate=0.03, log_every_steps=4)
    summary = trainer.train(job, collective.SingleProcess(), recorded, watch)
    rows = builders.steps(tmp_path)
    assert rows[0]["loss_nats"] > 2.0
    assert summary.validation is not None
    assert summary.validation.nll_nats < 1.3
    assert summary.loss_nats == rows[-1]["loss_nats"]
    counted = {
        name: sum(value for called, value, _ in recorded.calls if called == name) for name, _, _ in recorded.calls
    }
    assert counted["raycurrent_train_steps_total"] == summary.step
    assert counted["raycurrent_train_tokens_total"] == summary.num_tokens
    assert sum(name == "raycurrent_train_step_seconds" for name, _, _ in recorded.calls) == summary.step
    gauges = {name: value for name, value, _ in recorded.calls}
    for name, column in (
        ("loss_nats", "loss_nats"),
        ("gradient_norm", "gradient_norm"),
        ("learning_rate", "learning_rate"),
    ):
        assert gauges[f"raycurrent_train_{name}"] == rows[-1][column]
    assert gauges["raycurrent_train_validation_loss_nats"] == summary.validation.nll_nats
    assert rows[-1]["perplexity"] == pytest.approx(math.exp(rows[-1]["loss_nats"]))
    assert rows[-1]["tokens_per_s"] > 0
    last = watch.seen[-1]
    assert (last.step, last.epoch, last.validation) == (summary.step, 12, summary.validation)
    assert summary.to_json()["validation"]["perplexity"] == pytest.approx(2.718281828**summary.validation.nll_nats)


def test_a_finished_run_is_left_alone_and_continues_with_more_epochs(tmp_path: Path, text: location.Location) -> None:
    builders.train(builders.job(tmp_path / "long", text, epochs=3))
    job = builders.job(tmp_path / "run", text, epochs=2)
    first = builders.train(job)
    before = sorted(path for path in (tmp_path / "run").rglob("*"))
    again = builders.train(job)
    assert sorted(path for path in (tmp_path / "run").rglob("*")) == before
    assert (again.step, again.checkpoint, again.fencing_number) == (first.step, first.checkpoint, 0)
    builders.train(builders.job(tmp_path / "run", text, epochs=3))
    assert builders.digest(tmp_path / "run") == builders.digest(tmp_path / "long")


def test_max_steps_and_early_stopping_end_a_run(tmp_path: Path, text: location.Location) -> None:
    assert builders.train(builders.job(tmp_path / "steps", text, max_steps=7)).step == 7
    settings: dict[str, Any] = {
        "epochs": 50,
        "learning_rate": 1e-9,
        "optimizer": {"kind": "sgd"},
        "validate_every_steps": 2,
    }
    stop: dict[str, Any] = {"metric": "perplexity", "patience": 3}
    job = builders.job(tmp_path / "early", text, early_stop=stop, **settings)
    # So small a rate changes no weight: the first validation stays the best, and three more follow.
    assert builders.train(job).step == 8


def test_early_stopping_by_bleu(tmp_path: Path, pairs: location.Location) -> None:
    """BLEU 10, 30, 20, 25: two validations after the best one, which is kept. The loss gets better all the while."""

    class Scripted:
        def __init__(self) -> None:
            self.bleus = iter([10.0, 30.0, 20.0, 25.0, 40.0])

        def decode(self, *_: object) -> validation.DecodingResult:
            sample = validation.Sample("in", "out", "right")
            return validation.DecodingResult(next(self.bleus), (sample,))

    stop: dict[str, Any] = {"metric": "bleu", "patience": 2}
    settings: dict[str, Any] = {"early_stop": stop, "validation": {"bleu_lines": 5, "samples": 1}, "epochs": 50}
    job = builders.job(tmp_path, pairs, builders.PAIRS, keep_checkpoints=1, **settings)
    summary = trainer.train(job, collective.SingleProcess(), metrics.NullMetrics(), builders.Watch(), Scripted())
    assert summary.epochs_done == 4
    assert summary.validation is not None
    assert summary.validation.bleu == 25.0
    assert summary.best_validation is not None
    assert summary.best_validation.bleu == 30.0
    assert bundle.select_checkpoint(builders.location_of(tmp_path)).step == summary.best_validation.step
    rows = training_history.read(builders.location_of(tmp_path))
    assert [row["bleu"] for row in rows if row["kind"] == "validation"] == [10.0, 30.0, 20.0, 25.0]
    samples = [row["samples"] for row in rows if row["kind"] == "samples"]
    assert samples == [[{"source": "in", "output": "out", "reference": "right"}]] * 4
    assert builders.train(job).step == summary.step  # what stopped it is in the checkpoint


def test_reload_best_continues_from_the_best_checkpoint_after_a_decay(tmp_path: Path, text: location.Location) -> None:
    """The learning rate is so high that losses rise at once; after the decay, training starts from the best."""
    settings: dict[str, Any] = {
        "schedule": {"kind": "plateau", "reload_best": True, "patience": 0, "decay_factor": 1e-9},
        "optimizer": {"kind": "sgd"},
        "learning_rate": 8.0,
        "clip_norm": None,
        "validate_every_steps": 1,
        "keep_checkpoints": 1,
    }
    summary = builders.train(builders.job(tmp_path / "run", text, max_steps=9, **settings))
    assert summary.best_validation is not None
    best = summary.best_validation
    rows = [row for row in training_history.read(builders.location_of(tmp_path / "run")) if row["kind"] == "validation"]
    fallen = next(at for at in range(1, len(rows)) if rows[at]["nll_nats"] > rows[at - 1]["nll_nats"])
    assert rows[fallen]["nll_nats"] > best.nll_nats + 0.01
    assert all(row["nll_nats"] == pytest.approx(best.nll_nats, abs=1e-4) for row in rows[fallen + 1 :])
    assert len(rows) > fallen + 1


def test_gradient_diagnostics_are_logged_on_request(tmp_path: Path, text: location.Location) -> None:
    builders.train(builders.job(tmp_path, text, record_gradients=True, max_steps=10))
    rows = training_history.read(builders.location_of(tmp_path))
    (step_row,) = [row for row in rows if row["kind"] == "step"]
    total = sum(norm**2 for norm in step_row["layer_norms"].values()) ** 0.5
    assert total == pytest.approx(step_row["gradient_norm"], rel=1e-5)
    (gradients_row,) = [row for row in rows if row["kind"] == "gradients"]
    ((_, radii),) = gradients_row["spectral_radii"].items()
    assert len(radii) == 4
    assert len(gradients_row["norms_by_lag"]) == 5
    assert all(0 < mean < 1 for mean in gradients_row["forget_gates"].values())
    assert gradients_row["norms_by_lag"][0] > gradients_row["norms_by_lag"][4] > 0


def test_the_learning_rate_follows_the_length_of_a_variable_window(tmp_path: Path, text: location.Location) -> None:
    builders.train(
        builders.job(tmp_path, text, truncation={"kind": "variable"}, window=20, log_every_steps=1, epochs=4)
    )
    rows = builders.steps(tmp_path)
    full = [row for row in rows if row["fraction"] > 0]  # the last window of an epoch is short, its rate is not
    assert len({row["learning_rate"] for row in full}) > 5
    before = 0
    for row in rows:
        if row in full and row["fraction"] < 1:
            assert row["learning_rate"] == pytest.approx(0.01 * (row["num_tokens"] - before) / 6 / 20)
        before = row["num_tokens"]


def test_checkpoints_are_saved_when_due_and_old_ones_removed(tmp_path: Path, text: location.Location) -> None:
    job = builders.job(tmp_path, text, epochs=1, checkpoint_every_steps=2, validate_every_steps=5, keep_checkpoints=3)
    summary = builders.train(job)
    assert summary.step == 14
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000010-e1", "step-00000012-e1", "step-00000014-e1"]
    best = checkpoint.find_best(builders.location_of(tmp_path))
    assert best is not None
    assert best.validation == summary.best_validation


def test_a_damaged_checkpoint_is_skipped_and_reported(tmp_path: Path, text: location.Location) -> None:
    job = builders.job(tmp_path / "run", text, checkpoint_every_steps=3)
    builders.train(dataclasses.replace(job, root=builders.location_of(tmp_path / "whole")))
    builders.train(job, stop_after=7)
    weights = tmp_path / "run" / "checkpoints" / "step-00000007-e1" / "bundle" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    recorded = metrics.InMemoryMetrics()
    summary = trainer.train(job, collective.SingleProcess(), recorded, builders.Watch())
    assert len(summary.skipped_checkpoints) == 1
    assert "step-00000007-e1" in summary.skipped_checkpoints[0]
    assert ("raycurrent_checkpoint_fallbacks_total", 1, {}) in recorded.calls
    assert builders.digest(tmp_path / "run") == builders.digest(tmp_path / "whole")
    assert weights.exists()


def test_another_model_dataset_or_seed_needs_another_root(tmp_path: Path, text: location.Location) -> None:
    job = builders.job(tmp_path / "run", text)
    builders.train(job, stop_after=2)
    wider = builders.TEXT.model_copy(update={"hidden_size": 16})
    with pytest.raises(errors.LockedError, match=r"another model .hidden_size: 12, now 16"):
        builders.train(dataclasses.replace(job, model=wider))
    with pytest.raises(errors.LockedError, match="another seed"):
        builders.train(dataclasses.replace(job, seed=2))
    with pytest.raises(errors.LockedError, match="another dataset"):
        builders.train(dataclasses.replace(job, dataset=builders.text_dataset(tmp_path / "other", num_train=300)))
    assert not (tmp_path / "run" / "epochs" / "00000002.json").exists()


def test_fresh_refuses_a_checkpoint_of_another_attempt(tmp_path: Path, text: location.Location) -> None:
    job = dataclasses.replace(builders.job(tmp_path, text), fresh=True)
    builders.train(job, stop_after=2)
    builders.train(job, stop_after=2)
    with pytest.raises(errors.LockedError, match="--fresh"):
        builders.train(dataclasses.replace(job, attempt="another"))


def test_init_from_starts_from_the_weights_of_another_run(tmp_path: Path, text: location.Location) -> None:
    builders.train(builders.job(tmp_path / "first", text))
    kept = builders.digest(tmp_path / "first")["bundle/model.safetensors"]
    still: dict[str, Any] = {"learning_rate": 1e-30, "optimizer": {"kind": "sgd"}, "max_steps": 1}
    builders.train(builders.job(tmp_path / "second", text, init_from=str(tmp_path / "first"), seed=9, **still))
    assert builders.digest(tmp_path / "second")["bundle/model.safetensors"] == kept
    wider = builders.TEXT.model_copy(update={"hidden_size": 16})
    with pytest.raises(errors.UsageError, match="holds another model"):
        builders.train(builders.job(tmp_path / "third", text, wider, init_from=str(tmp_path / "first")))


def test_the_summary_counts_the_skipped_targets(tmp_path: Path, text: location.Location) -> None:
    for sampling in ("sequential", "random"):
        job = builders.job(tmp_path / sampling, text, epochs=3, sampling=sampling)
        summary = builders.train(job)
        assert summary.num_skipped_targets > 0
        assert summary.num_tokens + summary.num_skipped_targets == 3 * 399
        assert builders.train(job).num_skipped_targets == summary.num_skipped_targets


def test_random_windows_carry_no_state(tmp_path: Path, text: location.Location) -> None:
    for sampling, has_state in (("sequential", True), ("random", False)):
        builders.train(builders.job(tmp_path / sampling, text, sampling=sampling), stop_after=3)
        newest = checkpoint.find_newest(builders.location_of(tmp_path / sampling)).ref
        assert newest is not None
        assert (checkpoint.load(newest).hidden is not None) == has_state


def test_three_steps_in_a_row_that_are_not_finite_end_the_run(
    tmp_path: Path, text: location.Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two are skipped and counted, without a trace in the weights; the third ends it."""
    train_step, done = step.Learner.train_step, 0
    bad = {2, 3, 6, 7, 8}

    def spoiled(self: step.Learner, *arguments: Any, **named: Any) -> step.StepResult:
        nonlocal done
        done += 1
        if done in bad:
            monkeypatch.setattr("core.training.gradients.clip", lambda *_: torch.tensor(float("inf")))
        before = [parameter.detach().clone() for parameter in self.objective.model.parameters()]
        outcome = train_step(self, *arguments, **named)
        same = all(torch.equal(*pair) for pair in zip(before, self.objective.model.parameters(), strict=True))
        assert same == (done in bad)
        monkeypatch.undo() if done in bad else None
        monkeypatch.setattr(step.Learner, "train_step", spoiled)
        return outcome

    monkeypatch.setattr(step.Learner, "train_step", spoiled)
    job = builders.job(tmp_path, text, checkpoint_every_steps=4)
    with pytest.raises(errors.DivergedError, match=r"step 8: .*3 steps in a row.*step-00000004-e1.*resumes from it"):
        builders.train(job)
    newest = checkpoint.find_newest(builders.location_of(tmp_path)).ref
    assert newest is not None
    assert checkpoint.load(newest).state.num_skipped == 2


def test_a_requested_checkpoint_is_saved_after_that_step_and_changes_no_bit(
    tmp_path: Path, text: location.Location
) -> None:
    saves = {}
    for name, asked in (("whole", ()), ("saved", (3, 5))):
        job = builders.job(tmp_path / name, text, keep_checkpoints=99)
        trainer.train(job, collective.SingleProcess(), metrics.NullMetrics(), builders.Watch(save_after=asked))
        saves[name] = {path.name for path in (tmp_path / name / "checkpoints").iterdir()}
    assert saves["saved"] - saves["whole"] == {"step-00000003-e1", "step-00000005-e1"}
    assert saves["whole"] < saves["saved"]
    assert builders.digest(tmp_path / "saved") == builders.digest(tmp_path / "whole")


def test_too_little_text_for_the_lanes_is_refused(tmp_path: Path) -> None:
    short = builders.text_dataset(tmp_path / "short", num_train=5)
    with pytest.raises(errors.DataError, match="use fewer lanes"):
        builders.train(builders.job(tmp_path / "run", short))
    with pytest.raises(errors.UsageError, match="run prepare first"):
        shards.Dataset.open(builders.location_of(tmp_path / "nowhere"))
