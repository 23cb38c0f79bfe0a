"""Entries of `train` in the run state, also of runs that fail."""

import pathlib
import shutil
from typing import Any

import pytest

from core import errors
from core.storage import location
from jobs import prepare, run_state, train
from tests import reporters
from tests.jobs import conftest
from workers.cluster import session as sessions
from workers.train import launch


def test_damage_is_in_the_run_state_although_the_run_then_fails(
    runs: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(runs / "translation", tmp_path / "translation")
    config = conftest.configured(conftest.TRANSLATION, tmp_path, "training.epochs=2")
    newest = max((tmp_path / "translation" / "checkpoints").iterdir())
    weights = newest / "bundle" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])

    def fail(*_: Any) -> None:
        raise errors.ClusterError("train: rank 1: died too often")

    monkeypatch.setattr(launch, "run_training", fail)
    with sessions.Session(config.cluster) as session, pytest.raises(errors.ClusterError):
        train.run(config, session, reporters.SilentReporter())
    noted = run_state.read(location.Location.parse(config.root))
    assert noted["exit_code"] == 8
    assert [fault.partition(": ")[0] for fault in noted["faults"]] == [str(weights)]


def test_validation_bleu_that_can_only_be_0_is_warned_about_before_training(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [f"the cat sees {number}\t猫看见{number}个苹果和房子" for number in range(40)]
    (tmp_path / "pairs.tsv").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    settings = ("tokenizer.kind=char", "training.max_steps=1", "training.validation.bleu_lines=4")
    config = conftest.configured(conftest.TRANSLATION, tmp_path, *settings)
    with sessions.Session(config.cluster) as session:
        prepare.run(config, session, reporters.SilentReporter())
        caplog.clear()
        report = train.run(config, session, reporters.SilentReporter())
    (warning,) = report["warnings"]
    assert warning.startswith("evaluation.tokenize: 13a splits words at spaces, which this Chinese text does not have")
    assert warning in [record.getMessage() for record in caplog.records]
    fits = (settings[0], "training.epochs=2", settings[2], "evaluation.tokenize=zh")
    other = conftest.configured(conftest.TRANSLATION, tmp_path, *fits)
    with sessions.Session(other.cluster) as session:
        assert "warnings" not in train.run(other, session, reporters.SilentReporter())
