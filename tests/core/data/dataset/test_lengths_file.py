"""Lengths beside the shards: the same plan of batches, without a shard opened."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from core import errors
from core.data.batching import buckets
from core.data.dataset import arrow_file, dataset_index, lengths_file, open_shards, shard_table, shards
from core.storage import commit, location

SIZES = {"source": 100, "target": 1 << 17}


def pairs(num: int) -> dict[str, list[list[int]]]:
    """Pairs of different lengths, some of them empty."""
    return {"source": [[5] * (7 * n % 11) for n in range(num)], "target": [[6] * (5 * n % 13) for n in range(num)]}


def make_split(
    folder: Path, parts: list[int], group: int, opened: open_shards.OpenShards | None = None
) -> tuple[shards.Split, list[dataset_index.LengthsRecord]]:
    """Returns a split of pairs in shards of so many rows, with a file of lengths for each `group` of shards."""
    root = location.Location.parse(str(folder))
    records, lengths, files = [], [], []
    for number, num_rows in enumerate(parts):
        rows = pairs(num_rows)
        first = sum(parts[:number])
        data = shards.encode_shard(rows, range(first, first + num_rows), SIZES)
        file = commit.put_content(root, f"train/part-{number:05d}", ".arrow", data)
        tokens = {column: sum(map(len, side)) for column, side in rows.items()}
        records.append(shard_table.ShardRecord(file.name, num_rows, tokens, file.size_bytes, file.sha256))
        expected = arrow_file.Expected(file.name, file.size_bytes, file.sha256, num_rows, tokens, SIZES)
        lengths.append(lengths_file.of_shard(arrow_file.read_shard(root.join(file.name), expected)))
    for start in range(0, len(parts), group or 1):
        if group:
            data = lengths_file.write(lengths[start : start + group])
            file = commit.put_content(root, f"train/lengths-{start:05d}", ".arrow", data)
            files.append(dataset_index.LengthsRecord(file, sum(parts[start : start + group])))
    table = shard_table.ShardTable.of(records, SIZES)
    return shards.Split(root, table, SIZES, verify=True, lengths=files, opened=opened), files


def plan(split: shards.Split) -> list[Any]:
    return [(batch.lines.tolist(), batch.num_targets) for batch in buckets.plan(split, 3, 1, batch_tokens=40)]


@pytest.mark.parametrize("group", [1, 2, 5])
def test_lengths_of_any_range_are_those_of_the_shards(tmp_path: Path, group: int) -> None:
    parts = [3, 0, 70, 1, 0]
    without, _ = make_split(tmp_path, parts, 0)
    split, _ = make_split(tmp_path, parts, group)
    for start, stop in ((0, 74), (0, 0), (2, 4), (3, 73), (72, 74), (73, 74)):
        expected, found = without.lengths(start, stop), split.lengths(start, stop)
        assert {column: values.tolist() for column, values in found.items()} == {
            column: values.tolist() for column, values in expected.items()
        }
        assert {values.dtype for values in found.values()} == {np.dtype(np.int32)}


def test_batches_are_planned_without_a_shard_opened(tmp_path: Path) -> None:
    parts = [40, 90, 5, 200]
    opened, opened_without = open_shards.OpenShards(), open_shards.OpenShards()
    without, _ = make_split(tmp_path, parts, 0, opened_without)
    split, _ = make_split(tmp_path, parts, 2, opened)
    assert plan(split) == plan(without)
    assert (len(opened), len(opened_without)) == (0, 4)


def test_the_least_recently_used_shards_are_closed(tmp_path: Path) -> None:
    opened = open_shards.OpenShards(most=2)
    split, _ = make_split(tmp_path, [2, 2, 2, 2], 1, opened)
    all_rows = [row.tolist() for row in split.rows(np.arange(8), "target")]
    assert [row.tolist() for row in split.rows(np.array([0, 6, 1, 7, 3]), "target")] == [
        all_rows[line] for line in (0, 6, 1, 7, 3)
    ]
    assert len(opened) == 2
    kept = split.shard(3)
    split.shard(0)
    split.shard(3)
    split.shard(1)  # closes shard 0, which was used before shard 3
    assert split.shard(3) is kept
    assert split.shard(0) is not kept


def test_a_shard_that_was_closed_is_verified_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verified: list[bool] = []
    open_shard = arrow_file.open_shard

    def record(file: location.Location, expected: arrow_file.Expected, verify: bool, _: object) -> arrow_file.Shard:
        verified.append(verify)
        return open_shard(file, expected, verify)

    split, _ = make_split(tmp_path, [2, 2], 1, open_shards.OpenShards(most=1))
    monkeypatch.setattr(arrow_file, "open_shard", record)
    for number in (0, 1, 0, 1):
        split.shard(number)
    assert verified == [True, True, False, False]


def test_damaged_lengths_are_refused(tmp_path: Path) -> None:
    split, (record,) = make_split(tmp_path, [40], 1)
    file = tmp_path / record.file.name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(errors.IntegrityError, match=r"lengths-00000-.*\.arrow: expected SHA-256"):
        split.lengths(0, 1)
    with pytest.raises(errors.IntegrityError, match="lengths-00000"):
        split.verify()


def test_lengths_of_other_shards_are_refused_whatever_their_hash(tmp_path: Path) -> None:
    split, _ = make_split(tmp_path, [40], 1)
    other, files = make_split(tmp_path / "other", [30], 1)
    wrong = [dataclasses.replace(files[0], rows=40)]
    split = shards.Split(
        location.Location.parse(str(tmp_path / "other")), split._table, SIZES, verify=True, lengths=wrong
    )
    assert other.lengths(0, 1)
    with pytest.raises(errors.IntegrityError, match=r"expected 40 rows of .* tokens, found 30"):
        split.lengths(0, 1)


def test_files_that_hold_no_lengths_are_refused() -> None:
    expected = lengths_file.Expected("x.arrow", 1, {"source": 3, "target": 2})
    shard = {"source": np.array([3], np.int32), "target": np.array([2], np.int32)}
    data = lengths_file.write([shard])
    found = lengths_file.read(pa.py_buffer(data), ("source", "target"), expected)
    assert {column: values.tolist() for column, values in found.items()} == {"source": [3], "target": [2]}
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, pa.schema([])) as writer:
        writer.write_batch(pa.record_batch([], schema=pa.schema([])))
    unreadable, other = r"is not a readable Arrow IPC file \(.+\)", r"expected columns \(source: .+\), found \(\)"
    for wrong, told in ((b"", unreadable), (data[:-1], unreadable), (bytes(sink.getvalue()), other)):
        with pytest.raises(errors.IntegrityError, match=rf"x\.arrow: {told}; restore it"):
            lengths_file.read(pa.py_buffer(wrong), ("source", "target"), expected)
    with pytest.raises(errors.IntegrityError, match=r"x\.arrow: expected columns \(source: uint16 not null\)"):
        lengths_file.read(pa.py_buffer(data), ("source",), expected)


@pytest.mark.parametrize(("longest", "bytes_a_row"), [(65_535, 2), (65_536, 4)])
def test_lengths_take_the_narrowest_type(longest: int, bytes_a_row: int) -> None:
    shard = {"source": np.array([0, longest] * 5000, np.int32), "target": np.zeros(10_000, np.int32)}
    data = lengths_file.write([shard])
    assert 0 <= len(data) - 2 * 10_000 * bytes_a_row < 1500
