"""Arrow IPC files whose buffers are not compressed, as all that we write.

Arrow decompresses when a batch is read, so that a small file of others could fill the memory.
"""

import struct
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

_END_BYTES = 10  # the length of the footer and "ARROW1", which end a file
_PREFIX_BYTES = 8  # the marker of a message and the length of its metadata
_BLOCK_BYTES = 24  # of the struct Block in Arrow's File.fbs, which begins with the offset of a batch
_BATCHES_FIELD = 3  # of the table Footer in File.fbs
_COMPRESSION_FIELD = 3  # of the table RecordBatch in Arrow's Message.fbs
_HEADER_FIELD = 2  # of the table Message


def open_file(data: Any) -> pa.ipc.RecordBatchFileReader:
    """Opens an Arrow IPC file in a buffer or bytes.

    Raises:
        pa.ArrowInvalid: it is none, or one of its batches has compressed buffers.
    """
    try:
        buffer = pa.py_buffer(data)
        reader = pa.ipc.open_file(buffer)
        _ = reader.schema.names  # for its error: names that are not UTF-8
        if any(_are_compressed(memoryview(buffer))):
            raise pa.ArrowInvalid("expected uncompressed buffers, found compressed ones")
    except (struct.error, UnicodeDecodeError) as error:
        raise pa.ArrowInvalid(str(error)) from error
    return reader


def _are_compressed(data: memoryview) -> Iterator[bool]:
    """Tells for each record batch if its buffers are compressed, before any is decompressed.

    Arrow's library does not expose the field, so the flatbuffers are parsed here: the footer, which says where the
    batches are, and the metadata of each. What is not valid in them Arrow refuses, before or after.

    Source: Apache Arrow, Columnar format, File.fbs and Message.fbs; FlatBuffers, Internals (tables, vtables, vectors).
    """
    end = len(data) - _END_BYTES
    footer = end - struct.unpack_from("<i", data, end)[0]
    blocks = _field(data, _follow(data, footer), _BATCHES_FIELD)
    if blocks is None:
        return
    vector = _follow(data, blocks)
    for number in range(struct.unpack_from("<I", data, vector)[0]):
        # The blocks come after their number.
        metadata = struct.unpack_from("<q", data, vector + 4 + _BLOCK_BYTES * number)[0] + _PREFIX_BYTES
        if not 0 < metadata < footer:
            raise pa.ArrowInvalid("expected a record batch before the footer")
        header = _field(data, _follow(data, metadata), _HEADER_FIELD)
        yield header is not None and _field(data, _follow(data, header), _COMPRESSION_FIELD) is not None


def _follow(data: memoryview, position: int) -> int:
    """Returns what the offset at a position of a flatbuffer points to."""
    return position + int(struct.unpack_from("<I", data, position)[0])


def _field(data: memoryview, table: int, number: int) -> int | None:
    """Returns the position of a field of a flatbuffer's table; None if it is absent."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    entry = 4 + 2 * number  # after the sizes of vtable and table
    if entry >= struct.unpack_from("<H", data, vtable)[0]:
        return None
    offset = struct.unpack_from("<H", data, vtable + entry)[0]
    return table + offset if offset else None
