"""Entries of `train` in the run state, also of runs that fail."""

import pathlib
import shutil
from typing import Any

import pytest

from core import errors
from core.storage import location
from jobs import run_state, train
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
