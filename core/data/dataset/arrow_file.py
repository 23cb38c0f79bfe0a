"""The file of a shard: Arrow IPC, whose buffers are the token ids, memory-mapped without a copy.

The file has one uncompressed record batch: a list column of token ids for each side of the corpus, and the line number
of each row in the source. The value buffer of a list column is the token stream, its offsets are the rows. Nothing else
is accepted: no other types, nulls, metadata or compression.
"""

import functools
import hashlib
import os
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from core import errors
from core.storage import local_files, location, private_folders, temporary

LINE = "line"
_MAGIC_BYTES = 8  # "ARROW1" and padding, before the first message
_COMPRESSION_FIELD = 3  # of the table RecordBatch in Arrow's Message.fbs
_HEADER_FIELD = 2  # of the table Message


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


def open_shard(file: location.Location, expected: Expected, verify: bool) -> Shard:
    """Maps a shard and verifies it against the index; one in an object store is copied to this machine first.

    Args:
        file: the file.
        expected: its properties in the index.
        verify: also checks its SHA-256 and the range of every id, which reads all of it.

    Raises:
        IntegrityError: it does not match the index; the message has the expected and the actual value.
        StorageError: it cannot be read.
    """
    path = file.path if file.is_local else _local_copy(file, expected)
    try:
        local_files.size_bytes(path)  # refuses what is not a regular file: opening a pipe would wait for a writer
        # Closed at once: the buffer keeps the mapping, and no file descriptor stays open for each shard.
        with pa.memory_map(str(path)) as mapped:
            buffer = mapped.read_buffer()
    except FileNotFoundError as error:
        raise errors.IntegrityError(
            f"{expected.where}: is missing; restore it, or remove the dataset and prepare again"
        ) from error
    except OSError as error:
        raise errors.StorageError(f"{expected.where}: cannot be mapped ({error}); check the file") from error
    # Before Arrow parses anything: it has no checksums, and most flipped bits read back as wrong values.
    _check_bytes(buffer, expected, verify)
    try:
        return _read(buffer, expected, verify)
    except (pa.ArrowException, OSError, struct.error) as error:
        raise _damaged(expected, f"is not a readable Arrow IPC file ({' '.join(str(error).split())[:120]})") from error


def _damaged(expected: Expected, what: str) -> errors.IntegrityError:
    return errors.IntegrityError(f"{expected.where}: {what}; restore it, or remove the dataset and prepare again")


def _check_bytes(buffer: pa.Buffer, expected: Expected, verify: bool) -> None:
    """Checks the size of a file, and its hash if asked to `verify`."""
    if buffer.size != expected.size_bytes:
        raise _damaged(expected, f"expected {expected.size_bytes} bytes, found {buffer.size}")
    if verify:
        sha256 = hashlib.sha256(memoryview(buffer)).hexdigest()
        if sha256 != expected.sha256:
            raise _damaged(expected, f"expected SHA-256 {expected.sha256}, found {sha256}")


def _read(buffer: pa.Buffer, expected: Expected, verify: bool) -> Shard:
    """Returns the columns of a file, after a check of its schema, batches, rows and offsets."""
    reader = pa.ipc.open_file(buffer)
    shape = schema(expected.vocabulary_sizes)
    # Also refuses ids of another width: a uint32 file with a uint16 vocabulary is not one that we wrote.
    if not reader.schema.equals(shape, check_metadata=True):
        raise _damaged(expected, f"expected columns {_one_line(shape)}, found {_one_line(reader.schema)}")
    # Of several batches the value buffers would not be one stream.
    if reader.num_record_batches != 1:
        raise _damaged(expected, f"expected one record batch, found {reader.num_record_batches}")
    if _is_compressed(buffer):
        raise _damaged(expected, "expected uncompressed buffers, found compressed ones")
    batch = reader.get_batch(0)
    if batch.num_rows != expected.rows:
        raise _damaged(expected, f"expected {expected.rows} rows, found {batch.num_rows}")
    batch.validate(full=True)  # offsets that leave the buffer would read foreign memory
    sides = {name: _read_side(batch.column(name), name, expected, verify) for name in expected.vocabulary_sizes}
    lines = batch.column(LINE)
    if lines.null_count:
        raise _damaged(expected, "expected no nulls, found some")
    return Shard(sides, lines.to_numpy(zero_copy_only=True))


def _read_side(column: pa.LargeListArray, name: str, expected: Expected, verify: bool) -> Side:
    """Returns a column of ids, after a check of its token count and, if asked to `verify`, of the range of ids."""
    if column.null_count or column.values.null_count:
        raise _damaged(expected, f"column {name}: expected no nulls, found some")
    values: npt.NDArray[Any] = column.values.to_numpy(zero_copy_only=True)
    offsets: npt.NDArray[np.int64] = column.offsets.to_numpy(zero_copy_only=True)
    # Ids before the first or after the last offset would be in the stream, but in no row.
    if len(values) != expected.tokens[name] or offsets[0] != 0 or offsets[-1] != len(values):
        raise _damaged(expected, f"column {name}: expected {expected.tokens[name]} tokens, found {len(values)}")
    size = expected.vocabulary_sizes[name]
    # An id beyond the vocabulary fails in the embedding, on a GPU by an assertion that names no line.
    if verify and len(values) and int(values.max()) >= size:
        raise _damaged(expected, f"column {name}: expected ids below {size}, found {int(values.max())}")
    return Side(values, offsets)


def _one_line(shape: pa.Schema) -> str:
    text = ", ".join(f"{field.name}: {field.type}{'' if field.nullable else ' not null'}" for field in shape)
    return f"({text})" + (" with metadata" if shape.metadata else "")


def _is_compressed(buffer: pa.Buffer) -> bool:
    """Tells if the first record batch has compressed buffers, before any is decompressed.

    Arrow decompresses when a batch is read, so that a small file could fill the memory. Its library does not expose the
    field, so the flatbuffer is parsed here.

    Source: Apache Arrow, Columnar format, Message.fbs; FlatBuffers, Internals (tables and vtables).
    """
    messages = pa.ipc.MessageReader.open_stream(pa.BufferReader(buffer.slice(_MAGIC_BYTES)))
    messages.read_next_message()  # the schema
    metadata = bytes(messages.read_next_message().metadata)
    message = struct.unpack_from("<I", metadata)[0]
    header = _field(metadata, message, _HEADER_FIELD)
    if header is None:
        return False
    return _field(metadata, header + struct.unpack_from("<I", metadata, header)[0], _COMPRESSION_FIELD) is not None


def _field(data: bytes, table: int, number: int) -> int | None:
    """Returns the offset of a field of a flatbuffer's table; None if it is absent."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    entry = 4 + 2 * number  # after the sizes of vtable and table
    if entry >= struct.unpack_from("<H", data, vtable)[0]:
        return None
    offset = struct.unpack_from("<H", data, vtable + entry)[0]
    return table + offset if offset else None


def _local_copy(file: location.Location, expected: Expected) -> Path:
    """Returns this machine's copy of a file in an object store, fetched once and named by its hash."""
    folder = private_folders.temporary_folder() / f"raycurrent-{os.getuid()}"
    # Private: corpora may be confidential.
    folder.mkdir(mode=0o700, exist_ok=True)
    # In a shared /tmp another user may have made the folder first, and could replace the copies.
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise errors.StorageError(f"{folder}: belongs to another user; set TMPDIR to a folder of your own")
    path = folder / f"{expected.sha256}.arrow"
    # Named by its hash, which is compared when it is copied; `verify` compares it again.
    if path.exists() and path.stat().st_size == expected.size_bytes:
        return path
    _sweep_once(folder)

    def copy(opened: BinaryIO) -> None:
        digest = hashlib.sha256()
        for block in file.read_blocks():
            digest.update(block)
            opened.write(block)
        if digest.hexdigest() != expected.sha256:
            raise _damaged(expected, f"expected SHA-256 {expected.sha256}, found {digest.hexdigest()}")

    try:
        # Several ranks of a node may copy at the same time: each renames a complete file, and all are equal.
        local_files.replace(path, copy)
    except OSError as error:
        raise errors.StorageError(
            f"{path}: the copy of {expected.where} cannot be written ({error.strerror}, "
            f"{shutil.disk_usage(folder).free} bytes are free); set TMPDIR to a folder with free space"
        ) from error
    return path


@functools.lru_cache(maxsize=1)
def _sweep_once(folder: Path) -> None:
    # Once a process: the folder may hold thousands of copies.
    temporary.sweep(folder, recursive=False)
