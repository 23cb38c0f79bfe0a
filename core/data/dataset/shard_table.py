"""The shards of a split as columns: a row for each shard, and no Python object before one is read.

In an index of version 2 the rows of all splits are one Arrow file beside `index.json`, which has its hash. A dataset of
100,000 shards is opened by every rank, so the columns stay what Arrow reads: a local file is mapped, and its pages are
shared by the ranks of a node.
"""

import itertools
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from core import errors
from core.data.dataset import arrow_file

_TOKENS: Final = "tokens_"
_SHA256_BYTES: Final = 32
_NAMES_AT_ONCE = 10_000  # what is computed from names is as large as they are
_NAME_BYTES: Final = (string.ascii_letters + string.digits + "._-").encode()
_WORD_BYTES: Final = 8
_MULTIPLIER: Final = np.uint64(6364136223846793005)  # of Knuth's MMIX
_SHIFT: Final = np.uint64(32)
_SHA256: Final = re.compile("[0-9a-f]{64}")

Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ShardRecord:
    """A shard as the index lists it; `tokens` by column; `corpus` is its name if the dataset has several."""

    name: str
    rows: int
    tokens: dict[str, int]
    size_bytes: int
    sha256: str
    corpus: str = ""

    @classmethod
    def from_commit(cls, record: Mapping[str, Any]) -> "ShardRecord":
        """Returns the record of a shard in the commit record of a part, in which the corpus is stored as `task`."""
        return cls(**{"corpus" if name == "task" else name: value for name, value in record.items()})


class ShardTable(Sequence[ShardRecord]):
    """The shards of a split in order; an item is made when it is read.

    Args:
        batch: a row for each shard, with the columns of `schema`.
        columns: of the dataset.
        corpora: the names by which the column `corpus` numbers the corpora.
    """

    def __init__(self, batch: pa.RecordBatch, columns: Sequence[str], corpora: Sequence[str]) -> None:
        self.batch = batch
        self.columns = tuple(columns)
        self.corpora = tuple(corpora)
        self.rows: Array = batch.column("rows").to_numpy(zero_copy_only=True)
        self.size_bytes: Array = batch.column("size_bytes").to_numpy(zero_copy_only=True)
        self.tokens: dict[str, Array] = {
            column: batch.column(f"{_TOKENS}{column}").to_numpy(zero_copy_only=True) for column in columns
        }
        self._corpus: npt.NDArray[np.int32] = batch.column("corpus").to_numpy(zero_copy_only=True)

    @classmethod
    def of(cls, records: Iterable[ShardRecord], columns: Iterable[str]) -> "ShardTable":
        """Returns the table of some records."""
        columns, listed = tuple(columns), list(records)
        corpora = tuple(dict.fromkeys(record.corpus for record in listed))
        numbers = {corpus: number for number, corpus in enumerate(corpora)}
        arrays = [
            pa.array([record.name for record in listed], pa.string()),
            pa.array([record.rows for record in listed], pa.int64()),
            *(pa.array([record.tokens[column] for record in listed], pa.int64()) for column in columns),
            pa.array([record.size_bytes for record in listed], pa.int64()),
            pa.array([bytes.fromhex(record.sha256) for record in listed], pa.binary(_SHA256_BYTES)),
            pa.array([numbers[record.corpus] for record in listed], pa.int32()),
        ]
        return cls(pa.record_batch(arrays, schema=schema(columns)), columns, corpora)

    def __len__(self) -> int:
        """Returns the number of shards."""
        return int(self.batch.num_rows)

    @overload
    def __getitem__(self, index: int) -> ShardRecord: ...
    @overload
    def __getitem__(self, index: slice) -> "ShardTable": ...
    def __getitem__(self, index: int | slice) -> "ShardRecord | ShardTable":
        """Returns the record of a shard, or the table of some consecutive ones."""
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            assert step == 1, "shards are read in order"
            return self._with(self.batch.slice(start, max(0, stop - start)))
        row = range(len(self))[index]
        return ShardRecord(
            self.name(row),
            int(self.rows[row]),
            {column: int(counts[row]) for column, counts in self.tokens.items()},
            int(self.size_bytes[row]),
            self.batch.column("sha256")[row].as_py().hex(),
            self.corpora[self._corpus[row]],
        )

    def __eq__(self, other: object) -> bool:
        """Compares the records, whatever the numbers of their corpora."""
        if not isinstance(other, ShardTable):
            return NotImplemented
        return len(self) == len(other) and all(map(ShardRecord.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]  # like other containers that compare by content

    def name(self, row: int) -> str:
        """Returns the name of a shard."""
        return str(self.batch.column("name")[row].as_py())

    @property
    def names(self) -> pa.StringArray:
        """The names of all shards."""
        return self.batch.column("name")

    @property
    def named_corpora(self) -> tuple[str, ...]:
        """The corpora that have a shard here, in order of their first one."""
        if len(self.corpora) == 1 and len(self):
            return self.corpora
        numbers, first_rows = np.unique(self._corpus, return_index=True)
        return tuple(self.corpora[number] for number in numbers[np.argsort(first_rows)])

    def of_corpus(self, corpus: str | None) -> "ShardTable":
        """Returns the shards of one corpus; None: of all."""
        if corpus is None or self.corpora == (corpus,):
            return self
        number = self.corpora.index(corpus) if corpus in self.corpora else -1
        rows = np.flatnonzero(self._corpus == number)
        if len(rows) and int(rows[-1]) - int(rows[0]) == len(rows) - 1:
            return self._with(self.batch.slice(int(rows[0]), len(rows)))  # as `prepare` writes them
        return self._with(self.batch.filter(pa.array(self._corpus == number)))

    def num_rows(self) -> int:
        """Returns the number of rows of all shards."""
        return int(self.rows.sum())

    def num_tokens(self) -> dict[str, int]:
        """Returns the number of tokens of all shards by column."""
        return {column: int(counts.sum()) for column, counts in self.tokens.items()}

    def check(self, split: str, where: str) -> None:
        """Checks the columns of a table that was read.

        Raises:
            IntegrityError: a count is negative, a name leads out of the folder of the split, or a shard is listed
                twice.
        """
        for counts in (self.rows, self.size_bytes, *self.tokens.values()):
            if int(counts.min(initial=0)) < 0:
                raise errors.IntegrityError(f"{where}: {split} has a negative count; restore the index")
        if int(self._corpus.min(initial=0)) < 0 or int(self._corpus.max(initial=0)) >= max(1, len(self.corpora)):
            raise errors.IntegrityError(f"{where}: {split} has a shard of an unknown corpus; restore the index")
        # Names are restricted, so that a forged index cannot lead out of the dataset's folder.
        for start in range(0, len(self), _NAMES_AT_ONCE):
            names = self.names.slice(start, _NAMES_AT_ONCE)
            bad = np.flatnonzero(~_are_names(names, split))
            if len(bad):
                name = names[int(bad[0])].as_py()
                raise errors.IntegrityError(f"{where}: {name!r} is not a shard name of {split}; restore the index")
        # Shards hold line numbers, so no two of a corpus are equal: a copy of one would count its lines twice.
        contents = [self.of_corpus(corpus).batch.column("sha256") for corpus in self.corpora]
        for same, columns in (("name", [self.names]), ("content", contents)):
            if any(map(_has_duplicates, columns)):
                raise errors.IntegrityError(f"{where}: {split} lists a shard twice (same {same}); restore the index")

    def _with(self, batch: pa.RecordBatch) -> "ShardTable":
        return ShardTable(batch, self.columns, self.corpora)


def schema(columns: Sequence[str]) -> pa.Schema:
    """Returns the schema of the table of a dataset with these columns."""
    types = {
        "name": pa.string(),
        "rows": pa.int64(),
        **{f"{_TOKENS}{column}": pa.int64() for column in columns},
        "size_bytes": pa.int64(),
        "sha256": pa.binary(_SHA256_BYTES),
        "corpus": pa.int32(),
    }
    return pa.schema([pa.field(name, of_type, nullable=False) for name, of_type in types.items()])


def write(tables: Sequence[ShardTable], corpora: Sequence[str]) -> bytes:
    """Returns the file of the tables of all splits, one after the other; equal tables give equal bytes.

    `corpora` are the names that its column `corpus` numbers.
    """
    columns = tables[0].columns
    numbered = []
    for table in tables:
        # Each table may number the corpora in its own way.
        numbers = np.array([corpora.index(corpus) for corpus in table.corpora], np.int32)
        codes = numbers[table.batch.column("corpus").to_numpy()] if len(table) else np.empty(0, np.int32)
        arrays = [table.batch.column(name) for name in table.batch.schema.names[:-1]]
        numbered.append(pa.record_batch([*arrays, pa.array(codes, pa.int32())], schema=schema(columns)))
    batch = pa.concat_batches(numbered)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression=None)) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def read(
    data: pa.Buffer, num_shards: Mapping[str, int], columns: Sequence[str], corpora: Sequence[str], where: str
) -> dict[str, ShardTable]:
    """Returns the tables of all splits, as views of a file whose hash was compared.

    Args:
        data: the file.
        num_shards: by split, in the order in which they were written.
        columns: of the dataset.
        corpora: the names that the column `corpus` numbers.
        where: names the file in errors.

    Raises:
        IntegrityError: it is not such a file.
    """
    try:
        batch = arrow_file.read_batch(data, schema(columns))
    except arrow_file.FormatError as error:
        raise errors.IntegrityError(f"{where}: {error}; restore it, or prepare again") from error
    if batch.num_rows != sum(num_shards.values()):
        raise errors.IntegrityError(
            f"{where}: expected {sum(num_shards.values())} shards, found {batch.num_rows}; restore it, or prepare again"
        )
    whole = ShardTable(batch, columns, corpora)
    starts = itertools.accumulate(num_shards.values(), initial=0)
    return {
        split: whole[start : start + size] for (split, size), start in zip(num_shards.items(), starts, strict=False)
    }


def _are_names(names: pa.StringArray, split: str) -> npt.NDArray[np.bool_]:
    """Returns for each name whether it is one of a shard: the split, a plain file name, and its ending.

    On the bytes of all names at once. Arrow's regular expressions would do, but loading its functions takes each rank
    longer, and more memory, than all else of a dataset.
    """
    starts, values = _bytes_of(names)
    prefix, ending = f"{split}/".encode(), b".arrow"
    is_other = np.ones(256, bool)
    is_other[np.frombuffer(_NAME_BYTES, np.uint8)] = False
    # At least one character between the two.
    are_names = np.diff(starts) > len(prefix) + len(ending)
    begins, ends = starts[:-1][are_names], starts[1:][are_names]
    is_name = np.ones(len(begins), bool)
    for index, byte in enumerate(prefix):
        is_name &= values[begins + index] == byte
    for index, byte in enumerate(reversed(ending), 1):
        is_name &= values[ends - index] == byte
    # No dot at the beginning of the file name: neither `..` nor a hidden file.
    is_name &= values[begins + len(prefix)] != ord(".")
    # One byte of a name is none of a file name: the slash after the split.
    others = np.flatnonzero(is_other[values[starts[0] : starts[-1]]]) + starts[0]
    num_others = np.bincount(np.searchsorted(starts, others, side="right") - 1, minlength=len(names))
    is_name &= num_others[are_names] == 1
    are_names[are_names] = is_name
    return are_names


def _has_duplicates(column: pa.Array) -> bool:
    """Returns whether two values are equal: their hashes are compared, and the values only where two of them are."""
    hashes = np.empty(len(column), np.uint64)
    for start in range(0, len(column), _NAMES_AT_ONCE):
        block = column.slice(start, _NAMES_AT_ONCE)
        hashes[start : start + len(block)] = _hashes(block)
    hashes.sort()
    if not (hashes[1:] == hashes[:-1]).any():
        return False
    return len(set(column.to_pylist())) < len(column)


def _hashes(column: pa.Array) -> npt.NDArray[np.uint64]:
    """Returns a hash of each value; values of less than eight bytes have one by their length alone."""
    starts, values = _bytes_of(column)
    lengths = np.diff(starts)
    hashes = lengths.astype(np.uint64)
    # The eight bytes from each on: values are hashed by words, the last of which may overlap the one before.
    words = np.ndarray(max(0, len(values) - _WORD_BYTES + 1), np.uint64, values.data, strides=(1,))
    has_word = lengths >= _WORD_BYTES
    hashes[has_word] = _mix(hashes[has_word], words[starts[1:][has_word] - _WORD_BYTES])
    for begin in range(0, int(lengths.max(initial=0)) - _WORD_BYTES + 1, _WORD_BYTES):
        has_word = lengths >= begin + _WORD_BYTES
        hashes[has_word] = _mix(hashes[has_word], words[starts[:-1][has_word] + begin])
    return hashes


def _mix(hashes: npt.NDArray[np.uint64], words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    # Wraps around at 2^64, as a hash may; the shift brings the upper bits down, where a product loses nothing of them.
    mixed: npt.NDArray[np.uint64] = hashes ^ words
    mixed *= _MULTIPLIER
    mixed ^= mixed >> _SHIFT
    return mixed


def _bytes_of(column: pa.Array) -> tuple[Array, npt.NDArray[np.uint8]]:
    """Returns where each value of a column of text or bytes starts, the end of the last one, and the bytes of all."""
    if pa.types.is_fixed_size_binary(column.type):
        width = column.type.byte_width
        starts = np.arange(column.offset, column.offset + len(column) + 1, dtype=np.int64) * width
        return starts, np.frombuffer(column.buffers()[1] or b"", np.uint8)
    _, offsets, values = column.buffers()
    starts = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1].astype(np.int64)
    return starts, np.frombuffer(values or b"", np.uint8)


def is_sha256(text: str) -> bool:
    """Returns whether a text is a SHA-256 in hexadecimal digits, as the table holds it."""
    return _SHA256.fullmatch(text) is not None
