"""Numeric series: read from CSV or Parquet, kept as Arrow files, and cut into features and labels.

A dataset of series is a folder with one Arrow file for each split, a column of doubles for each name, and
`index.json`, written last. It is prepared in one process: a series is a matter of megabytes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv, parquet

from core import errors
from core.config import corpus_settings, loading
from core.storage import commit, location

FORMAT, VERSION, NAME = "raycurrent-series", 1, "index.json"
SPLITS = ("train", "valid", "test")

Array = npt.NDArray[np.float64]


class Examples(NamedTuple):
    """What a regressor learns from: N rows of the last L values of I inputs, and the next K values of O targets."""

    features_NLI: Array
    labels_NKO: Array


@dataclass(frozen=True)
class Dataset:
    """An opened dataset of series.

    Attributes:
        folder: where it is.
        inputs: names of the columns that go in.
        targets: names of the columns that are forecast.
        settings: those that decided the content.
        fingerprint: their hash, with that of the content.
        splits: by name the values (T, columns), columns in the order of `columns`.
        sources: by name the SHA-256 of the values read.
    """

    folder: location.Location
    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    settings: dict[str, Any]
    fingerprint: str
    splits: dict[str, Array]
    sources: dict[str, str]

    def examples(self, split: str, lags: int, horizon: int) -> Examples:
        """Cuts a split into features and labels; of one that there is not, none."""
        names = columns(self.inputs, self.targets)
        values_TC = self.splits.get(split, np.zeros((0, len(names))))
        padding = self.settings["corpus"]["padding"]
        inputs_TI = values_TC[:, [names.index(name) for name in self.inputs]]
        targets_TO = values_TC[:, [names.index(name) for name in self.targets]]
        return cut(inputs_TI, targets_TO, lags, horizon, padding)


def columns(inputs: Sequence[str], targets: Sequence[str]) -> list[str]:
    """Returns every name once, inputs first."""
    return list(dict.fromkeys([*inputs, *targets]))


def cut(inputs_TI: Array, targets_TO: Array, lags: int, horizon: int, padding: Literal["drop", "zeros"]) -> Examples:
    """Makes an example for each time that has enough before and after it.

    The features of time t are the values of t−L … t−1, its labels the targets of t … t+K−1. The first L times lack
    features: they are dropped, or zeros stand in for what was before the beginning.

    Source: document 000 section 8.1.2.
    """
    if padding == "zeros":
        inputs_TI = np.concatenate([np.zeros((lags, inputs_TI.shape[1])), inputs_TI])
    else:
        targets_TO = targets_TO[lags:]
    count = len(targets_TO) - horizon + 1
    if count < 1:
        empty = np.zeros((0, horizon, targets_TO.shape[1]))
        return Examples(np.zeros((0, lags, inputs_TI.shape[1])), empty)
    return Examples(windows(inputs_TI, lags)[:count], windows(targets_TO, horizon))


def windows(values_TC: Array, length: int) -> Array:
    """Returns every stretch of so many times, (T − length + 1, length, columns), as views."""
    return np.lib.stride_tricks.sliding_window_view(values_TC, length, axis=0).transpose(0, 2, 1)


def read(places: Sequence[location.Location], names: Sequence[str], where: str) -> Array:
    """Reads columns of CSV files with a header line, or of Parquet files (`.parquet`), rows in order of time.

    Raises:
        DataError: a column is missing, or a value is no number.
    """
    return np.concatenate([_read_one(place, names, where) for place in places])


def _read_one(place: location.Location, names: Sequence[str], where: str) -> Array:
    try:
        with place.open() as file:
            table = parquet.read_table(file) if place.name.endswith(".parquet") else csv.read_csv(file)
    except (pa.ArrowException, OSError) as error:
        raise errors.DataError(f"{where}: {place} is no valid CSV or Parquet ({error}); check the file") from error
    found = []
    for name in names:
        if name not in table.column_names:
            raise errors.DataError(f"{where}: {place} has no column {name!r}; it has {', '.join(table.column_names)}")
        column = table[name]
        if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
            raise errors.DataError(f"{where}: column {name!r} of {place} holds {column.type}, not numbers; correct it")
        values = column.cast(pa.float64(), safe=False).to_numpy()
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise errors.DataError(
                f"{where}: column {name!r} of {place} has no number in row {bad[0] + 1} below the header; fill it in"
            )
        found.append(values)
    return np.stack(found, axis=1)


def prepare(
    corpus: corpus_settings.CorpusConfig, settings: dict[str, Any], folder: location.Location
) -> tuple[Dataset, bool]:
    """Makes a dataset, or finds it made of the same series.

    Returns:
        The dataset, and whether it was there already.

    Raises:
        DataError: a source is missing or has no rows.
        LockedError: the folder holds a dataset of other settings or another series.
    """
    names = columns(corpus.inputs, corpus.targets)
    read_ = {
        split: read([location.Location.parse(text, f"corpus.{split}") for text in source.csv], names, f"corpus.{split}")
        for split in SPLITS
        if (source := getattr(corpus, split)) is not None
    }
    sources = {split: hashlib.sha256(values.tobytes()).hexdigest() for split, values in read_.items()}
    store = commit.PartStore(folder, {"settings": settings})
    if store.manifest(NAME) is not None:
        made = open_dataset(folder)
        if made.sources != sources:
            raise errors.LockedError(f"corpus: is not the series that {folder} was made of; use another root")
        return made, True
    splits = _split(read_, corpus.split)
    store.begin()
    files = {split: _write(folder, split, names, values_TC) for split, values_TC in splits.items()}
    content = {
        "format": FORMAT,
        "version": VERSION,
        "inputs": list(corpus.inputs),
        "targets": list(corpus.targets),
        "settings": settings,
        "fingerprint": loading.fingerprint({"settings": settings, "sources": sources}),
        "splits": {split: {**files[split].to_json(), "rows": len(splits[split])} for split in splits},
        "sources": sources,
    }
    store.finish(content, NAME)
    return open_dataset(folder), False


def is_series(folder: location.Location) -> bool:
    """Whether a folder holds a finished dataset of series."""
    place = folder.join(NAME)
    content = place.read_json() if place.exists() else None
    return isinstance(content, dict) and content.get("format") == FORMAT


def open_dataset(folder: location.Location) -> Dataset:
    """Reads a dataset and checks all of it.

    Raises:
        UsageError: there is none.
        IntegrityError: a file is missing, damaged, or not what the index says.
    """
    where = str(folder.join(NAME))
    try:
        content = commit.read_manifest(folder, NAME, FORMAT, VERSION)
    except errors.NotFoundError as error:
        raise errors.UsageError(f"{folder}: holds no finished dataset; run prepare first") from error
    try:
        inputs, targets = tuple(content["inputs"]), tuple(content["targets"])
        names, splits = columns(inputs, targets), {}
        for split, record in content["splits"].items():
            file = commit.FileRecord.from_json(record, where)
            commit.verify(folder, [file])
            table = pa.ipc.open_file(folder.join(file.name).read_bytes()).read_all()
            splits[split] = np.stack([table[name].to_numpy() for name in names], axis=1)
            if len(splits[split]) != record["rows"]:
                raise errors.IntegrityError(f"{where}: {split} has other rows than it says; prepare again")
        return Dataset(
            folder, inputs, targets, content["settings"], content["fingerprint"], splits, dict(content["sources"])
        )
    except (KeyError, TypeError, ValueError, AttributeError, pa.ArrowException) as error:
        raise errors.IntegrityError(f"{where}: is no index of a dataset of series ({error}); prepare again") from error


def _split(read_: dict[str, Array], shares: corpus_settings.SplitConfig) -> dict[str, Array]:
    """Sets the last rows of the training source aside: those of `test` behind those of `valid`."""
    splits = dict(read_)
    total = len(splits["train"])
    num_test, num_valid = round(total * shares.test), round(total * shares.valid)
    train_stop, valid_stop = total - num_test - num_valid, total - num_test
    if num_test:
        splits["test"] = splits["train"][valid_stop:]
    if num_valid:
        splits["valid"] = splits["train"][train_stop:valid_stop]
    splits["train"] = splits["train"][:train_stop]
    for split, values_TC in splits.items():
        if not len(values_TC):
            raise errors.DataError(f"corpus.{split}: 0 rows; check the source and corpus.split")
    return splits


def _write(folder: location.Location, split: str, names: Sequence[str], values_TC: Array) -> commit.FileRecord:
    table = pa.table({name: np.ascontiguousarray(values_TC[:, place]) for place, name in enumerate(names)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return commit.put_content(folder, f"{split}/series", ".arrow", bytes(sink.getvalue()))
