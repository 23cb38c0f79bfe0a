"""Numeric time series: read from CSV or Parquet, stored as Arrow files, and cut into features and labels.

A dataset of series is a folder with one Arrow file for each split, a column of doubles for each name, and
`index.json`, written last. It is prepared in one process, because a series is only megabytes.
"""

import hashlib
from collections.abc import Mapping, Sequence
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
    """N examples for a regressor: the last L values of I input columns, and the next K values of O target columns."""

    features_NLI: Array
    labels_NKO: Array


@dataclass(frozen=True)
class Dataset:
    """An opened dataset of series.

    Attributes:
        folder: its location.
        inputs: names of the input columns.
        targets: names of the columns that are forecast.
        settings: those that determine the content.
        fingerprint: hash of the settings and of the content.
        splits: values (T, C) by split, columns in the order of `columns`.
        sources: SHA-256 of the values read, by split.
    """

    folder: location.Location
    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    settings: dict[str, Any]
    fingerprint: str
    splits: dict[str, Array]
    sources: dict[str, str]

    def examples(self, split: str, lags: int, horizon: int) -> Examples:
        """Returns the examples of a split; none if the dataset has no such split."""
        names = columns(self.inputs, self.targets)
        values_TC = self.splits.get(split, np.zeros((0, len(names))))
        padding = self.settings["corpus"]["padding"]
        inputs_TI = values_TC[:, [names.index(name) for name in self.inputs]]
        targets_TO = values_TC[:, [names.index(name) for name in self.targets]]
        return make_examples(inputs_TI, targets_TO, lags, horizon, padding)


def columns(inputs: Sequence[str], targets: Sequence[str]) -> list[str]:
    """Returns each column name once, inputs first."""
    return list(dict.fromkeys([*inputs, *targets]))  # a column may be input and target at once


def make_examples(
    inputs_TI: Array, targets_TO: Array, lags: int, horizon: int, padding: Literal["drop", "zeros"]
) -> Examples:
    """Returns an example for each time with enough values before and after it.

    The features of time t are the inputs of t−L … t−1, its labels the targets of t … t+K−1. The first L times lack
    features: `drop` leaves them out, `zeros` pads the beginning with zeros.

    Source: Zhang et al., Dive into Deep Learning (2021), section 8.1 "Sequence Models".
    """
    if padding == "zeros":
        inputs_TI = np.concatenate([np.zeros((lags, inputs_TI.shape[1])), inputs_TI])
    else:
        targets_TO = targets_TO[lags:]
    # The last `horizon - 1` times have no complete labels; the windows of their features are cut off.
    count = len(targets_TO) - horizon + 1
    if count < 1:
        empty = np.zeros((0, horizon, targets_TO.shape[1]))
        return Examples(np.zeros((0, lags, inputs_TI.shape[1])), empty)
    return Examples(windows(inputs_TI, lags)[:count], windows(targets_TO, horizon))


def windows(values_TC: Array, length: int) -> Array:
    """Returns all windows of `length` consecutive times, (T − length + 1, length, C), as views."""
    return np.lib.stride_tricks.sliding_window_view(values_TC, length, axis=0).transpose(0, 2, 1)


def read(files: Sequence[location.Location], names: Sequence[str], where: str) -> Array:
    """Reads columns of CSV files with a header line, or of Parquet files (`.parquet`), with rows in order of time.

    Raises:
        DataError: a column is missing, or a value is not a finite number.
    """
    return np.concatenate([_read_file(file, names, where) for file in files])


def from_columns(values: Mapping[str, Sequence[float]], names: Sequence[str], where: str) -> Array:
    """Returns the columns of a series in memory, (T, C); `where` names it in errors.

    Raises:
        DataError: a column is missing, not numeric, or shorter than another.
    """
    columns_T: list[Array] = []
    for name in names:
        if name not in values:
            raise errors.DataError(f"{where}: has no column {name!r}; it has {', '.join(map(str, values))}")
        try:
            column_T = np.asarray(values[name], dtype=np.float64)
        except (TypeError, ValueError):
            raise errors.DataError(f"{where}: column {name!r} is not numeric; correct it") from None
        bad_rows = np.flatnonzero(~np.isfinite(column_T))
        if column_T.ndim != 1 or len(bad_rows):
            row = f"has no number in row {bad_rows[0]}" if len(bad_rows) else "is not one list of numbers"
            raise errors.DataError(f"{where}: column {name!r} {row}; correct it")
        columns_T.append(column_T)
    if len({len(column_T) for column_T in columns_T}) > 1:
        sizes = ", ".join(f"{name} {len(column_T)}" for name, column_T in zip(names, columns_T, strict=True))
        raise errors.DataError(f"{where}: the columns have different numbers of rows ({sizes}); align them")
    return np.stack(columns_T, axis=1)


def _read_file(file: location.Location, names: Sequence[str], where: str) -> Array:
    try:
        with file.open() as opened:
            table = parquet.read_table(opened) if file.name.endswith(".parquet") else csv.read_csv(opened)
    except (pa.ArrowException, OSError) as error:
        raise errors.DataError(f"{where}: {file} is not valid CSV or Parquet ({error}); check the file") from error
    columns_T = []
    for name in names:
        if name not in table.column_names:
            raise errors.DataError(f"{where}: {file} has no column {name!r}; it has {', '.join(table.column_names)}")
        column = table[name]
        if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
            raise errors.DataError(f"{where}: column {name!r} of {file} is {column.type}, not numeric; correct it")
        # Unsafe, or an integer above 2^53 would be an error instead of the nearest double.
        values_T = column.cast(pa.float64(), safe=False).to_numpy()
        # A null of Arrow is NaN here, too.
        bad_rows = np.flatnonzero(~np.isfinite(values_T))
        if len(bad_rows):
            raise errors.DataError(
                f"{where}: column {name!r} of {file} has no number in row {bad_rows[0] + 1} below the header; "
                "fill it in"
            )
        columns_T.append(values_T)
    return np.stack(columns_T, axis=1)


def prepare(
    corpus: corpus_settings.CorpusConfig, settings: dict[str, Any], folder: location.Location
) -> tuple[Dataset, bool]:
    """Writes the dataset of a series, or checks that the existing one was made from the same series.

    Returns:
        The dataset, and True if it existed already.

    Raises:
        DataError: a source is missing or has no rows.
        LockedError: the folder contains a dataset of other settings or of another series.
    """
    names = columns(corpus.inputs, corpus.targets)
    values = {
        split: read([location.Location.parse(text, f"corpus.{split}") for text in source.csv], names, f"corpus.{split}")
        for split in SPLITS
        if (source := getattr(corpus, split)) is not None
    }
    # Hash of the values, not of the file: the same series as CSV and as Parquet is the same dataset.
    sources = {split: hashlib.sha256(values_TC.tobytes()).hexdigest() for split, values_TC in values.items()}
    store = commit.PartStore(folder, {"settings": settings})
    # The sources are read and compared even if the dataset exists: a changed file must not go unnoticed.
    if store.manifest(NAME) is not None:
        dataset = open_dataset(folder)
        if dataset.sources != sources:
            raise errors.LockedError(f"corpus: is not the series that {folder} was made from; use another root")
        return dataset, True
    splits = _split(values, corpus.split)
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
    """Returns True if a folder contains a finished dataset of series."""
    index = folder.join(NAME)
    content = index.read_json() if index.exists() else None
    return isinstance(content, dict) and content.get("format") == FORMAT


def open_dataset(folder: location.Location) -> Dataset:
    """Reads a dataset and verifies all of its files.

    Raises:
        UsageError: the folder contains no finished dataset.
        IntegrityError: a file is missing, damaged, or differs from the index.
    """
    where = str(folder.join(NAME))
    try:
        content = commit.read_manifest(folder, NAME, FORMAT, VERSION)
    except errors.NotFoundError as error:
        raise errors.UsageError(f"{folder}: contains no finished dataset; run prepare first") from error
    try:
        inputs, targets = tuple(content["inputs"]), tuple(content["targets"])
        names, splits = columns(inputs, targets), {}
        for split, record in content["splits"].items():
            file = commit.FileRecord.from_json(record, where)
            commit.verify(folder, [file])
            table = pa.ipc.open_file(folder.join(file.name).read_bytes()).read_all()
            splits[split] = np.stack([table[name].to_numpy() for name in names], axis=1)
            if len(splits[split]) != record["rows"]:
                raise errors.IntegrityError(f"{where}: {split} has a different number of rows; prepare again")
        return Dataset(
            folder, inputs, targets, content["settings"], content["fingerprint"], splits, dict(content["sources"])
        )
    except (KeyError, TypeError, ValueError, AttributeError, pa.ArrowException) as error:
        raise errors.IntegrityError(
            f"{where}: is not the index of a dataset of series ({error}); prepare again"
        ) from error


def _split(values: dict[str, Array], shares: corpus_settings.SplitConfig) -> dict[str, Array]:
    """Sets aside the last rows of the training source: first those of `valid`, then those of `test`.

    Raises:
        DataError: a split has no rows.
    """
    splits = dict(values)
    total = len(splits["train"])
    num_test, num_valid = round(total * shares.test), round(total * shares.valid)
    train_stop, valid_stop = total - num_test - num_valid, total - num_test
    if num_test:
        splits["test"] = splits["train"][valid_stop:]
    if num_valid:
        splits["valid"] = splits["train"][train_stop:valid_stop]
    # Last: the other two are cut from the whole source.
    splits["train"] = splits["train"][:train_stop]
    for split, values_TC in splits.items():
        if not len(values_TC):
            raise errors.DataError(f"corpus.{split}: 0 rows; check the source and corpus.split")
    return splits


def _write(folder: location.Location, split: str, names: Sequence[str], values_TC: Array) -> commit.FileRecord:
    table = pa.table({name: np.ascontiguousarray(values_TC[:, index]) for index, name in enumerate(names)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return commit.put_content(folder, f"{split}/series", ".arrow", bytes(sink.getvalue()))
