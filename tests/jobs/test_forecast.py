"""Forecasts of a noisy sine by the commands prepare, train and forecast.

Source: Zhang et al., Dive into Deep Learning (2021), section 8.1 "Sequence Models".
"""

import datetime
import json
import math
import os
import pathlib
import shutil
import signal
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from core import errors
from core.config import loading, schema, series_settings
from core.data.builtin import sine
from core.data.series import reading
from core.storage import location
from jobs import forecast, generate, inspect, paths, pipeline, prepare, score, train
from tests import reporters
from tests.jobs import datasets, trained

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


def _write(path: pathlib.Path, values: Sequence[float], first: str = "2024-01-01", step: int = 1) -> pathlib.Path:
    """Writes a daily series; with step -1 the newest row comes first."""
    start = datetime.date.fromisoformat(first)
    rows = [f"{start + datetime.timedelta(days=day)},{value!r}\n" for day, value in enumerate(values)]
    path.write_text("".join(["date,x\n", *rows[::step]]))
    return path


def _weekly(level: float, count: int = 210) -> list[float]:
    noise = np.random.default_rng(3).normal(0, 1, count)
    return [level + 10 * math.sin(2 * math.pi * day / 7) + float(noise[day]) for day in range(count)]


def _dated(folder: pathlib.Path, values: Sequence[float], *overrides: str) -> schema.RunConfig:
    """Returns the configuration of a series with dates, of which the last fifth is for testing."""
    _write(folder / "sine.csv", values)
    return _config(folder, "corpus.time=date", "corpus.split={test: 0.2}", "forecasting.horizons=[1, 3]", *overrides)


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
    assert "sine: forecasts" in pictures
    assert report["headline"]["split"] == "test"
    assert [row["count"] for row in report["headline"]["errors"]] == [396] * 4
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
    with trained.session() as session, pytest.raises(errors.UsageError, match="use forecast"):
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


def test_a_pipeline_takes_a_series_to_its_pages(tmp_path: pathlib.Path) -> None:
    config = _dated(tmp_path, _weekly(500), "corpus.split={valid: 0.1, test: 0.2}", "training.epochs=2")
    with trained.session() as session:
        made = pipeline.run(config, session, reporters.SilentReporter())
        again = pipeline.run(config, session, reporters.SilentReporter())
    assert made["held_out"] == "test"
    assert list(made["stages"]) == ["prepare", "train", "forecast", "report"]
    forecasts = made["stages"]["forecast"]
    assert {name: rows[0]["count"] for name, rows in forecasts["errors_by_split"].items()} == {
        "train": 147 - 4,
        "valid": 21,
        "test": 42,
    }
    assert again["stages"]["forecast"]["headline"] == forecasts["headline"]
    assert forecasts["headline"]["errors"][0]["period"] == 7
    assert forecasts["next_times"] == ["2024-07-29", "2024-07-30", "2024-07-31"]
    root = pathlib.Path(config.root.removeprefix("file://"))
    row = json.loads((root / "outputs" / "forecasts.jsonl").read_text().splitlines()[0])
    assert (row["line"], row["time"], row["split"]) == (4, "2024-01-05", "train")
    assert "RMSE of x, 1 step ahead, test rows" in (root / "report.html").read_text()
    assert "2024-01-01 to 2024-07-28, 1 day apart" in (root / "outputs" / "forecasts.jsonl.html").read_text()


def test_errors_on_test_rows_are_apart_from_those_on_training_rows(tmp_path: pathlib.Path) -> None:
    """The test rows are ten times as noisy: over all rows the error would look much smaller than it is on new ones."""
    values = [*_weekly(0)[:160], *(10 * value for value in _weekly(0)[160:200])]
    config = _dated(tmp_path, values)
    _train_dated(config)
    made = _forecast(config, tmp_path, "f.jsonl")
    test, train = made["errors_by_split"]["test"][0], made["errors_by_split"]["train"][0]
    assert made["headline"] == {"split": "test", "errors": made["errors_by_split"]["test"]}
    assert test["mse"] > 10 * train["mse"]
    assert test["count"] + train["count"] == made["errors"][0]["count"]
    together = test["count"] * test["mse"] + train["count"] * train["mse"]
    assert together == pytest.approx(made["errors"][0]["count"] * made["errors"][0]["mse"])
    for horizon, row in zip((1, 3), made["headline"]["errors"], strict=True):
        naive = [values[t] - values[t - horizon] for t in range(160, 200)]
        assert row["persistence_mse"] == pytest.approx(np.mean(np.square(naive)))
    denominator = np.mean([abs(values[t] - values[t - 7]) for t in range(7, 160)])
    assert test["mase"] == pytest.approx(test["mae"] / denominator)


def test_rows_after_the_dataset_are_new_and_those_of_a_copied_checkpoint_unknown(tmp_path: pathlib.Path) -> None:
    values = _weekly(0)
    config = _dated(tmp_path, values[:150], "corpus.split={test: 0}")
    _train_dated(config)
    _write(tmp_path / "sine.csv", values)
    made = _forecast(config, tmp_path, "f.jsonl")
    assert made["headline"]["split"] == "new"
    assert made["headline"]["errors"][0]["count"] == 60
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    shutil.copytree(checkpoint, tmp_path / "copied" / "checkpoint")
    copied = config.model_copy(update={"root": str(tmp_path / "copied" / "checkpoint")})
    unknown = _forecast(copied, tmp_path, "g.jsonl")
    assert unknown["headline"] == {"split": None, "errors": []}
    assert unknown["next"] == made["next"]


@pytest.mark.parametrize("network", ["lstm", "mlp", "linear"])
def test_the_level_of_a_series_does_not_matter(tmp_path: pathlib.Path, network: str) -> None:
    """Without scaling, a recurrent network on values around 500 forecasts a third of them for ever."""
    rmse = {}
    for level in (0, 500, -1e7):
        (folder := tmp_path / str(level)).mkdir()
        config = _dated(folder, _weekly(level), f"model.network={network}", "training.epochs=8")
        made = _train_dated(config)
        forecasts = _forecast(config, folder, "f.jsonl")
        rmse[level] = forecasts["headline"]["errors"][0]["rmse"]
        assert made["train_mse"][-1] == pytest.approx(forecasts["errors_by_split"]["train"][0]["mse"], rel=1e-3)
    assert rmse[0] < 4
    assert rmse[500] == pytest.approx(rmse[0], rel=1e-3)
    assert rmse[-1e7] == pytest.approx(rmse[0], rel=1e-3)


def test_scaling_none_trains_on_the_values_as_they_are(tmp_path: pathlib.Path) -> None:
    config = _dated(tmp_path, _weekly(500), "corpus.scaling=none", "model.network=lstm")
    _train_dated(config)
    assert _forecast(config, tmp_path, "f.jsonl")["headline"]["errors"][0]["rmse"] > 400
    model = next((tmp_path / "run" / "checkpoints").glob("*/bundle/model.json"))
    assert json.loads(model.read_text())["series"]["scaling"] == {}


def test_a_constant_series_is_forecast_as_it_is(tmp_path: pathlib.Path) -> None:
    config = _dated(tmp_path, [500.0] * 60, "training.epochs=20")
    _train_dated(config)
    made = _forecast(config, tmp_path, "f.jsonl")
    assert made["next"]["x"] == pytest.approx([500.0] * 3, abs=0.5)
    assert made["headline"]["errors"][0]["mase"] is None  # the naive forecast has no error


def test_the_newest_row_first_is_refused_by_prepare_and_forecast(tmp_path: pathlib.Path) -> None:
    values = _weekly(0, 60)
    config = _dated(tmp_path, values)
    _train_dated(config)
    _write(tmp_path / "sine.csv", values, step=-1)
    match = "row 2 below the header has the time 2024-02-28 after 2024-02-29; sort the rows"
    with pytest.raises(errors.DataError, match=match):
        _forecast(config, tmp_path, "f.jsonl")
    assert not (tmp_path / "f.jsonl.parts").exists()
    with pytest.raises(errors.DataError, match=match):
        prepare.run(config, datasets.Session(), reporters.SilentReporter())


def test_gaps_are_refused_or_filled_and_filled_values_have_no_error(tmp_path: pathlib.Path) -> None:
    path = _write(tmp_path / "sine.csv", _weekly(0, 100))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:84], *lines[90:]]))
    overrides = ("corpus.time=date", "corpus.split={test: 0.2}", "forecasting.horizons=[1]")
    with pytest.raises(errors.DataError, match="2024-03-30 after 2024-03-23: 6 rows are missing"):
        prepare.run(_config(tmp_path, *overrides), datasets.Session(), reporters.SilentReporter())
    config = _config(tmp_path, *overrides, "corpus.gaps=interpolate")
    made = _train_dated(config)
    assert made["examples"] == 80 - 4
    assert _forecast(config, tmp_path, "f.jsonl")["headline"]["errors"][0]["count"] == 20 - 6
    refused = config.model_copy(update={"forecasting": config.forecasting.model_copy(update={"gaps": "refuse"})})
    with pytest.raises(errors.DataError, match=r"6 rows are missing; add them, or set forecasting\.gaps"):
        _forecast(refused, tmp_path, "g.jsonl")


def test_a_series_with_another_step_or_dialect_is_refused_or_described(tmp_path: pathlib.Path) -> None:
    config = _dated(tmp_path, _weekly(0, 60), "training.epochs=1")
    _train_dated(config)
    german = "".join(f"2025-01-{day:02};{day},5\n" for day in range(1, 21))
    (tmp_path / "sine.csv").write_text(f"date;x\n{german}")
    with pytest.raises(errors.DataError, match=r"set forecasting\.csv\.delimiter"):
        _forecast(config, tmp_path, "f.jsonl")
    dialect = series_settings.CsvConfig(delimiter=";", decimal=",")
    described = config.model_copy(update={"forecasting": config.forecasting.model_copy(update={"csv": dialect})})
    assert _forecast(described, tmp_path, "f.jsonl")["next_times"][0] == "2025-01-21"
    hours = "".join(f"2025-01-01 {hour:02}:00,{hour}\n" for hour in range(20))
    (tmp_path / "sine.csv").write_text(f"date,x\n{hours}")
    with pytest.raises(errors.DataError, match=r"2025-01-01T01:00 after .*, which is not a multiple .* \(1 day\)"):
        _forecast(config, tmp_path, "g.jsonl")


def _train_dated(config: schema.RunConfig) -> dict[str, Any]:
    with trained.session() as session:
        prepare.run(config, session, reporters.SilentReporter())
        return train.run(config, session, reporters.SilentReporter())


def test_a_signal_ends_the_reading_of_a_series_at_once(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sine.write(tmp_path / "sine.csv")

    def endless(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)

    monkeypatch.setattr(reading, "read", endless)
    started_s = time.monotonic()
    with trained.session() as session, pytest.raises(errors.InterruptedRunError, match="stopped while it was read"):
        prepare.run(_config(tmp_path), session, reporters.SilentReporter())
    assert time.monotonic() - started_s < 2
    assert not (tmp_path / "run" / "dataset").exists()
