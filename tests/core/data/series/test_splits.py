"""Laws of the splits of a series: each row is that of the dataset which it is in, or new."""

import itertools
import pathlib

import numpy as np
import pytest

from core.config import corpus_settings
from core.data.series import dataset as datasets
from core.data.series import splits
from core.storage import location
from tests.core.data.series import samples


def _write(path: pathlib.Path, rows: range, times: bool = True) -> pathlib.Path:
    """Writes values without a pattern; row t has the value of t in every file."""
    values = np.random.default_rng(7).integers(0, 3, 1000).tolist()
    header, lines = ("t,x", [f"{t},{values[t]}" for t in rows]) if times else ("x", [str(values[t]) for t in rows])
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def _dataset(tmp_path: pathlib.Path, time: str | None, **settings: object) -> datasets.Dataset:
    content = {"kind": "series", "inputs": ("x",), "targets": ("x",), "time": time, **settings}
    corpus = corpus_settings.CorpusConfig(**content)  # type: ignore[arg-type]
    folder = location.Location.parse(str(tmp_path / "dataset"))
    return datasets.prepare(corpus, {"corpus": {"padding": "drop"}}, folder)[0]


def _runs(labels_T: splits.Labels) -> list[tuple[str, int]]:
    return [(str(name), len(list(members))) for name, members in itertools.groupby(labels_T)]


@pytest.mark.parametrize("time", ["t", None])
@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (range(100, 200), [("train", 70), ("valid", 10), ("test", 20)]),
        (range(100, 230), [("train", 70), ("valid", 10), ("test", 20), ("new", 30)]),
        (range(60, 130), [("new", 40), ("train", 30)]),
        (range(150, 190), [("train", 20), ("valid", 10), ("test", 10)]),
        (range(185, 240), [("test", 15), ("new", 40)]),
        (range(300, 350), [("new", 50)]),
    ],
)
def test_rows_are_found_in_the_splits_of_one_source(
    tmp_path: pathlib.Path, time: str | None, rows: range, expected: list[tuple[str, int]]
) -> None:
    train = _write(tmp_path / "train.csv", range(100, 200))
    split = corpus_settings.SplitConfig(valid=0.1, test=0.2)
    dataset = _dataset(tmp_path, time, train={"csv": (str(train),)}, split=split)
    table = samples.read(_write(tmp_path / "input.csv", rows), time=time)
    assert _runs(splits.label(table, dataset)) == expected


def test_another_series_with_the_same_times_is_new_and_a_corrected_one_is_not(tmp_path: pathlib.Path) -> None:
    train = _write(tmp_path / "train.csv", range(100))
    dataset = _dataset(tmp_path, "t", train={"csv": (str(train),)}, split=corpus_settings.SplitConfig(test=0.3))
    lines = train.read_text().splitlines()
    corrected = [f"{line.split(',')[0]},7" if number % 4 == 1 else line for number, line in enumerate(lines)]
    (tmp_path / "corrected.csv").write_text("\n".join(corrected))
    other = [lines[0], *(f"{t},{t % 5 + 10}" for t in range(100))]
    (tmp_path / "other.csv").write_text("\n".join(other))
    labels_T = splits.label(samples.read(tmp_path / "corrected.csv", time="t"), dataset)
    assert _runs(labels_T) == [("train", 70), ("test", 30)]
    assert _runs(splits.label(samples.read(tmp_path / "other.csv", time="t"), dataset)) == [("new", 100)]


@pytest.mark.parametrize("time", ["t", None])
def test_splits_with_a_source_of_their_own_are_found_alone(tmp_path: pathlib.Path, time: str | None) -> None:
    train, test = _write(tmp_path / "train.csv", range(100)), _write(tmp_path / "test.csv", range(300, 350))
    dataset = _dataset(tmp_path, time, train={"csv": (str(train),)}, test={"csv": (str(test),)})
    assert _runs(splits.label(samples.read(test, time=time), dataset)) == [("test", 50)]
    assert _runs(splits.label(samples.read(train, time=time), dataset)) == [("train", 100)]


def test_rows_of_several_splits_count_as_training_rows(tmp_path: pathlib.Path) -> None:
    train = _write(tmp_path / "train.csv", range(100))
    dataset = _dataset(tmp_path, None, train={"csv": (str(train),)}, test={"csv": (str(train),)})
    assert _runs(splits.label(samples.read(train), dataset)) == [("train", 100)]


def test_a_constant_series_is_found_at_once(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "constant.csv"
    path.write_text("x\n" + "1\n" * 20_000)
    dataset = _dataset(tmp_path, None, train={"csv": (str(path),)}, split=corpus_settings.SplitConfig(test=0.25))
    assert _runs(splits.label(samples.read(path), dataset)) == [("train", 15_000), ("test", 5_000)]
