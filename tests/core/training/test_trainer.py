"""Whole runs on one rank: a resume with the same bits, the ends of a run, its checkpoints and its run log."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from core import errors
from core.config import model_settings
from core.data.dataset import shards
from core.models import bundle
from core.reporting import training_history
from core.storage import location
from core.telemetry import metrics
from core.training import checkpoint, collective, resume, step, trainer, validation
from tests.core.training import builders

WET = {"dropout": 0.3, "embedding_dropout": 0.2, "output_dropout": 0.3, "num_layers": 2}
AVERAGED = {"kind": "asgd", "non_monotone_interval": None}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> location.Location:
    return builders.text_dataset(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> location.Location:
    return builders.pairs_dataset(tmp_path_factory.mktemp("pairs"))


# The third validation, at step 6, is worse than the second: a stop comes right between the decay and the reload.
RELOADING: dict[str, Any] = {
    "schedule": {"kind": "plateau", "patience": 0, "decay_factor": 0.5, "reload_best": True},
    "learning_rate": 1.0,
    "validate_every_steps": 2,
    "epochs": 1,
}


def _steps(root: Path) -> list[dict[str, Any]]:
    return [dict(row) for row in training_history.read(builders.location_of(root)) if row["kind"] == "step"]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("text", {"schedule": {"kind": "cosine", "warmup_steps": 5}, "optimizer": {"kind": "adamw"}}),
        ("text", {"sampling": "random", "optimizer": {"kind": "sgd", "momentum": 0.9}, "learning_rate": 0.5}),
        ("text", {"schedule": {"kind": "plateau"}, "validate_every_steps": 3, "accumulate": 2}),
        ("text", {"truncation": {"kind": "none"}, "epochs": 12}),
        ("text", {"truncation": {"kind": "variable"}, "window": 8, "optimizer": AVERAGED}),
        (
            "text",
            {"truncation": {"kind": "random", "cut_every": 2}, "temporal_activation_regularization": 1.0, "epochs": 2},
        ),
        ("text", {"truncation": {"kind": "sliding", "lookback": 7}, "epochs": 2}),
        ("text", RELOADING),
        ("feedforward", {"window": 3, "activation_regularization": 1.0}),
        ("pairs", {"target_window": 3, "scheduled_sampling": {"start": 0.1, "end": 0.6, "over_steps": 9}, "epochs": 2}),
        ("pairs", {"schedule": {"kind": "inverse_sqrt"}, "label_smoothing": 0.1}),
    ],
)
def test_a_run_stopped_at_any_step_ends_with_the_same_bits(
    tmp_path: Path, text: location.Location, pairs: location.Location, kind: str, settings: dict[str, Any]
) -> None:
    """Stops twice in an epoch, in a later one, right after a start, and where epochs meet."""
    models: dict[str, model_settings.NetworkConfig] = {
        "text": builders.TEXT,
        "feedforward": builders.FEEDFORWARD,
        "pairs": builders.PAIRS,
    }
    wet = {name: rate for name, rate in WET.items() if kind != "feedforward" or name.endswith("_dropout")}
    model = models[kind].model_copy(update=wet)
    job = builders.job(tmp_path / "whole", pairs if kind == "pairs" else text, model, **{"epochs": 3, **settings})
    builders.train(job)
    stopped = dataclasses.replace(job, root=builders.location_of(tmp_path / "stopped"))
    interrupted = [builders.train(stopped, stop_after).is_interrupted for stop_after in (2, 2, 1, 1, 1, 3)]
    assert all(interrupted)
    assert not builders.train(stopped).is_interrupted
    assert builders.digest(tmp_path / "stopped") == builders.digest(tmp_path / "whole")
    names = ("step", "epoch", "fraction", "loss_nats", "learning_rate", "gradient_norm", "num_tokens")
    whole, again = ([[row[name] for name in names] for row in _steps(tmp_path / root)] for root in ("whole", "stopped"))
    assert [row[0] for row in again] == [row[0] for row in whole]
    for one_row, other_row in zip(again, whole, strict=True):
        assert one_row == pytest.approx(other_row, rel=1e-6)


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


def test_the_seconds_of_a_run_are_those_of_all_its_starts(tmp_path: Path, text: location.Location) -> None:
    job = builders.job(tmp_path, text, epochs=2)
    first = builders.train(job, stop_after=2)
    assert first.elapsed_s == pytest.approx(first.last_start_s, abs=0.01)
    saved = [first]
    for stop_after in (1, None):
        newest = checkpoint.find_newest(builders.location_of(tmp_path)).ref
        assert newest is not None
        before_s = checkpoint.load_state(newest)[0].elapsed_s
        assert 0 < before_s <= saved[-1].elapsed_s
        summary = builders.train(job, stop_after)
        assert summary.elapsed_s == pytest.approx(before_s + summary.last_start_s, abs=0.01)
        assert summary.num_tokens > saved[-1].num_tokens
        saved.append(summary)
    assert saved[-1].to_json()["untimed_steps"] == 0


def test_a_crash_loses_only_what_came_after_the_last_checkpoint(tmp_path: Path, text: location.Location) -> None:
    """The run log has each step once, and the run ends with the same bits."""
    settings: dict[str, Any] = {"checkpoint_every_steps": 4, "log_every_steps": 1}
    builders.train(builders.job(tmp_path / "whole", text, **settings))

    class Crash(builders.Watch):
        def should_stop(self) -> bool:
            if super().should_stop():
                raise KeyboardInterrupt
            return False

    crashing = builders.job(tmp_path / "crashing", text, **settings)
    for after in (7, 9):
        with pytest.raises(KeyboardInterrupt):
            trainer.train(crashing, collective.SingleProcess(), metrics.NullMetrics(), Crash(after))
    summary = builders.train(crashing)
    assert summary.fencing_number == 3
    assert builders.digest(tmp_path / "crashing") == builders.digest(tmp_path / "whole")
    assert [row["step"] for row in _steps(tmp_path / "crashing")] == list(range(1, summary.step + 1))


@pytest.mark.parametrize("lost", ["nothing", "weights", "optimizer", "hidden", "position", "schedule", "history"])
def test_a_resume_without_any_part_of_the_state_ends_with_other_bits(
    tmp_path: Path, text: location.Location, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the tests of resume above would notice each of them."""
    usual: dict[str, Any] = {"schedule": {"kind": "inverse_sqrt", "warmup_steps": 2}}
    falling: dict[str, Any] = {"schedule": {"kind": "plateau", "patience": 0}, "validate_every_steps": 1}
    settings = {**falling, "learning_rate": 3.0} if lost == "history" else usual
    job = builders.job(tmp_path / "whole", text, **settings)
    builders.train(job)
    other = dataclasses.replace(job, root=builders.location_of(tmp_path / "lossy"))
    builders.train(other, stop_after=5)
    load, claim = checkpoint.load, resume.claim

    def lossy_load(ref: checkpoint.CheckpointRef) -> checkpoint.Restored:
        restored = load(ref)
        if lost == "optimizer":
            return restored._replace(optimizer={})
        return restored._replace(hidden=None) if lost == "hidden" else restored

    def lossy_claim(*arguments: Any) -> resume.Claim:
        claimed = claim(*arguments)
        parts: dict[str, dict[str, Any]] = {
            "position": {"corpora": [dataclasses.replace(corpus, consumed=0) for corpus in claimed.state.corpora]},
            "schedule": {"step": 0},
            "history": {"history": []},
        }
        return claimed._replace(state=dataclasses.replace(claimed.state, **parts.get(lost, {})))

    monkeypatch.setattr(checkpoint, "load", lossy_load)
    monkeypatch.setattr(resume, "claim", lossy_claim)
    if lost == "weights":
        monkeypatch.setattr(resume, "_load_weights", lambda *_: None)
    builders.train(other)
    assert (builders.digest(tmp_path / "lossy") == builders.digest(tmp_path / "whole")) == (lost == "nothing")


def test_training_reduces_the_loss_and_reports_it(tmp_path: Path, text: location.Location) -> None:
    recorded, watch = metrics.InMemoryMetrics(), builders.Watch()
    job = builders.job(tmp_path, text, epochs=12, learning_rate=0.03, log_every_steps=4)
    summary = trainer.train(job, collective.SingleProcess(), recorded, watch)
    rows = _steps(tmp_path)
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
    rows = _steps(tmp_path)
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
