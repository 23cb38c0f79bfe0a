"""Tests of series: reading, splitting, storing and making examples."""

import pathlib

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from core import errors
from core.config import corpus_settings
from core.data import series
from core.data.builtin import sine
from core.storage import location


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


def test_make_examples_by_hand() -> None:
    x, y = np.array([[1.0], [2], [3], [4], [5]]), np.array([[10.0], [20], [30], [40], [50]])
    examples = series.make_examples(x, y, lags=2, horizon=2, padding="drop")
    assert examples.features_NLI[:, :, 0].tolist() == [[1, 2], [2, 3]]
    assert examples.labels_NKO[:, :, 0].tolist() == [[30, 40], [40, 50]]
    examples = series.make_examples(x, y, lags=2, horizon=1, padding="zeros")
    assert examples.features_NLI[:, :, 0].tolist() == [[0, 0], [0, 1], [1, 2], [2, 3], [3, 4]]
    assert examples.labels_NKO[:, 0, 0].tolist() == [10, 20, 30, 40, 50]


@pytest.mark.parametrize("padding", ["drop", "zeros"])
def test_a_series_that_is_too_short_gives_no_example(padding: str) -> None:
    examples = series.make_examples(np.ones((3, 2)), np.ones((3, 1)), 4, 5, padding)  # type: ignore[arg-type]
    assert examples.features_NLI.shape == (0, 4, 2)
    assert examples.labels_NKO.shape == (0, 5, 1)


def test_a_dataset_contains_the_series_split_at_its_tail(table: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = _local(tmp_path / "dataset")
    corpus = _corpus(table, split=corpus_settings.SplitConfig(valid=0.2, test=0.3))
    dataset, already_done = series.prepare(corpus, {"corpus": {"padding": "drop"}}, folder)
    assert not already_done
    assert {name: values.tolist() for name, values in dataset.splits.items()} == {
        "train": [[t / 2, 10 * t] for t in range(5)],
        "valid": [[t / 2, 10 * t] for t in (5, 6)],
        "test": [[t / 2, 10 * t] for t in (7, 8, 9)],
    }
    assert dataset.examples("train", 3, 1).labels_NKO.ravel().tolist() == [30, 40]
    again, already_done = series.prepare(corpus, {"corpus": {"padding": "drop"}}, folder)
    assert already_done
    assert again.fingerprint == dataset.fingerprint
    table.write_text(table.read_text().replace("90,", "91,"))
    with pytest.raises(errors.LockedError, match="is not the series"):
        series.prepare(corpus, {"corpus": {"padding": "drop"}}, folder)


def test_a_damaged_file_is_an_error(table: pathlib.Path, tmp_path: pathlib.Path) -> None:
    series.prepare(_corpus(table), {"corpus": {"padding": "drop"}}, _local(tmp_path / "dataset"))
    (file,) = (tmp_path / "dataset" / "train").iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(errors.IntegrityError, match="damaged"):
        series.open_dataset(_local(tmp_path / "dataset"))


def test_parquet_and_csv_give_the_same_values(table: pathlib.Path, tmp_path: pathlib.Path) -> None:
    columns = {"x": [t / 2 for t in range(10)], "y": [10 * t for t in range(10)]}
    parquet.write_table(pa.table(columns), tmp_path / "table.parquet")
    names = ["x", "y"]
    from_parquet = series.read([_local(tmp_path / "table.parquet")], names, "here")
    np.testing.assert_array_equal(from_parquet, series.read([_local(table)], names, "here"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("t,x\n1,2\n", "no column 'y'; it has t, x"),
        ("x,y\n1,a\n2,3\n", "is string, not numeric"),
        ("x,y\n1,2\n3,\n", "no number in row 2"),
        ("x,y\n1,2\n3\n", "not valid CSV"),
    ],
)
def test_files_without_numeric_columns_are_rejected(tmp_path: pathlib.Path, text: str, message: str) -> None:
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(errors.DataError, match=message):
        series.read([_local(tmp_path / "bad.csv")], ["x", "y"], "here")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cleaning": ("lower",)}, "cleaning: has no effect"),
        ({"targets": ()}, "inputs, targets"),
        ({"train": corpus_settings.SourceConfig(text=("a",))}, "a corpus of kind series needs csv files"),
        ({"kind": "text", "inputs": (), "targets": ()}, "csv files are for corpora of kind series"),
        ({"kind": "text", "targets": ()}, "inputs: has no effect"),
    ],
)
def test_settings_of_text_and_of_series_cannot_be_mixed(
    table: pathlib.Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _corpus(table, **settings)


def test_the_noisy_sine_is_that_of_d2l(tmp_path: pathlib.Path) -> None:
    sine.write(tmp_path / "data" / "sine.csv")
    values = series.read([_local(tmp_path / "data" / "sine.csv")], ["t", "x"], "here")
    assert values[[0, -1], 0].tolist() == [1, 1000]
    noise = values[:, 1] - np.sin(0.01 * values[:, 0])
    assert abs(noise.mean()) < 0.02
    assert noise.std() == pytest.approx(0.2, rel=0.1)
