"""Tests of datasets of series: reading their sources, splitting, storing."""

import gzip
import pathlib

import numpy as np
import pytest

from core import errors
from core.config import corpus_settings
from core.data.builtin import sine
from core.data.series import dataset as datasets
from core.storage import location
from tests.core.data.series import samples

SETTINGS = {"corpus": {"padding": "drop", "scaling": None}}


def _corpus(path: pathlib.Path, **settings: object) -> corpus_settings.CorpusConfig:
    content = {"kind": "series", "train": {"csv": (str(path),)}, "inputs": ("x", "y"), "targets": ("y",)}
    return corpus_settings.CorpusConfig(**{**content, **settings})  # type: ignore[arg-type]


def _local(path: pathlib.Path) -> location.Location:
    return location.Location.parse(str(path))


@pytest.fixture
def table(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "table.csv"
    path.write_text("t,y,x\n" + "".join(f"{t},{10 * t},{t / 2}\n" for t in range(10)))
    return path


def test_a_dataset_contains_the_series_split_at_its_tail(table: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = _local(tmp_path / "dataset")
    corpus = _corpus(table, split=corpus_settings.SplitConfig(valid=0.2, test=0.3))
    dataset, already_done = datasets.prepare(corpus, SETTINGS, folder)
    assert not already_done
    assert {name: rows.values_TC.tolist() for name, rows in dataset.splits.items()} == {
        "train": [[t / 2, 10 * t] for t in range(5)],
        "valid": [[t / 2, 10 * t] for t in (5, 6)],
        "test": [[t / 2, 10 * t] for t in (7, 8, 9)],
    }
    assert dataset.examples("train", 3, 1).labels_NKO.ravel().tolist() == [30, 40]
    again, already_done = datasets.prepare(corpus, SETTINGS, folder)
    assert already_done
    assert again.fingerprint == dataset.fingerprint
    table.write_text(table.read_text().replace("90,", "91,"))
    with pytest.raises(errors.LockedError, match="is not the series"):
        datasets.prepare(corpus, SETTINGS, folder)


def test_times_and_filled_values_are_stored_with_each_split(table: pathlib.Path, tmp_path: pathlib.Path) -> None:
    table.write_text("day,x,y\n2026-02-26,0,0\n2026-02-27,,10\n2026-03-01,3,30\n2026-03-02,4,40\n2026-03-03,5,50\n")
    corpus = _corpus(table, time="day", gaps="interpolate", split=corpus_settings.SplitConfig(test=0.3))
    made, _ = datasets.prepare(corpus, SETTINGS, _local(tmp_path / "dataset"))
    opened = datasets.open_dataset(made.folder)
    assert opened.splits["train"].values_TC.tolist() == [[0, 0], [1, 10], [2, 20], [3, 30]]
    assert opened.splits["train"].is_filled_TC.tolist() == [[False, False], [True, False], [True, True], [False, False]]
    assert not opened.splits["test"].is_filled_TC.any()
    assert opened.described_splits() == {
        "train": {"rows": 4, "filled_values": 3, "first": "2026-02-26", "last": "2026-03-01", "step": "1 day"},
        "test": {"rows": 2, "first": "2026-03-02", "last": "2026-03-03", "step": "1 day"},
    }


def test_the_scaling_is_that_of_the_training_split_alone(table: pathlib.Path, tmp_path: pathlib.Path) -> None:
    corpus = _corpus(table, split=corpus_settings.SplitConfig(test=0.5))
    dataset, _ = datasets.prepare(corpus, SETTINGS, _local(tmp_path / "dataset"))
    scaled = dataset.preparation(corpus).scaling
    assert scaled.means == {"x": 1.0, "y": 20.0}
    assert scaled.deviations == pytest.approx({"x": 0.5**0.5, "y": 200**0.5})
    labels = dataset.examples("train", 3, 1, scaled).labels_NKO.ravel()
    np.testing.assert_allclose(labels, [10 / 200**0.5, 20 / 200**0.5])


def test_a_dataset_of_before_there_was_a_scaling_has_none(table: pathlib.Path, tmp_path: pathlib.Path) -> None:
    old, _ = datasets.prepare(_corpus(table), {"corpus": {"padding": "drop"}}, _local(tmp_path / "old"))
    assert old.preparation(_corpus(table)).scaling.means == {}
    none, _ = datasets.prepare(
        _corpus(table), {"corpus": {"padding": "drop", "scaling": "none"}}, _local(tmp_path / "none")
    )
    assert none.preparation(_corpus(table)).scaling.means == {}


def test_a_damaged_file_is_an_error(table: pathlib.Path, tmp_path: pathlib.Path) -> None:
    datasets.prepare(_corpus(table), SETTINGS, _local(tmp_path / "dataset"))
    (file,) = (tmp_path / "dataset" / "train").iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(errors.IntegrityError, match="damaged"):
        datasets.open_dataset(_local(tmp_path / "dataset"))


def test_sources_may_be_compressed_and_named_by_wildcards(table: pathlib.Path, tmp_path: pathlib.Path) -> None:
    lines = table.read_text().splitlines(keepends=True)
    for number, rows in enumerate((lines[1:5], lines[5:])):
        (tmp_path / f"part-{number}.csv.gz").write_bytes(gzip.compress("".join([lines[0], *rows]).encode()))
    whole, _ = datasets.prepare(_corpus(table), SETTINGS, _local(tmp_path / "whole"))
    parts, _ = datasets.prepare(_corpus(tmp_path / "part-*.csv.gz"), SETTINGS, _local(tmp_path / "parts"))
    assert parts.fingerprint == whole.fingerprint


def test_a_wrong_checksum_of_a_source_is_refused(table: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.DataError, match="its SHA-256 is"):
        datasets.prepare(_corpus(table, sha256={str(table): "0" * 64}), SETTINGS, _local(tmp_path / "dataset"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cleaning": ("lower",)}, "cleaning: has no effect"),
        ({"targets": ()}, "inputs, targets"),
        ({"train": corpus_settings.SourceConfig(text=("a",))}, "a corpus of kind series needs csv files"),
        ({"kind": "text", "inputs": (), "targets": ()}, "csv files are for corpora of kind series"),
        ({"kind": "text", "targets": ()}, "inputs: has no effect"),
        *(
            ({"kind": kind, "inputs": (), "targets": (), name: value}, f"{name}: has no effect")
            for kind in ("text", "pairs")
            for name, value in {
                "time": "t",
                "gaps": "forward",
                "scaling": "none",
                "csv": {"delimiter": ";"},
            }.items()
        ),
    ],
)
def test_settings_of_text_and_of_series_cannot_be_mixed(
    table: pathlib.Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _corpus(table, **settings)


def test_the_noisy_sine_is_that_of_d2l(tmp_path: pathlib.Path) -> None:
    sine.write(tmp_path / "data" / "sine.csv")
    values = samples.read(tmp_path / "data" / "sine.csv", names=("t", "x")).values_TC
    assert values[[0, -1], 0].tolist() == [1, 1000]
    noise = values[:, 1] - np.sin(0.01 * values[:, 0])
    assert abs(noise.mean()) < 0.02
    assert noise.std() == pytest.approx(0.2, rel=0.1)
