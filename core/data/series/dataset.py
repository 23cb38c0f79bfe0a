"""Datasets of numeric time series, stored as Arrow files.

A dataset of series is a folder with one Arrow file for each split, a column of doubles for each name, and
`index.json`, written last, which also has the regular times of each split. It is prepared in one process, because a
series is only megabytes.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import parquet

from core import errors
from core.config import corpus_settings, loading
from core.data import uncompressed_arrow
from core.data.series import examples, preparation, reading, scaling, times
from core.data.text import source_files
from core.storage import commit, control_files, location

FORMAT, VERSION, NAME = "raycurrent-series", 1, "index.json"
SPLITS = corpus_settings.SPLITS
# Prefix of the columns of a shard that say which values were filled; a shard without filled values has none.
_IS_FILLED = "is_filled:"

Array = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """An opened dataset of series.

    Attributes:
        folder: its location.
        inputs: names of the input columns.
        targets: names of the columns that are forecast.
        settings: those that determine the content.
        fingerprint: hash of the settings and of the content.
        splits: rows by split, columns in the order of `columns`.
        sources: SHA-256 of the rows read, by split.
    """

    folder: location.Location
    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    settings: dict[str, Any]
    fingerprint: str
    splits: dict[str, reading.Table]
    sources: dict[str, str]

    @property
    def columns(self) -> list[str]:
        """Names of the columns of values, each once."""
        return examples.columns(self.inputs, self.targets)

    def preparation(self, corpus: corpus_settings.CorpusConfig) -> preparation.Preparation:
        """Returns the preparation of every series of a model that is trained on this dataset.

        A dataset of release 0.1, whose settings say nothing of scaling, has none.
        """
        is_scaled = self.settings["corpus"].get("scaling", "none") != "none"
        train = self.splits["train"]
        fitted = scaling.Scaling.fit(train.values_TC, self.columns) if is_scaled else scaling.NONE
        return dataclasses.replace(preparation.Preparation.of_corpus(corpus), axis=train.axis, scaling=fitted)

    def examples(
        self, split: str, lags: int, horizon: int, scaled: scaling.Scaling = scaling.NONE
    ) -> examples.Examples:
        """Returns the scaled examples of a split; none if the dataset has no such split."""
        names = self.columns
        values_TC = self.splits[split].values_TC if split in self.splits else np.zeros((0, len(names)))
        inputs_TI = values_TC[:, [names.index(name) for name in self.inputs]]
        targets_TO = values_TC[:, [names.index(name) for name in self.targets]]
        return examples.make_examples(
            scaled.apply(inputs_TI, self.inputs),
            scaled.apply(targets_TO, self.targets),
            lags,
            horizon,
            self.settings["corpus"]["padding"],
        )

    def splits_of(self, source: str) -> list[str]:
        """Returns the splits made from a source, in order of time; those without a source follow the training rows."""
        names = [name for name in SPLITS if name in self.splits]
        return [name for name in names if name == source or (source == "train" and name not in self.sources)]

    def to_parquet(self, source: str) -> bytes:
        """Returns the rows of a source as a Parquet file, with their times, and null where a value was missing."""
        tables = [self.splits[name] for name in self.splits_of(source)]
        columns = {}
        for index, name in enumerate(self.columns):
            values_T = np.concatenate([table.values_TC[:, index] for table in tables])
            is_filled_T = np.concatenate([table.is_filled_TC[:, index] for table in tables])
            columns[name] = pa.array(values_T, mask=is_filled_T)
        time, axis = self.settings["corpus"].get("time"), tables[0].axis
        if axis is not None and time not in columns:  # times that are numbers may be values, too
            kind = pa.timestamp("us", "UTC" if axis.is_utc else None)
            instants = [axis.instant(row) for row in range(len(values_T))]
            columns[time] = pa.array(instants, pa.float64() if axis.unit == "number" else kind)
        sink = pa.BufferOutputStream()
        parquet.write_table(pa.table(columns), sink)
        return bytes(sink.getvalue())

    def described_splits(self) -> dict[str, dict[str, Any]]:
        """Returns the rows, filled values and times of each split, for reports."""
        described: dict[str, dict[str, Any]] = {}
        for split, table in self.splits.items():
            described[split] = {"rows": len(table)}
            if table.is_filled_TC.any():
                described[split]["filled_values"] = int(table.is_filled_TC.sum())
            if table.axis is not None:
                ends = {"first": table.axis.label(0), "last": table.axis.label(len(table) - 1)}
                described[split] |= {**ends, "step": table.axis.describe_step()}
        return described


def prepare(
    corpus: corpus_settings.CorpusConfig, settings: dict[str, Any], folder: location.Location
) -> tuple[Dataset, bool]:
    """Writes the dataset of a series, or checks that the existing one was made from the same series.

    Returns:
        The dataset, and True if it existed already.

    Raises:
        DataError: a source is missing or has no rows, a value is not a number, or times are not regular.
        LockedError: the folder contains a dataset of other settings or of another series.
    """
    tables = _read(corpus)
    # Hash of the values, not of the file: the same series as CSV and as Parquet is the same dataset.
    sources = {split: table.sha256 for split, table in tables.items()}
    store = commit.PartStore(folder, {"settings": settings}, commit.REMEDY_OF_DATASET)
    # The sources are read and compared even if the dataset exists: a changed file must not go unnoticed.
    if store.manifest(NAME) is not None:
        dataset = open_dataset(folder)
        if dataset.sources != sources:
            raise errors.LockedError(f"corpus: is not the series that {folder} was made from; use another root")
        return dataset, True
    splits = _split(tables, corpus.split)
    store.begin()
    names = examples.columns(corpus.inputs, corpus.targets)
    files = {split: _write(folder, split, names, table) for split, table in splits.items()}
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
    if corpus.time is not None:
        content["times"] = {split: table.axis.to_json() for split, table in splits.items() if table.axis is not None}
    store.finish(content, NAME)
    return open_dataset(folder), False


def _read(corpus: corpus_settings.CorpusConfig) -> dict[str, reading.Table]:
    """Reads the sources; those of the validation and test splits must have the step of the training source."""
    prepared, tables = preparation.Preparation.of_corpus(corpus), {}
    names = examples.columns(corpus.inputs, corpus.targets)
    for split in SPLITS:
        source: corpus_settings.SourceConfig | None = getattr(corpus, split)
        if source is None:
            continue
        files = [file for (file,) in source_files.resolve(source, f"corpus.{split}", corpus.sha256)]
        checksums = [source_files.expected_sha256(file, corpus.sha256) for file in files]
        tables[split] = reading.read(files, names, prepared, f"corpus.{split}", checksums)
        if split == "train":
            prepared = dataclasses.replace(prepared, axis=tables[split].axis)
    return tables


def is_series(folder: location.Location) -> bool:
    """Returns True if a folder contains a finished dataset of series."""
    index = folder.join(NAME)
    content = control_files.read_if_there(index, control_files.MAX_MANIFEST_BYTES)
    return content is not None and content.get("format") == FORMAT


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
    with control_files.parsing(where, "prepare again"):
        inputs, targets = tuple(content["inputs"]), tuple(content["targets"])
        names, axes, splits = examples.columns(inputs, targets), content.get("times", {}), {}
        for split, record in content["splits"].items():
            file = commit.FileRecord.from_json(record, where)
            commit.verify(folder, [file])
            table = _read_table(folder.join(file.name))
            axis = times.Axis.from_json(axes[split]) if split in axes else None
            splits[split] = reading.Table(*_columns(table, names), axis)
            if len(splits[split]) != record["rows"]:
                raise errors.IntegrityError(f"{where}: {split} has a different number of rows; prepare again")
        return Dataset(
            folder, inputs, targets, content["settings"], content["fingerprint"], splits, dict(content["sources"])
        )


def _split(tables: dict[str, reading.Table], shares: corpus_settings.SplitConfig) -> dict[str, reading.Table]:
    """Sets aside the last rows of the training source: first those of `valid`, then those of `test`.

    Raises:
        DataError: a split has no rows.
    """
    splits = dict(tables)
    train, total = splits["train"], len(splits["train"])
    num_test, num_valid = round(total * shares.test), round(total * shares.valid)
    train_stop, valid_stop = total - num_test - num_valid, total - num_test
    if num_test:
        splits["test"] = train.slice(valid_stop, total)
    if num_valid:
        splits["valid"] = train.slice(train_stop, valid_stop)
    # Last: the other two are cut from the whole source.
    splits["train"] = train.slice(0, train_stop)
    for split, table in splits.items():
        if not len(table):
            raise errors.DataError(f"corpus.{split}: 0 rows; check the source and corpus.split")
    return splits


def _write(folder: location.Location, split: str, names: Sequence[str], rows: reading.Table) -> commit.FileRecord:
    data: dict[str, npt.NDArray[Any]] = {
        name: np.ascontiguousarray(rows.values_TC[:, index]) for index, name in enumerate(names)
    }
    if rows.is_filled_TC.any():
        data |= {f"{_IS_FILLED}{name}": rows.is_filled_TC[:, index].copy() for index, name in enumerate(names)}
    table, sink = pa.table(data), pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return commit.put_content(folder, f"{split}/series", ".arrow", bytes(sink.getvalue()))


def _read_table(file: location.Location) -> pa.Table:
    data = file.read_bytes()
    try:
        table = uncompressed_arrow.open_file(data).read_all()
        table.validate(full=True)  # offsets that leave a buffer would read foreign memory
    except (pa.ArrowException, OSError) as error:
        problem = " ".join(str(error).split())[:120]
        raise errors.IntegrityError(f"{file}: is not a readable Arrow IPC file ({problem}); prepare again") from error
    return table


def _columns(table: pa.Table, names: Sequence[str]) -> tuple[Array, reading.Mask]:
    """Returns the values of a shard, and which of them were filled."""
    values_TC = np.stack([table[name].to_numpy() for name in names], axis=1)
    is_filled_TC = np.zeros(values_TC.shape, dtype=bool)
    for index, name in enumerate(names):
        if f"{_IS_FILLED}{name}" in table.column_names:
            is_filled_TC[:, index] = table[f"{_IS_FILLED}{name}"].to_numpy()
    return values_TC, is_filled_TC
