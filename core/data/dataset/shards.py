"""The dataset: what its index says, how shards are written, and how their tokens are read.

A dataset is a folder of Arrow shards under `train/`, `valid/` and `test/`, the tokenizers that made them, and
`index.json`, written last: without it there is no dataset. Shards are mapped, never loaded; each is checked
against the index when it is first used.
"""

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
from core.data.dataset import arrow_file, dataset_index
from core.data.tokens import tokenizer
from core.storage import commit, location

Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ragged:
    """Rows of token ids, end to end."""

    values: npt.NDArray[Any]
    lengths: Array


def ragged(rows: Sequence[Sequence[int]]) -> Ragged:
    """Puts rows of ids end to end."""
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    flat = itertools.chain.from_iterable(rows)
    return Ragged(np.fromiter(flat, dtype=np.uint32, count=int(lengths.sum())), lengths)


def join(pieces: Sequence[Ragged]) -> Ragged:
    """Puts the rows of all pieces into one, in order."""
    values = np.concatenate([np.empty(0, np.uint32), *(piece.values for piece in pieces)])
    return Ragged(values, np.concatenate([np.empty(0, np.int64), *(piece.lengths for piece in pieces)]))


def encode_shard(
    columns: Mapping[str, Ragged | Sequence[Sequence[int]]],
    lines: Sequence[int] | Array,
    vocabulary_sizes: Mapping[str, int],
) -> bytes:
    """Returns the bytes of a shard; equal rows give equal bytes.

    Args:
        columns: rows of ids by column, in the order of `dataset_index.COLUMNS`.
        lines: of each row its line number in the source.
        vocabulary_sizes: by column; every id is below it.
    """
    sides = {}
    for name, rows in columns.items():
        side = rows if isinstance(rows, Ragged) else ragged(rows)
        assert len(side.lengths) == len(lines), f"{name}: {len(side.lengths)} rows for {len(lines)} lines"
        assert not len(side.values) or int(side.values.max()) < vocabulary_sizes[name], f"{name}: id out of range"
        offsets = np.concatenate(([0], np.cumsum(side.lengths)))
        narrow = arrow_file.id_type(vocabulary_sizes[name]).to_pandas_dtype()
        sides[name] = arrow_file.Side(side.values.astype(narrow), offsets)
    return arrow_file.write(sides, np.asarray(lines, dtype=np.int64), vocabulary_sizes)


class Split:
    """The rows of one split, over all its shards; a shard is mapped and checked when it is first needed."""

    def __init__(
        self,
        files: Sequence[location.Location],
        expected: Sequence[arrow_file.Expected],
        verify: bool,
        backward: bool = False,
    ) -> None:
        self._files = files
        self._expected = expected
        self._verify = verify
        self._backward = backward
        self._opened: dict[int, arrow_file.Shard] = {}
        self._row_starts = np.cumsum([0, *(one.rows for one in expected)])
        self._columns = tuple(expected[0].vocabulary_sizes) if expected else ()

    @property
    def num_lines(self) -> int:
        """How many rows there are."""
        return int(self._row_starts[-1])

    def num_tokens(self, column: str) -> int:
        """Counts the tokens of a column, `<eos>` included."""
        return sum(one.tokens[column] for one in self._expected)

    def shard(self, number: int) -> arrow_file.Shard:
        """Returns a shard by its place in the index.

        Raises:
            IntegrityError: it is not what the index says.
        """
        if number not in self._opened:
            self._opened[number] = arrow_file.open_shard(self._files[number], self._expected[number], self._verify)
        return self._opened[number]

    def open_all(self) -> None:
        """Checks every shard now.

        Raises:
            IntegrityError: one is not what the index says.
        """
        for number in range(len(self._files)):
            self.shard(number)

    def lengths(self, start: int, stop: int) -> dict[str, npt.NDArray[np.int32]]:
        """Returns the number of tokens of each row in a range, by column, `<eos>` included."""
        pieces: dict[str, list[npt.NDArray[np.int32]]] = {column: [] for column in self._columns}
        for number, begin, end in _pieces(self._row_starts, start, stop):
            for column, side in self.shard(number).sides.items():
                pieces[column].append(np.diff(side.offsets[begin : end + 1]).astype(np.int32))
        return {column: np.concatenate([np.empty(0, np.int32), *found]) for column, found in pieces.items()}

    def rows(self, indices: Array, column: str) -> list[npt.NDArray[Any]]:
        """Returns the ids of each of the rows, as views."""
        found = []
        for number, row in self._places(indices):
            side = self.shard(number).sides[column]
            found.append(side.values[side.offsets[row] : side.offsets[row + 1]])
        return found

    def _places(self, indices: Array) -> Iterator[tuple[int, int]]:
        numbers = np.searchsorted(self._row_starts, indices, side="right") - 1
        return zip(numbers.tolist(), (indices - self._row_starts[numbers]).tolist(), strict=True)

    def stream(self) -> lanes.Stream:
        """Returns the tokens of a text split end to end, from the last to the first if it was opened so."""
        return lanes.ReversedStream(Stream(self)) if self._backward else Stream(self)

    def token_starts(self, column: str) -> Array:
        """Returns where each shard's tokens begin in the stream of a column, and where the last one's end."""
        return np.cumsum([0, *(one.tokens[column] for one in self._expected)])


class Stream:
    """All tokens of a text split, one after another, as if they were one array."""

    def __init__(self, split: Split) -> None:
        self._split = split
        self._starts = split.token_starts("text")

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, where: slice, /) -> npt.NDArray[Any]:
        """Returns a range of ids: a view within a shard, a copy over a border between shards."""
        start, stop, step = where.indices(len(self))
        assert step == 1, "a stream is read forwards, token by token"
        pieces = [
            self._split.shard(number).sides["text"].values[begin:end]
            for number, begin, end in _pieces(self._starts, start, stop)
        ]
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else np.empty(0, np.uint16)


def _pieces(starts: Array, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Yields (shard, first, end) of the stretches that a range covers; empty shards are passed over."""
    number = int(np.searchsorted(starts, start, side="right")) - 1
    while start < stop and number + 1 < len(starts):
        end = min(stop, int(starts[number + 1]))
        if end > start:
            yield number, start - int(starts[number]), end - int(starts[number])
        start, number = max(start, end), number + 1


class Dataset:
    """A finished dataset, open for reading."""

    def __init__(
        self,
        folder: location.Location,
        index: dataset_index.DatasetIndex,
        codecs: dict[str, tokenizer.Codec],
        verify: bool,
        backward: bool = False,
    ) -> None:
        self.folder = folder
        self.index = index
        self.codecs = codecs
        self._verify = verify
        self._backward = backward

    @classmethod
    def open(cls, folder: location.Location, verify: bool = True, backward: bool = False) -> "Dataset":
        """Opens a dataset: reads and checks its index and tokenizers, and that local shards have their sizes.

        Args:
            folder: where it is.
            verify: whether the hash of a shard is compared when it is first used.
            backward: whether its streams run from their end to their beginning; its rows never do.

        Raises:
            UsageError: there is none.
            IntegrityError: it is damaged, or of a newer format.
        """
        try:
            content = commit.read_manifest(
                folder, dataset_index.NAME, dataset_index.FORMAT, dataset_index.FORMAT_VERSION
            )
        except errors.NotFoundError as error:
            raise errors.UsageError(f"{folder}: holds no finished dataset; run prepare first") from error
        index = dataset_index.DatasetIndex.from_json(content, str(folder.join(dataset_index.NAME)))
        if folder.is_local:
            _check_local(folder, index)
        return cls(folder, index, _codecs(folder, index), verify, backward)

    @property
    def kind(self) -> str:
        """`text` or `pairs`."""
        return self.index.kind

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of its corpora, in their order; of a single one an empty name."""
        return self.index.tasks

    def target_token(self, task: str) -> str | None:
        """What stands before the source lines of a task, if anything."""
        settings = self.index.settings.get("corpora", {}).get(task, {})
        found: str | None = settings.get("target_token")
        return found

    def split(self, name: str, task: str | None = None) -> Split | None:
        """Returns a split, of one task or of all, or None where the dataset has no such lines."""
        records = self.index.shards(name, task)
        if not records:
            return None
        sizes = {column: self.index.tokenizers[column].vocabulary_size for column in dataset_index.COLUMNS[self.kind]}
        files = [self.folder.join(record.name) for record in records]
        expected = [
            arrow_file.Expected(str(file), record.size_bytes, record.sha256, record.rows, record.tokens, sizes)
            for file, record in zip(files, records, strict=True)
        ]
        return Split(files, expected, self._verify, self._backward)

    def verify(self) -> None:
        """Reads and checks everything.

        Raises:
            IntegrityError: something is not what the index says.
        """
        if self.index.statistics is not None:
            commit.verify(self.folder, [self.index.statistics])
        for name in self.index.splits:
            if (found := self.split(name)) is not None:
                found.open_all()


def _check_local(folder: location.Location, index: dataset_index.DatasetIndex) -> None:
    """Finds missing, cut and foreign files before any work is begun; costs no reading."""
    home = os.path.realpath(folder.path)
    for record in itertools.chain.from_iterable(index.splits.values()):
        path = folder.join(record.name).path
        if not path.is_file():
            raise errors.IntegrityError(f"{path}: is missing; restore it, or remove the dataset and prepare again")
        if not Path(os.path.realpath(path)).is_relative_to(home):
            raise errors.IntegrityError(f"{path}: is a link out of the dataset; put the file itself in its place")
        if (found := path.stat().st_size) != record.size_bytes:
            raise errors.IntegrityError(
                f"{path}: expected {record.size_bytes} bytes, found {found}; "
                "restore it, or remove the dataset and prepare again"
            )


def _codecs(folder: location.Location, index: dataset_index.DatasetIndex) -> dict[str, tokenizer.Codec]:
    codecs = {}
    for column, record in index.tokenizers.items():
        commit.verify(folder, [record.file])
        place = folder.join(record.file.name)
        found = tokenizer.Tokenizer.from_json(place.read_bytes().decode(), str(place))
        if (found.fingerprint, found.vocabulary_size) != (record.fingerprint, record.vocabulary_size):
            raise errors.IntegrityError(
                f"{place}: expected fingerprint {record.fingerprint} and {record.vocabulary_size} entries, "
                f"found {found.fingerprint} and {found.vocabulary_size}; prepare again"
            )
        codecs[column] = tokenizer.Codec(index.cleaning, found)
    return codecs
