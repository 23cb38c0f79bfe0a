"""Shards: round trips without a copy, and detection of damage before use."""

import errno
import gc
import random
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from core import errors
from core.data.batching import lanes
from core.data.dataset import arrow_file, shard_table, shards
from core.storage import commit, location

ROWS = [[5, 6, 7], [], [300], [1, 2]]
SIZES = {"text": 301}


def put(
    folder: Path, data: bytes, rows: int, tokens: dict[str, int], sizes: dict[str, int]
) -> tuple[location.Location, arrow_file.Expected]:
    record = commit.put_content(location.Location.parse(str(folder)), "train/part-00000", ".arrow", data)
    file = location.Location.parse(str(folder)).join(record.name)
    return file, arrow_file.Expected(str(file), record.size_bytes, record.sha256, rows, tokens, sizes)


def text_split(folder: Path, parts: Sequence[list[list[int]]], size: int = 301) -> shards.Split:
    first = 0
    records = []
    for rows in parts:
        data = shards.encode_shard({"text": rows}, range(first, first + len(rows)), {"text": size})
        file, expected = put(folder, data, len(rows), {"text": sum(map(len, rows))}, {"text": size})
        name = f"train/{file.name}"
        records.append(
            shard_table.ShardRecord(name, len(rows), dict(expected.tokens), expected.size_bytes, expected.sha256)
        )
        first += len(rows)
    table = shard_table.ShardTable.of(records, ("text",))
    return shards.Split(location.Location.parse(str(folder)), table, {"text": size}, verify=True)


@pytest.mark.parametrize(("size", "width"), [(301, np.uint16), (1 << 16, np.uint16), ((1 << 16) + 1, np.uint32)])
def test_shard_round_trip_in_the_narrowest_type(tmp_path: Path, size: int, width: type) -> None:
    split = text_split(tmp_path, [ROWS, [[9]]], size)
    rows = split.rows(np.arange(5), "text")
    assert [row.tolist() for row in rows] == [*ROWS, [9]]
    assert {row.dtype for row in rows} == {np.dtype(width)}
    assert split.num_lines == 5
    assert split.num_tokens("text") == 7


def test_rows_are_in_the_order_of_the_indices(tmp_path: Path) -> None:
    split = text_split(tmp_path, [ROWS, [[9], [8]]])
    indices = np.array([5, 0, 4, 2])
    assert [row.tolist() for row in split.rows(indices, "text")] == [[8], [5, 6, 7], [9], [300]]
    assert [split.shard(number).lines.tolist() for number in (0, 1)] == [[0, 1, 2, 3], [4, 5]]


def test_lengths_across_shards(tmp_path: Path) -> None:
    split = text_split(tmp_path, [ROWS, [], [[9], [8, 8]]])
    for start in range(7):
        for stop in range(start, 7):
            assert split.lengths(start, stop)["text"].tolist() == [3, 0, 1, 2, 1, 2][start:stop]


def test_stream_is_the_concatenation_of_all_rows(tmp_path: Path) -> None:
    stream = text_split(tmp_path, [ROWS, [[], []], [[9], [8, 8]], [[4]]]).stream()
    whole = [5, 6, 7, 300, 1, 2, 9, 8, 8, 4]
    backward = lanes.ReversedStream(stream)
    assert len(stream) == len(backward) == len(whole)
    for start in range(len(whole) + 1):
        for stop in range(start, len(whole) + 2):
            assert stream[start:stop].tolist() == whole[start:stop]
            assert backward[start:stop].tolist() == whole[::-1][start:stop]


def test_stream_within_a_shard_is_a_view_of_the_mapping(tmp_path: Path) -> None:
    split = text_split(tmp_path, [ROWS, [[9]]])
    gc.collect()
    before = pa.total_allocated_bytes()
    values = split.shard(0).sides["text"].values
    assert np.shares_memory(split.stream()[1:4], values)
    assert not values.flags.writeable
    assert pa.total_allocated_bytes() == before


def test_open_shards_have_no_file_descriptors(tmp_path: Path) -> None:
    split = text_split(tmp_path, [[[number]] for number in range(50)])
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    split.verify()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_equal_rows_give_equal_bytes() -> None:
    def encode(rows: object) -> bytes:
        return shards.encode_shard({"text": rows}, range(4), SIZES)  # type: ignore[dict-item]

    assert encode(ROWS) == encode(shards.ragged(ROWS))
    assert encode(ROWS) == encode(shards.join([shards.ragged(ROWS[:1]), shards.ragged([]), shards.ragged(ROWS[1:])]))


def test_ids_outside_the_vocabulary_fail_an_assertion() -> None:
    with pytest.raises(AssertionError, match="out of range"):
        shards.encode_shard({"text": [[301]]}, [0], SIZES)


@pytest.fixture
def good(tmp_path: Path) -> tuple[location.Location, arrow_file.Expected, bytes]:
    data = shards.encode_shard({"text": ROWS}, range(4), SIZES)
    file, expected = put(tmp_path, data, 4, {"text": 6}, SIZES)
    return file, expected, data


Good = tuple[location.Location, arrow_file.Expected, bytes]


def test_every_flipped_bit_and_truncation_is_detected(good: Good) -> None:
    file, expected, data = good
    chance = random.Random(0)
    for _ in range(200):
        position = chance.randrange(len(data))
        flipped = bytearray(data)
        flipped[position] ^= 1 << chance.randrange(8)
        file.path.write_bytes(flipped)
        with pytest.raises(errors.IntegrityError, match=f"expected SHA-256 {expected.sha256}, found "):
            arrow_file.open_shard(file, expected, verify=True)
    for _ in range(50):
        file.path.write_bytes(data[: chance.randrange(len(data))])
        with pytest.raises(errors.IntegrityError, match=f"expected {len(data)} bytes"):
            arrow_file.open_shard(file, expected, verify=True)


def batch_of(shape: pa.Schema, rows: list[object], lines: list[int | None]) -> pa.RecordBatch:
    return pa.record_batch([pa.array(rows, shape.field(0).type), pa.array(lines, pa.int64())], schema=shape)


def as_file(batches: list[pa.RecordBatch], compression: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(sink, batches[0].schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return bytes(sink.getvalue())


def as_stream(batches: list[pa.RecordBatch]) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return bytes(sink.getvalue())


def moved_batch(data: bytes, start: int, offset: int) -> bytes:
    """Returns a file whose footer says that the batch at `start` begins elsewhere."""
    footer = len(data) - 10 - int.from_bytes(data[-10:-6], "little")
    position = data.index(struct.pack("<q", start), footer)
    return data[:position] + struct.pack("<q", offset) + data[position + 8 :]


def with_batch_at(offset: int) -> bytes:
    """Returns a file whose footer says that its only batch is elsewhere."""
    batch = batch_of(VALID, list(ROWS), [0, 1, 2, 3])
    data = as_file([batch])
    return moved_batch(data, data.index(bytes(batch.serialize())), offset)


def with_another_batch_before(batch: pa.RecordBatch) -> bytes:
    """Returns a file of a compressed batch after a plain one, of which its footer names the compressed one alone."""
    plain, packed, message = as_file([batch]), as_file([batch], "zstd"), bytes(batch.serialize())
    start = plain.index(message)
    moved = moved_batch(packed, start, start + len(message))
    return moved[:start] + message + moved[start:]


VALID = arrow_file.schema(SIZES)
NULLABLE = pa.schema([pa.field("text", pa.large_list(pa.uint16())), pa.field("line", pa.int64())])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (as_stream([batch_of(VALID, list(ROWS), [0, 1, 2, 3])]), "not a readable Arrow IPC file"),
        (b"\0" * 500, "not a readable Arrow IPC file"),
        (b"", "not a readable Arrow IPC file"),
        (as_file([batch_of(NULLABLE, list(ROWS), [0, 1, 2, 3])]), r"expected columns .* not null.*, found"),
        (as_file([batch_of(VALID.with_metadata({"a": "b"}), list(ROWS), [0, 1, 2, 3])]), "with metadata"),
        (as_file([batch_of(VALID, list(ROWS), [0, 1, 2, 3])], "zstd"), "found compressed ones"),
        (with_another_batch_before(batch_of(VALID, list(ROWS), [0, 1, 2, 3])), "found compressed ones"),
        (as_file([batch_of(VALID, list(ROWS), [0, 1, 2, 3])] * 2), "expected one record batch, found 2"),
        (as_file([batch_of(VALID, list(ROWS[:3]), [0, 1, 2])]), "expected 4 rows, found 3"),
        (as_file([batch_of(VALID, [[1]] * 4, [0, 1, 2, 3])]), "expected 6 tokens, found 4"),
        (as_file([batch_of(VALID, [[301] * 6, [], [], []], [0, 1, 2, 3])]), "expected ids below 301, found 301"),
        (as_file([batch_of(VALID, list(ROWS), [0, 1, 2, None])]), "expected no nulls"),
        (as_file([batch_of(VALID, [[1] * 6, None, [], []], [0, 1, 2, 3])]), "expected no nulls"),
        (as_file([batch_of(VALID, [[1, 1, None, 1, 1, 1], [], [], []], [0, 1, 2, 3])]), "expected no nulls"),
        (with_batch_at(1 << 40), "expected a record batch before the footer"),
        (with_batch_at(-8), "expected a record batch before the footer"),
    ],
)
def test_foreign_arrow_files_with_a_valid_hash_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    file, expected = put(tmp_path, data, 4, {"text": 6}, SIZES)
    with pytest.raises(errors.IntegrityError, match=message):
        arrow_file.open_shard(file, expected, verify=True)


@pytest.mark.parametrize(
    "break_it",
    [
        lambda offsets: [0, 4, 3, 6, 6],
        lambda offsets: [0, 3, 3, 4, 1 << 40],
        lambda offsets: [-8, 3, 3, 4, 6],
        lambda offsets: [1, 3, 3, 4, 6],
    ],
)
def test_invalid_offsets_are_refused(tmp_path: Path, break_it: Callable[[list[int]], list[int]]) -> None:
    data = shards.encode_shard({"text": ROWS}, range(4), SIZES)
    before = np.array([0, 3, 3, 4, 6], dtype=np.int64).tobytes()
    assert data.count(before) == 1
    data = data.replace(before, np.array(break_it([0, 3, 3, 4, 6]), dtype=np.int64).tobytes())
    file, expected = put(tmp_path, data, 4, {"text": 6}, SIZES)
    with pytest.raises(errors.IntegrityError):
        arrow_file.open_shard(file, expected, verify=True)


def test_empty_shard_is_valid(tmp_path: Path) -> None:
    data = shards.encode_shard({"source": [], "target": []}, [], {"source": 9, "target": 9})
    file, expected = put(tmp_path, data, 0, {"source": 0, "target": 0}, {"source": 9, "target": 9})
    assert len(arrow_file.open_shard(file, expected, verify=True).lines) == 0


def test_missing_shard_is_reported_by_name(good: Good) -> None:
    file, expected, _ = good
    file.remove()
    with pytest.raises(errors.IntegrityError, match=r"part-00000-.*: is missing; restore it"):
        arrow_file.open_shard(file, expected, verify=True)


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.ENOMEM, "raise vm.max_map_count"), (errno.EIO, "check the file")]
)
def test_a_shard_that_cannot_be_mapped_is_an_error_of_the_storage(
    good: Good, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    file, expected, _ = good

    def fail(*_: object) -> None:
        raise OSError(number, "fails")

    monkeypatch.setattr(pa, "memory_map", fail)
    with pytest.raises(errors.StorageError, match=rf"cannot be mapped \(.*fails\); {remedy}"):
        arrow_file.open_shard(file, expected, verify=True)
