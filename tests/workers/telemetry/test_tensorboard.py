"""TensorBoard event files of a run log, read back by TensorBoard itself."""

import importlib.util
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from core import errors
from core.config import schema
from core.storage import location
from core.training import run_log
from workers.cluster import session as sessions
from workers.telemetry import tensorboard
from workers.train import launch, rank_process

ENABLED = schema.TelemetryConfig(tensorboard=True)


def step(number: int, loss: float) -> dict[str, object]:
    return {"kind": "step", "step": number, "loss_nats": loss, "gradient_norm": None, "learning_rate": 0.5}


def segment(root: location.Location, fencing_number: int, rows: list[dict[str, object]]) -> None:
    log = run_log.RunLog(root, fencing_number)
    for row in rows:
        log.add(row)
    log.flush(int(str(rows[-1]["step"])))


def read_back(root: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing import event_accumulator

    events = event_accumulator.EventAccumulator(str(root / "tensorboard"))
    events.Reload()
    curves = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    return {tag: curve for tag, curve in curves.items() if curve}


def test_a_step_repeated_after_a_resume_is_shown_once(tmp_path: Path) -> None:
    root = location.Location.parse(str(tmp_path))
    files = tensorboard.EventFiles(root, ENABLED)
    segment(root, 1, [step(10, 4.0), step(20, 3.0)])
    files.follow(at_once=True)
    segment(root, 1, [step(30, 2.5), {"kind": "validation", "step": 40, "nll_nats": 2.75, "bleu": 12.5}])
    segment(root, 10, [{"kind": "samples", "step": 30, "samples": []}, step(30, 2.25), step(40, 2.0)])
    files.follow(at_once=True)
    assert read_back(tmp_path) == {
        "train/loss_nats": [(10, 4.0), (20, 3.0), (30, 2.25), (40, 2.0)],
        "train/learning_rate": [(10, 0.5), (20, 0.5), (30, 0.5), (40, 0.5)],
    }


def test_validations_have_their_own_tags_and_written_files_are_not_rewritten(tmp_path: Path) -> None:
    root = location.Location.parse(str(tmp_path))
    segment(root, 1, [{"kind": "validation", "step": 8, "nll_nats": 2.0, "accuracy": 0.25, "perplexity": 8.0}])
    tensorboard.EventFiles(root, ENABLED).follow(at_once=True)
    before = {path: path.read_bytes() for path in tmp_path.glob("tensorboard/*")}
    tensorboard.EventFiles(root, ENABLED).follow(at_once=True)
    assert {path: path.read_bytes() for path in tmp_path.glob("tensorboard/*")} == before
    assert read_back(tmp_path) == {
        "validation/nll_nats": [(8, 2.0)],
        "validation/accuracy": [(8, 0.25)],
        "validation/perplexity": [(8, 8.0)],
    }


def test_nothing_is_written_unless_the_setting_is_true(tmp_path: Path) -> None:
    root = location.Location.parse(str(tmp_path))
    segment(root, 1, [step(10, 4.0)])
    tensorboard.EventFiles(root, schema.TelemetryConfig()).follow(at_once=True)
    assert not (tmp_path / "tensorboard").exists()


def test_event_files_that_cannot_be_written_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = location.Location.parse(str(tmp_path))
    segment(root, 1, [step(10, 4.0)])
    (tmp_path / "tensorboard").write_text("no folder")
    with caplog.at_level(logging.WARNING):
        tensorboard.EventFiles(root, ENABLED).follow(at_once=True)
    assert "telemetry.tensorboard" in caplog.text


def test_event_files_without_the_library_are_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    tensorboard.check_installed(ENABLED)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    tensorboard.check_installed(schema.TelemetryConfig())
    with pytest.raises(errors.UsageError, match=r"telemetry.tensorboard: TensorBoard is not installed; pip install"):
        tensorboard.check_installed(ENABLED)


def test_segments_are_found_under_the_name_that_training_writes(tmp_path: Path) -> None:
    root = location.Location.parse(str(tmp_path))
    segment(root, 3, [step(500, 4.0)])
    (path,) = (tmp_path / "metrics").iterdir()
    assert json.loads(path.read_text())["step"] == 500
    tensorboard.EventFiles(root, ENABLED).follow(at_once=True)
    assert [path.name for path in (tmp_path / "tensorboard").iterdir()] == [
        "events.out.tfevents.00000003-000000000000000500"
    ]


def test_event_files_are_complete_even_if_training_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job: Any = SimpleNamespace(root=location.Location.parse(str(tmp_path)))

    def run_rank(*_: object) -> None:
        segment(job.root, 1, [step(10, 4.0)])
        raise errors.DivergedError("training: diverged")

    monkeypatch.setattr(rank_process, "run_rank", run_rank)
    settings = schema.ClusterConfig(address="none", num_workers=1)
    with sessions.Session(settings, export=ENABLED) as session, pytest.raises(errors.DivergedError):
        launch.run_training(job, session, lambda now: None)
    assert read_back(tmp_path)["train/loss_nats"] == [(10, 4.0)]
