"""Datasets of token ids: writing shards, and reading rows, token streams and lengths.

A dataset is a folder of Arrow shards in `train/`, `valid/` and `test/`, the tokenizers of their ids, and `index.json`,
written last: a folder without it is not a dataset. Shards are memory-mapped, not loaded; each is verified against the
index when it is first used.
"""

import functools
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core import errors
from core.data.batching import lanes
from core.data.dataset import arrow_file, dataset_index, lengths_file, open_shards, shard_table
from core.data.tokens import tokenizer
from core.storage import commit, location, node_cache

_CACHE = node_cache.NodeCache()

Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ragged:
    """Rows of token ids of unequal length, concatenated."""

    values: npt.NDArray[Any]
    lengths: Array


def ragged(rows: Sequence[Sequence[int]]) -> Ragged:
    """Concatenates rows of ids."""
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    # Directly into the array, without a list of all ids in between.
    flat = itertools.chain.from_iterable(rows)
    return Ragged(np.fromiter(flat, dtype=np.uint32, count=int(lengths.sum())), lengths)


def join(batches: Sequence[Ragged]) -> Ragged:
    """Concatenates batches of rows, in order."""
    values = np.concatenate([np.empty(0, np.uint32), *(batch.values for batch in batches)])
    return Ragged(values, np.concatenate([np.empty(0, np.int64), *(batch.lengths for batch in batches)]))


def encode_shard(
    columns: Mapping[str, Ragged | Sequence[Sequence[int]]],
    lines: Sequence[int] | Array,
    vocabulary_sizes: Mapping[str, int],
) -> bytes:
    """Returns the bytes of a shard; equal rows give equal bytes.

    Args:
        columns: rows of ids by column, in the order of `dataset_index.COLUMNS`.
        lines: the line number of each row in the source.
        vocabulary_sizes: by column; every id is below it.
    """
    sides = {}
    for name, rows in columns.items():
        side = rows if isinstance(rows, Ragged) else ragged(rows)
        assert len(side.lengths) == len(lines), f"{name}: {len(side.lengths)} rows for {len(lines)} lines"
        assert not len(side.values) or int(side.values.max()) < vocabulary_sizes[name], f"{name}: id out of range"
        offsets = np.concatenate(([0], np.cumsum(side.lengths)))
        # The type depends on the vocabulary, not on the ids of a part: all shards have one schema.
        narrow = arrow_file.id_type(vocabulary_sizes[name]).to_pandas_dtype()
        sides[name] = arrow_file.Side(side.values.astype(narrow), offsets)
    return arrow_file.write(sides, np.asarray(lines, dtype=np.int64), vocabulary_sizes)


class Split:
    """The rows of one split over all its shards, each of which is mapped and verified when it is first used.

    Args:
        folder: of the dataset.
        table: the shards.
        vocabulary_sizes: by column.
        verify: compares the hash of each shard when it is first used.
        backward: reverses its stream.
        lengths: files with the lengths of all rows; without them they are read from the shards.
        opened: the mapped shards of the dataset.
        cache: the copies on this node of files in an object store.
    """

    def __init__(
        self,
        folder: location.Location,
        table: shard_table.ShardTable,
        vocabulary_sizes: Mapping[str, int],
        verify: bool,
        backward: bool = False,
        lengths: Sequence[dataset_index.LengthsRecord] = (),
        opened: open_shards.OpenShards | None = None,
        cache: node_cache.NodeCache | None = None,
    ) -> None:
        self._folder = folder
        self._table = table
        self._sizes = vocabulary_sizes
        self._verify = verify
        self._backward = backward
        # Mappings, not contents: the page cache decides what is in memory.
        self._opened = open_shards.OpenShards() if opened is None else opened
        self._cache = cache
        self._key = object()  # of this split among the others
        self._is_verified = np.zeros(len(table), bool)
        self._row_starts = _starts(table.rows)
        self._lengths = self._open_lengths(lengths) if lengths else None

    @property
    def num_lines(self) -> int:
        """Number of rows."""
        return int(self._row_starts[-1])

    def num_tokens(self, column: str) -> int:
        """Returns the number of tokens of a column, `<eos>` included."""
        return int(self._table.tokens[column].sum())

    def shard(self, number: int) -> arrow_file.Shard:
        """Returns a shard by its position in the index.

        Raises:
            IntegrityError: it does not match the index.
        """
        return self._opened.get(
            (self._key, number), int(self._table.size_bytes[number]), functools.partial(self._open_shard, number)
        )

    def verify(self) -> None:
        """Opens and verifies every shard and every file of lengths.

        Raises:
            IntegrityError: one does not match the index.
        """
        for number in range(len(self._table)):
            if self._folder.is_local:
                self.shard(number)
            else:  # read once, of which a copy would only take the place of others
                arrow_file.read_shard(*self._expected(number))
        if self._lengths is not None:
            self._lengths.read(0, self.num_lines, self._table.columns)

    def lengths(self, start: int, stop: int) -> dict[str, npt.NDArray[np.int32]]:
        """Returns the number of tokens of each row in a range, by column, `<eos>` included."""
        columns = self._table.columns
        if self._lengths is not None:
            return self._lengths.read(start, stop, columns)
        lengths: dict[str, list[npt.NDArray[np.int32]]] = {column: [] for column in columns}
        for number, begin, end in lengths_file.slices(self._row_starts, start, stop):
            for column, side in self.shard(number).sides.items():
                # The offsets are in the shard's own numbering, like `begin` and `end`; n rows have n + 1 offsets.
                lengths[column].append(np.diff(side.offsets[begin : end + 1]).astype(np.int32))
        return {column: np.concatenate([np.empty(0, np.int32), *arrays]) for column, arrays in lengths.items()}

    def rows(self, indices: Array, column: str) -> list[npt.NDArray[Any]]:
        """Returns the ids of each of the rows: views of local shards, copies from shards of an object store.

        A view keeps its shard mapped, and with it the copy on the disk of this node; the rows of a batch may come from
        a hundred shards.
        """
        rows = []
        for number, row in self._locate(indices):
            side = self.shard(number).sides[column]
            values = side.values[side.offsets[row] : side.offsets[row + 1]]
            rows.append(values if self._folder.is_local else values.copy())
        return rows

    def _locate(self, indices: Array) -> Iterator[tuple[int, int]]:
        """Yields the shard of each row, and its index there."""
        # right: of shards with equal starts all but the last are empty.
        numbers = np.searchsorted(self._row_starts, indices, side="right") - 1
        return zip(numbers.tolist(), (indices - self._row_starts[numbers]).tolist(), strict=True)

    def stream(self) -> lanes.Stream:
        """Returns the token stream of a text split, reversed if the dataset was opened backward."""
        return lanes.ReversedStream(Stream(self)) if self._backward else Stream(self)

    def token_starts(self, column: str) -> Array:
        """Returns the position of each shard's first token in the stream of a column, and the end of the last."""
        return _starts(self._table.tokens[column])

    def _open_shard(self, number: int) -> arrow_file.Shard:
        file, expected = self._expected(number)
        # Once: a shard that was closed in between is the same file.
        shard = arrow_file.open_shard(file, expected, self._verify and not self._is_verified[number], self._cache)
        self._is_verified[number] = True
        return shard

    def _expected(self, number: int) -> tuple[location.Location, arrow_file.Expected]:
        record = self._table[number]
        file = self._folder.join(record.name)
        expected = arrow_file.Expected(
            str(file), record.size_bytes, record.sha256, record.rows, record.tokens, self._sizes
        )
        return file, expected

    def _open_lengths(self, records: Sequence[dataset_index.LengthsRecord]) -> lengths_file.RowLengths:
        row_starts = _starts(np.array([record.rows for record in records]))
        # Files begin where shards do: so the tokens of their rows are those of some shards.
        numbers = np.searchsorted(self._row_starts, row_starts)
        tokens = {column: np.diff(self.token_starts(column)[numbers]) for column in self._table.columns}

        def open_file(number: int) -> dict[str, npt.NDArray[Any]]:
            record, file = records[number].file, self._folder.join(records[number].file.name)
            data = arrow_file.map_file(file, str(file), record.sha256, record.size_bytes, self._verify, self._cache)
            sums = {column: int(counts[number]) for column, counts in tokens.items()}
            expected = lengths_file.Expected(str(file), records[number].rows, sums)
            return lengths_file.read(data, self._table.columns, expected)

        return lengths_file.RowLengths(row_starts, open_file)


class Stream:
    """The tokens of all rows of a text split as one sequence, over the borders of shards."""

    def __init__(self, split: Split) -> None:
        self._split = split
        self._starts = split.token_starts("text")

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: slice, /) -> npt.NDArray[Any]:
        """Returns a range of ids: a view within a shard, a copy across shards."""
        start, stop, step = index.indices(len(self))
        assert step == 1, "streams have no steps"
        arrays = [
            self._split.shard(number).sides["text"].values[begin:end]
            for number, begin, end in lengths_file.slices(self._starts, start, stop)
        ]
        if len(arrays) == 1:
            return arrays[0]  # the usual case: a view of the mapping
        # The narrowest id type, so that joining it widens nothing.
        return np.concatenate(arrays) if arrays else np.empty(0, np.uint16)


def _starts(sizes: Array) -> Array:
    """Returns where each of some consecutive ranges starts, and the end of the last."""
    return np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))


class Dataset:
    """A finished dataset, opened for reading."""

    def __init__(
        self,
        folder: location.Location,
        index: dataset_index.DatasetIndex,
        codecs: dict[str, tokenizer.Codec],
        verify: bool,
        backward: bool = False,
        cache: node_cache.NodeCache = _CACHE,
    ) -> None:
        self.folder = folder
        self.index = index
        self.codecs = codecs
        self._verify = verify
        self._backward = backward
        self.cache = cache
        # Copies that are mapped keep their space on the disk, even after they made room for others.
        self._opened = open_shards.OpenShards(most_bytes=None if folder.is_local else cache.size_bytes // 4)

    @classmethod
    def open(
        cls,
        folder: location.Location,
        verify: bool = True,
        backward: bool = False,
        check_files: bool = True,
        cache: node_cache.NodeCache = _CACHE,
    ) -> "Dataset":
        """Opens a dataset: verifies its index, its tokenizers and the sizes of local shards.

        Args:
            folder: the dataset.
            verify: compares the hash of each shard when it is first used.
            backward: reverses its streams, for backward language models; its rows stay as they are.
            check_files: asks for the size of each local shard; False in a rank, whose driver has asked: of thousands of
                shards on a network filesystem each costs a request.
            cache: the copies on this node of files in an object store.

        Raises:
            UsageError: the folder holds none.
            IntegrityError: it is damaged, or of a newer format.
        """
        try:
            content = commit.read_manifest(
                folder, dataset_index.NAME, dataset_index.FORMAT, dataset_index.FORMAT_VERSION
            )
        except errors.NotFoundError as error:
            raise errors.UsageError(f"{folder}: has no finished dataset; run prepare first") from error
        index = dataset_index.DatasetIndex.from_json(content, folder)
        # An object store would take a request for each shard; there a missing one fails at its first use.
        if folder.is_local and check_files:
            _check_local(folder, index)
        return cls(folder, index, _codecs(folder, index), verify, backward, cache)

    @property
    def kind(self) -> str:
        """`text` or `pairs`."""
        return self.index.kind

    @property
    def corpora(self) -> tuple[str, ...]:
        """The names of its corpora, in order; a single corpus has the empty name."""
        return self.index.corpora

    def target_token(self, corpus: str) -> str | None:
        """Returns the target-language token before the source lines of a corpus, if there is one."""
        settings = self.index.settings.get("corpora", {}).get(corpus, {})
        token: str | None = settings.get("target_token")
        return token

    def split(self, name: str, corpus: str | None = None) -> Split | None:
        """Returns a split, of one corpus or of all; None if the dataset has no such lines."""
        table = self.index.shards(name, corpus)
        if not len(table):
            return None
        sizes = {column: self.index.tokenizers[column].vocabulary_size for column in dataset_index.COLUMNS[self.kind]}
        lengths = self.index.lengths_of(name, corpus)
        return Split(self.folder, table, sizes, self._verify, self._backward, lengths, self._opened, self.cache)

    def verify(self) -> None:
        """Verifies all files of the dataset, which reads all of them.

        Raises:
            IntegrityError: something does not match the index.
        """
        if self.index.statistics is not None:
            commit.verify(self.folder, [self.index.statistics])
        for name in self.index.splits:
            if (split := self.split(name)) is not None:
                split.verify()


def _check_local(folder: location.Location, index: dataset_index.DatasetIndex) -> None:
    """Checks that all files are in the folder with their sizes, before any work and without reading them."""
    home = os.path.realpath(folder.path)
    for split, table in index.splits.items():
        # One listing in place of several questions for each shard; its entries say which of them are links.
        sizes_bytes, links = _list_files(folder, split)
        records = index.lengths.get(split, ())
        names = itertools.chain(
            (table.name(row) for row in range(len(table))), (record.file.name for record in records)
        )
        expected = itertools.chain(table.size_bytes.tolist(), (record.file.size_bytes for record in records))
        for name, expected_bytes in zip(names, expected, strict=True):
            size_bytes = sizes_bytes.get(name)
            if size_bytes is None:
                raise errors.IntegrityError(
                    f"{folder.join(name).path}: is missing; restore it, or remove the dataset and prepare again"
                )
            # A dataset from elsewhere could name any readable file by a link.
            if name in links and not Path(os.path.realpath(folder.join(name).path)).is_relative_to(home):
                raise errors.IntegrityError(
                    f"{folder.join(name).path}: is a link out of the dataset; replace it by the file itself"
                )
            if size_bytes != expected_bytes:
                raise errors.IntegrityError(
                    f"{folder.join(name).path}: expected {expected_bytes} bytes, found {size_bytes}; "
                    "restore it, or remove the dataset and prepare again"
                )


def _list_files(folder: location.Location, split: str) -> tuple[dict[str, int], set[str]]:
    """Returns the sizes of the files of a split by their names in the dataset, and which of these names are links."""
    sizes_bytes: dict[str, int] = {}
    links: set[str] = set()
    own = folder.join(split).path
    if not own.is_dir():
        return sizes_bytes, links
    is_link = own.is_symlink()
    with os.scandir(own) as entries:
        for entry in entries:
            name = f"{split}/{entry.name}"
            if is_link or entry.is_symlink():
                links.add(name)
            if entry.is_file():
                sizes_bytes[name] = entry.stat().st_size
    return sizes_bytes, links


def _codecs(folder: location.Location, index: dataset_index.DatasetIndex) -> dict[str, tokenizer.Codec]:
    """Returns the codec of each column, its tokenizer verified against the index."""
    codecs = {}
    for column, record in index.tokenizers.items():
        file = folder.join(record.file.name)
        loaded = tokenizer.Tokenizer.from_json(commit.read_file(folder, record.file).decode(), str(file))
        # Datasets and models are matched by this fingerprint: it must be that of the file itself.
        if (loaded.fingerprint, loaded.vocabulary_size) != (record.fingerprint, record.vocabulary_size):
            raise errors.IntegrityError(
                f"{file}: expected fingerprint {record.fingerprint} and {record.vocabulary_size} entries, "
                f"found {loaded.fingerprint} and {loaded.vocabulary_size}; prepare again"
            )
        codecs[column] = tokenizer.Codec(index.cleaning, loaded)
    return codecs
