"""Forecasts of a noisy sine by the commands prepare, train and forecast.

Source: Zhang et al., Dive into Deep Learning (2021), section 8.1 "Sequence Models".
"""

import json
import pathlib
from typing import Any

import pytest
from pyarrow import parquet

from core import errors
from core.config import loading, schema
from core.data.builtin import sine
from core.storage import location
from jobs import forecast, generate, inspect, paths, pipeline, prepare, score, train
from tests import reporters
from tests.jobs import trained

CONFIG = pathlib.Path(__file__).resolve().parents[2] / "jobs" / "configs" / "sine.yaml"


def _config(folder: pathlib.Path, *overrides: str) -> schema.RunConfig:
    overrides_of_paths = [f"root={folder}/run", f"corpus.train.csv=[{folder}/sine.csv]", "cluster.address=none"]
    return paths.absolute(loading.load(str(CONFIG), [*overrides_of_paths, *overrides]))


def _train(folder: pathlib.Path, *overrides: str) -> tuple[schema.RunConfig, dict[str, Any]]:
    if not (folder / "sine.csv").exists():
        sine.write(folder / "sine.csv")
    config = _config(folder, *overrides)
    with trained.session() as session:
        prepare.run(config, session, reporters.SilentReporter())
        made = train.run(config, session, reporters.SilentReporter())
        assert train.run(config, session, reporters.SilentReporter())["already_done"]
    return config, made


def _forecast(config: schema.RunConfig, folder: pathlib.Path, output: str, **given: Any) -> dict[str, Any]:
    root = location.Location.parse(config.root)
    return forecast.run(
        root,
        str(folder / "sine.csv"),
        str(folder / output),
        config.forecasting,
        config.cluster,
        reporters.SilentReporter(),
        **given,
    )


def test_the_sine_is_learned_with_the_loss_that_the_book_prints(tmp_path: pathlib.Path) -> None:
    config, made = _train(tmp_path)
    assert made["examples"] == 600
    assert made["train_mse"][-1] <= 0.055
    report = _forecast(config, tmp_path, "forecasts.parquet")
    errors_by_horizon = [error["mse"] for error in report["errors"]]
    assert errors_by_horizon == sorted(errors_by_horizon)
    assert errors_by_horizon[-1] > 3 * errors_by_horizon[0]
    assert len(report["next"]["x"]) == 64
    pictures = (tmp_path / "forecasts.parquet.html").read_text()
    assert pictures.count("<svg") == 4
    assert "x, 64 steps ahead" in pictures
    table = parquet.read_table(tmp_path / "forecasts.parquet")
    assert table.slice(0, 1).to_pylist()[0]["line"] == 4  # the fifth value, from the four before it
    assert table.num_rows == 4 * 997
    assert _forecast(config, tmp_path, "forecasts.parquet")["errors"] == report["errors"]


@pytest.mark.parametrize("by", ["outputs", "models"])
def test_direct_forecasts_by_recurrent_networks(tmp_path: pathlib.Path, by: str) -> None:
    overrides = ["model.horizon=4", f"model.horizon_by={by}", "model.network=gru"]
    overrides += ["forecasting.method=direct", "forecasting.horizons=[1, 4]"]
    config, made = _train(tmp_path, *overrides)
    assert made["examples"] == 597
    report = _forecast(config, tmp_path, "forecasts.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "forecasts.jsonl").read_text().splitlines()]
    assert {row["method"] for row in rows} == {"direct"}
    assert sum(row["actual"] is None for row in rows) == 1 + 4
    assert [error["horizon"] for error in report["errors"]] == [1, 4]


def test_equal_seeds_make_equal_models(tmp_path: pathlib.Path) -> None:
    fingerprints = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        config, _ = _train(tmp_path / name, "training.epochs=1")
        inspected = inspect.run(location.Location.parse(config.root), reporters.SilentReporter())
        fingerprints += [checkpoint["fingerprint"] for checkpoint in inspected["checkpoints"].values()]
        assert inspected["dataset"]["of"] == "series"
    assert fingerprints[0] == fingerprints[1]


def test_padding_with_zeros_gives_an_example_for_every_value(tmp_path: pathlib.Path) -> None:
    _, made = _train(tmp_path, "corpus.padding=zeros", "training.epochs=1")
    assert made["examples"] == 604


def test_the_validation_loss_of_each_epoch_is_reported(tmp_path: pathlib.Path) -> None:
    _, made = _train(tmp_path, "corpus.split={valid: 0.1, test: 0.2}", "training.epochs=2")
    assert len(made["valid_mse"]) == 2


def test_commands_and_settings_for_text_are_refused_for_series(tmp_path: pathlib.Path) -> None:
    config, _ = _train(tmp_path, "training.epochs=1")
    root = location.Location.parse(config.root)
    with pytest.raises(errors.UsageError, match="use forecast"):
        generate.run(root, "a", config.generation, config.compute, config.cluster)
    with trained.session() as session:
        with pytest.raises(errors.UsageError, match="use forecast"):
            score.run(
                score.Request(
                    root,
                    str(tmp_path / "sine.csv"),
                    str(tmp_path / "s.txt"),
                    config.scoring,
                    config.compute,
                    config.cluster,
                ),
                session,
                reporters.SilentReporter(),
            )
        with pytest.raises(errors.UsageError, match="run prepare, train and forecast"):
            pipeline.run(config, session, reporters.SilentReporter())
    with pytest.raises(errors.UsageError, match="cannot be trained on a corpus of kind series; use kind text"):
        _config(tmp_path, "model={kind: ngram}")
    for setting in ("window=7", "optimizer=asgd", "label_smoothing=0.1"):
        with pytest.raises(errors.UsageError, match="has no effect for a corpus of series"):
            _config(tmp_path, f"training.{setting}")


def test_an_output_of_other_settings_is_replaced_only_with_overwrite(tmp_path: pathlib.Path) -> None:
    config, _ = _train(tmp_path, "training.epochs=1")
    _forecast(config, tmp_path, "f.txt")
    assert len((tmp_path / "f.txt").read_text().splitlines()) == 4 * 997
    nearer = config.forecasting.model_copy(update={"horizons": (2,)})
    other = config.model_copy(update={"forecasting": nearer})
    with pytest.raises(errors.LockedError, match="horizons"):
        _forecast(other, tmp_path, "f.txt")
    assert _forecast(other, tmp_path, "f.txt", overwrite=True)["errors"][0]["horizon"] == 2
