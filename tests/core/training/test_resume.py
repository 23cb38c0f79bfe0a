"""Resumed runs on one rank: the bits of an uninterrupted run, its seconds, and what a crash loses."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from core.config import model_settings
from core.storage import location
from core.telemetry import metrics
from core.training import checkpoint, collective, resume, trainer
from tests.core.training import builders

WET = {"dropout": 0.3, "embedding_dropout": 0.2, "output_dropout": 0.3, "num_layers": 2}
AVERAGED = {"kind": "asgd", "non_monotone_interval": None}
# The third validation, at step 6, is worse than the second: a stop comes right between the decay and the reload.
RELOADING: dict[str, Any] = {
    "schedule": {"kind": "plateau", "patience": 0, "decay_factor": 0.5, "reload_best": True},
    "learning_rate": 1.0,
    "validate_every_steps": 2,
    "epochs": 1,
}


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
    whole, again = (
        [[row[name] for name in names] for row in builders.steps(tmp_path / root)] for root in ("whole", "stopped")
    )
    assert [row[0] for row in again] == [row[0] for row in whole]
    for one_row, other_row in zip(again, whole, strict=True):
        assert one_row == pytest.approx(other_row, rel=1e-6)


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
    assert [row["step"] for row in builders.steps(tmp_path / "crashing")] == list(range(1, summary.step + 1))


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
