"""Lengths of the rows of a split, in files beside its shards: batches are planned from them without opening a shard.

A file has the lengths of the rows of some consecutive shards, one column for each side, in the narrowest type that
holds all of them: 4 bytes a pair, where the tokens of both sides take a hundred.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from core import errors
from core.data.dataset import arrow_file

Array = npt.NDArray[np.int64]
Lengths = dict[str, npt.NDArray[np.int32]]


class Expected(NamedTuple):
    """Expected properties of a file, from the index; `where` names it in error messages."""

    where: str
    rows: int
    tokens: Mapping[str, int]


def of_shard(shard: arrow_file.Shard) -> Lengths:
    """Returns the lengths of the rows of a shard, by column."""
    return {column: np.diff(side.offsets).astype(np.int32) for column, side in shard.sides.items()}


def write(shards: Sequence[Lengths]) -> bytes:
    """Returns the file of the lengths of the rows of some shards; equal lengths give equal bytes."""
    lengths = {column: np.concatenate([shard[column] for shard in shards]) for column in shards[0]}
    longest = max(int(values.max(initial=0)) for values in lengths.values())
    shape = _schema(tuple(lengths), arrow_file.id_type(longest + 1))
    width = shape.types[0]
    arrays = [pa.array(values.astype(width.to_pandas_dtype()), width) for values in lengths.values()]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, shape, options=pa.ipc.IpcWriteOptions(compression=None)) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=shape))
    return bytes(sink.getvalue())


def read(data: pa.Buffer, columns: Sequence[str], expected: Expected) -> dict[str, npt.NDArray[Any]]:
    """Returns the lengths in a file as views of it.

    Raises:
        IntegrityError: it does not match the index.
    """
    try:
        batch = _read_batch(data, columns)
    except arrow_file.FormatError as error:
        raise errors.IntegrityError(f"{expected.where}: {error}; restore it, or prepare again") from error
    lengths: dict[str, npt.NDArray[Any]] = {
        column: values.to_numpy(zero_copy_only=True) for column, values in zip(columns, batch.columns, strict=True)
    }
    tokens = {column: int(values.sum(dtype=np.int64)) for column, values in lengths.items()}
    if (batch.num_rows, tokens) != (expected.rows, dict(expected.tokens)):
        raise errors.IntegrityError(
            f"{expected.where}: expected {expected.rows} rows of {dict(expected.tokens)} tokens, "
            f"found {batch.num_rows} of {tokens}; restore it, or prepare again"
        )
    return lengths


class RowLengths:
    """The lengths of all rows of a split; each file is opened when it is first used.

    Args:
        row_starts: the first row of each file, and the end of the last.
        open_file: returns the lengths in a file.
    """

    def __init__(self, row_starts: Array, open_file: Callable[[int], Mapping[str, npt.NDArray[Any]]]) -> None:
        self._row_starts = row_starts
        self._open_file = open_file
        self._opened: dict[int, Mapping[str, npt.NDArray[Any]]] = {}

    def read(self, start: int, stop: int, columns: Sequence[str]) -> Lengths:
        """Returns the length of each row in a range, by column."""
        lengths: dict[str, list[npt.NDArray[Any]]] = {column: [np.empty(0, np.int32)] for column in columns}
        for number, begin, end in slices(self._row_starts, start, stop):
            if number not in self._opened:
                self._opened[number] = self._open_file(number)
            for column in columns:
                lengths[column].append(self._opened[number][column][begin:end])
        return {column: np.concatenate(arrays, dtype=np.int32) for column, arrays in lengths.items()}


def slices(starts: Array, start: int, stop: int) -> "list[tuple[int, int, int]]":
    """Returns (number, start, stop) of the slices of consecutive ranges that a range covers, without empty ones."""
    covered = []
    number = int(np.searchsorted(starts, start, side="right")) - 1
    while start < stop and number + 1 < len(starts):
        end = min(stop, int(starts[number + 1]))
        # An empty range in the middle covers nothing, but must not end the loop.
        if end > start:
            covered.append((number, start - int(starts[number]), end - int(starts[number])))
        start, number = max(start, end), number + 1
    return covered


def _read_batch(data: pa.Buffer, columns: Sequence[str]) -> pa.RecordBatch:
    return arrow_file.read_batch(data, *(_schema(columns, width) for width in (pa.uint16(), pa.uint32())))


def _schema(columns: Sequence[str], width: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(column, width, nullable=False) for column in columns])
