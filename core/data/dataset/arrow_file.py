"""The file of a shard: Arrow IPC, whose buffers are the token ids, memory-mapped without a copy.

The file has one uncompressed record batch: a list column of token ids for each side of the corpus, and the line number
of each row in the source. The value buffer of a list column is the token stream, its offsets are the rows. Nothing else
is accepted: no other types, nulls, metadata or compression.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from core.data import uncompressed_arrow
from core.data.dataset import mapped_file
from core.storage import location, node_cache

LINE = "line"


class FormatError(Exception):
    """A file that is not one that we wrote; the message says what differs."""


@dataclass(frozen=True)
class Side:
    """One column of a shard: the ids of all rows, and the offset of each row in them (and the end)."""

    values: npt.NDArray[Any]
    offsets: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Shard:
    """The columns of a mapped file; the arrays are views of the mapping and keep it open."""

    sides: Mapping[str, Side]
    lines: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Expected:
    """Expected properties of a file, from the index; `where` names it in error messages."""

    where: str
    size_bytes: int
    sha256: str
    rows: int
    tokens: Mapping[str, int]
    vocabulary_sizes: Mapping[str, int]


def schema(vocabulary_sizes: Mapping[str, int]) -> pa.Schema:
    """Returns the schema of a shard: ids of the narrowest type for each vocabulary, and line numbers."""
    sides = [
        pa.field(name, pa.large_list(pa.field("item", id_type(size), nullable=False)), nullable=False)
        for name, size in vocabulary_sizes.items()
    ]
    return pa.schema([*sides, pa.field(LINE, pa.int64(), nullable=False)])


def id_type(vocabulary_size: int) -> pa.DataType:
    """Returns the Arrow type of ids below `vocabulary_size`."""
    return pa.uint16() if vocabulary_size <= 1 << 16 else pa.uint32()


def write(sides: Mapping[str, Side], lines: npt.NDArray[np.int64], vocabulary_sizes: Mapping[str, int]) -> bytes:
    """Returns the bytes of a shard; equal rows give equal bytes."""
    shape = schema(vocabulary_sizes)
    columns = [
        pa.LargeListArray.from_arrays(
            pa.array(side.offsets, pa.int64()), pa.array(side.values, id_type(vocabulary_sizes[name])), type=field.type
        )
        # Not strict: the schema also has the column of line numbers.
        for (name, side), field in zip(sides.items(), shape, strict=False)
    ]
    batch = pa.record_batch([*columns, pa.array(lines, pa.int64())], schema=shape)
    sink = pa.BufferOutputStream()
    # The file format, not the stream format, which cut at a border of batches reads back with fewer rows and no error.
    with pa.ipc.new_file(sink, shape, options=pa.ipc.IpcWriteOptions(compression=None)) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def open_shard(
    file: location.Location, expected: Expected, verify: bool, cache: node_cache.NodeCache | None = None
) -> Shard:
    """Maps a shard and verifies it against the index; of one in an object store the copy on this node.

    Args:
        file: the file.
        expected: its properties in the index.
        verify: also checks its SHA-256 and the range of every id, which reads all of it.
        cache: the copies on this node.

    Raises:
        IntegrityError: it does not match the index; the message has the expected and the actual value.
        StorageError: it cannot be read.
    """
    buffer = map_file(file, expected.where, expected.sha256, expected.size_bytes, verify, cache)
    return _parse(buffer, expected, verify)


def read_shard(file: location.Location, expected: Expected) -> Shard:
    """Reads and verifies a shard that is needed once; one in an object store by one request, without a copy on disk.

    Raises:
        IntegrityError: it does not match the index.
        StorageError: it cannot be read.
    """
    if file.is_local:
        return open_shard(file, expected, verify=True)
    buffer = pa.py_buffer(file.read_range(0, expected.size_bytes))
    # Before Arrow parses anything: it has no checksums, and most flipped bits read back as wrong values.
    mapped_file.check(buffer, expected.where, expected.size_bytes, expected.sha256)
    return _parse(buffer, expected, verify=True)


def map_file(
    file: location.Location,
    where: str,
    sha256: str,
    size_bytes: int,
    verify: bool,
    cache: node_cache.NodeCache | None = None,
) -> pa.Buffer:
    """Maps a file of a dataset, and verifies its size, and its hash if asked to `verify`.

    Of one in an object store the copy on this node is mapped, whose hash was compared when it was made.

    Raises:
        IntegrityError: it does not match the index.
        StorageError: it cannot be read.
    """
    if not file.is_local:
        return (cache or node_cache.NodeCache()).open(file, sha256, size_bytes, mapped_file.map_path)
    buffer = mapped_file.open_file(file.path, where)
    # Before Arrow parses anything: it has no checksums, and most flipped bits read back as wrong values.
    mapped_file.check(buffer, where, size_bytes, sha256 if verify else None)
    return buffer


def _parse(buffer: pa.Buffer, expected: Expected, verify: bool) -> Shard:
    try:
        return _read(buffer, expected, verify)
    except FormatError as error:
        raise mapped_file.damaged(expected.where, str(error)) from error


def _read(buffer: pa.Buffer, expected: Expected, verify: bool) -> Shard:
    """Returns the columns of a file, after a check of its schema, batches, rows and offsets."""
    # Also refuses ids of another width: a uint32 file with a uint16 vocabulary is not one that we wrote.
    batch = read_batch(buffer, schema(expected.vocabulary_sizes))
    if batch.num_rows != expected.rows:
        raise FormatError(f"expected {expected.rows} rows, found {batch.num_rows}")
    sides = {name: _read_side(batch.column(name), name, expected, verify) for name in expected.vocabulary_sizes}
    return Shard(sides, batch.column(LINE).to_numpy(zero_copy_only=True))


def read_batch(buffer: pa.Buffer, *shapes: pa.Schema) -> pa.RecordBatch:
    """Returns the only record batch of an Arrow IPC file, which is uncompressed, so that its columns are views of it.

    Its schema must be one of `shapes`.

    Raises:
        FormatError: the file has another schema, several batches, compressed buffers, or nulls; or is none.
    """
    try:
        reader = uncompressed_arrow.open_file(buffer)
        if not any(reader.schema.equals(shape, check_metadata=True) for shape in shapes):
            raise FormatError(f"expected columns {_one_line(shapes[0])}, found {_one_line(reader.schema)}")
        # Of several batches the value buffers would not be one stream.
        if reader.num_record_batches != 1:
            raise FormatError(f"expected one record batch, found {reader.num_record_batches}")
        batch = reader.get_batch(0)
        batch.validate(full=True)  # offsets that leave the buffer would read foreign memory
    except (pa.ArrowException, OSError) as error:
        raise FormatError(f"is not a readable Arrow IPC file ({' '.join(str(error).split())[:120]})") from error
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if column.null_count:
            raise FormatError(f"column {name}: expected no nulls, found some")
    return batch


def _read_side(column: pa.LargeListArray, name: str, expected: Expected, verify: bool) -> Side:
    """Returns a column of ids, after a check of its token count and, if asked to `verify`, of the range of ids."""
    if column.values.null_count:
        raise FormatError(f"column {name}: expected no nulls, found some")
    values: npt.NDArray[Any] = column.values.to_numpy(zero_copy_only=True)
    offsets: npt.NDArray[np.int64] = column.offsets.to_numpy(zero_copy_only=True)
    # Ids before the first or after the last offset would be in the stream, but in no row.
    if len(values) != expected.tokens[name] or offsets[0] != 0 or offsets[-1] != len(values):
        raise FormatError(f"column {name}: expected {expected.tokens[name]} tokens, found {len(values)}")
    size = expected.vocabulary_sizes[name]
    # An id beyond the vocabulary fails in the embedding, on a GPU by an assertion that names no line.
    if verify and len(values) and int(values.max()) >= size:
        raise FormatError(f"column {name}: expected ids below {size}, found {int(values.max())}")
    return Side(values, offsets)


def _one_line(shape: pa.Schema) -> str:
    text = ", ".join(f"{field.name}: {field.type}{'' if field.nullable else ' not null'}" for field in shape)
    return f"({text})" + (" with metadata" if shape.metadata else "")
