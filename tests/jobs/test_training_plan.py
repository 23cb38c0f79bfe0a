"""The plan of a training run: what it says is what is trained, and a dry run trains nothing."""

import pathlib
import shutil

import pytest

from core import errors
from core.models import bundle
from core.storage import location
from jobs import train, training_plan
from tests.jobs import conftest


def files(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_dry_run_says_what_is_trained_and_writes_nothing(
    runs: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs / "translation", tmp_path / "translation")
    config = conftest.configured(conftest.TRANSLATION, tmp_path, "training.epochs=3")
    before = files(tmp_path)
    report = train.dry_run(config)
    assert files(tmp_path) == before
    model = bundle.load(bundle.find_folder(location.Location.parse(config.root))).model
    assert report["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert list(report["parameters_by_part"]) == ["embedding", "encoder", "decoder", "output"]
    assert sum(report["parameters_by_part"].values()) == report["parameters"]
    # The one epoch of the run, of batches of 32 lines, is done.
    steps = -(-report["lines"] // 32)
    assert (report["batches_per_epoch"], report["steps"], report["step"]) == (steps, 3 * steps, steps)
    # Without Ray one rank trains, whatever cluster.num_workers is.
    assert (report["device"], report["workers"], report["precision"]) == ("cpu", 1, "fp32")
    said = capsys.readouterr().err
    # Other tests of this process may have set up the log, whose line on the changed setting comes first.
    assert "train: tiny-translation\n  model       seq2seq, gru 1×8, embedding 8, attention dot\n" in said
    assert f"{report['parameters']:,}: embedding" in said
    assert f"3 of {steps} batches; {3 * steps} steps, from step {steps}" in said


def test_a_dry_run_of_a_new_root_leaves_it_without_settings(runs: pathlib.Path, tmp_path: pathlib.Path) -> None:
    shutil.copytree(runs / "language" / "dataset", tmp_path / "language" / "dataset")
    config = conftest.configured(conftest.LANGUAGE, tmp_path)
    before = files(tmp_path)
    report = train.dry_run(config)
    assert (report["step"], report["dry_run"], report["model"]) == (0, True, "language_model")
    assert files(tmp_path) == before


def test_a_dry_run_refuses_what_training_refuses(runs: pathlib.Path, tmp_path: pathlib.Path) -> None:
    shutil.copytree(runs / "translation", tmp_path / "translation")
    with pytest.raises(errors.LockedError, match=r"model\.hidden_size: this root was started with 8"):
        train.dry_run(conftest.configured(conftest.TRANSLATION, tmp_path, "model.hidden_size=9"))
    with pytest.raises(errors.LockedError, match="--fresh, but this root holds a checkpoint"):
        train.dry_run(conftest.configured(conftest.TRANSLATION, tmp_path), fresh=True)


def test_the_expected_end_is_said_once_after_a_few_steps() -> None:
    now_s, said = 100.0, list[str]()
    end = training_plan.ExpectedEnd(110, False, said.append, lambda: now_s)
    for step in range(10, 14):
        end.update(step)  # fewer than five steps after the first
        now_s += 2.0
    assert said == []
    for step in (20, 21):
        end.update(step)
    # 10 steps took 8 s, so the 90 that are left take 72 s.
    assert len(said) == 1
    assert said[0].endswith("in 1 min 12 s")
    assert "at the latest" not in said[0]


def test_the_expected_end_is_the_latest_where_training_may_stop_early() -> None:
    now_s, said = 0.0, list[str]()
    end = training_plan.ExpectedEnd(20, True, said.append, lambda: now_s)
    end.update(0)
    now_s = 10.0
    end.update(10)
    assert said[0].endswith(" at the latest, in 10 s")
