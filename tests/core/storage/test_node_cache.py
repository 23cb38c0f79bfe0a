"""Copies on a node: fetched and verified once, shared by its processes, and bounded whatever happens."""

import contextlib
import dataclasses
import errno
import hashlib
import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from core import errors
from core.data.dataset import arrow_file, mapped_file, shard_table, shards
from core.storage import commit, location, node_cache

ROWS = [[5, 6, 7], [], [300], [1, 2]]
SIZES = {"text": 301}
FILE_BYTES = 1000


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(node_cache.FOLDER_VARIABLE, str(tmp_path))
    return tmp_path / f"raycurrent-{os.getuid()}"


def put(bucket: str, number: int, size_bytes: int = FILE_BYTES) -> tuple[location.Location, str]:
    data = bytes([number]) * size_bytes
    file = location.Location.parse(f"memory://{bucket}/{number}.bin")
    file.put_if_absent(data)
    return file, hashlib.sha256(data).hexdigest()


def copies(folder: Path) -> set[str]:
    return {path.stem for path in folder.iterdir() if not path.name.startswith("lock")}


def taken_bytes(folder: Path) -> int:
    """The size of all files, while other threads rename and remove them."""
    total = 0
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            total += 0 if path.name.startswith("lock") else path.stat().st_size
    return total


def shard(bucket: str) -> tuple[location.Location, arrow_file.Expected]:
    data = shards.encode_shard({"text": ROWS}, range(4), SIZES)
    root = location.Location.parse(f"memory://{bucket}")
    record = commit.put_content(root, "part", ".arrow", data)
    file = root.join(record.name)
    return file, arrow_file.Expected(str(file), record.size_bytes, record.sha256, 4, {"text": 6}, SIZES)


def test_a_shard_in_an_object_store_is_copied_once_and_verified(folder: Path) -> None:
    file, expected = shard("once")
    assert arrow_file.open_shard(file, expected, verify=True).sides["text"].values.tolist() == [5, 6, 7, 300, 1, 2]
    assert copies(folder) == {expected.sha256}
    data = file.read_bytes()
    file.remove()
    assert len(arrow_file.open_shard(file, expected, verify=True).lines) == 4
    other = dataclasses.replace(expected, sha256="0" * 64)
    file.put_if_absent(data)
    with pytest.raises(errors.IntegrityError, match="expected SHA-256 0000"):
        arrow_file.open_shard(file, other, verify=True)


def test_a_shard_that_is_needed_once_is_verified_without_a_copy(folder: Path) -> None:
    file, expected = shard("needed-once")
    assert arrow_file.read_shard(file, expected).sides["text"].values.tolist() == [5, 6, 7, 300, 1, 2]
    file.replace(file.read_bytes().replace(b"\x2c\x01", b"\x2b\x01"))
    with pytest.raises(errors.IntegrityError, match=f"expected SHA-256 {expected.sha256}"):
        arrow_file.read_shard(file, expected)
    assert not folder.exists()


@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_a_damaged_object_leaves_no_copy(folder: Path, damage: str) -> None:
    """Even a reader that does not verify, since the copy was, gets none of its bytes."""
    file, expected = shard(damage)
    data = file.read_bytes()
    file.replace(data[:-1] if damage == "cut" else data.replace(b"\x2c\x01", b"\x2b\x01"))
    with pytest.raises(errors.IntegrityError, match=f"expected SHA-256 {expected.sha256}"):
        arrow_file.open_shard(file, expected, verify=False)
    assert copies(folder) == set()


def test_the_least_recently_opened_copies_go_when_the_limit_is_reached(folder: Path) -> None:
    cache = node_cache.NodeCache(3 * FILE_BYTES)
    files = [put("least", number) for number in range(4)]
    mapped = [cache.open(*file, FILE_BYTES, mapped_file.map_path) for file in files[:3]]
    for number, (_, sha256) in enumerate(files[:3]):
        os.utime(folder / f"{sha256}.copy", (number, number))
    cache.open(*files[0], FILE_BYTES, mapped_file.map_path)  # the last use is now
    cache.open(*files[3], FILE_BYTES, mapped_file.map_path)
    assert copies(folder) == {files[number][1] for number in (0, 2, 3)}
    assert bytes(mapped[1]) == b"\x01" * FILE_BYTES, "what is mapped stays readable"
    files[1][0].replace(b"\x01" * FILE_BYTES)
    assert bytes(cache.open(*files[1], FILE_BYTES, mapped_file.map_path)) == b"\x01" * FILE_BYTES


def test_the_copies_never_take_more_than_the_limit_whoever_fetches_them(folder: Path) -> None:
    cache, sizes = node_cache.NodeCache(5 * FILE_BYTES), []
    files = [put("many", number) for number in range(40)]

    def fetch(numbers: range) -> None:
        for number in numbers:
            assert bytes(cache.open(*files[number], FILE_BYTES, mapped_file.map_path)) == bytes([number]) * FILE_BYTES
            sizes.append(taken_bytes(folder))

    threads = [threading.Thread(target=fetch, args=(range(start, 40, 4),)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sizes) == 40
    assert max(sizes) <= 5 * FILE_BYTES


def test_a_file_that_several_need_at_once_is_fetched_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, sha256 = put("together", 1)
    fetched: list[str] = []
    read_blocks = location.Location.read_blocks

    def count(self: location.Location, size_bytes: int | None = None) -> object:
        fetched.append(self.url)
        return read_blocks(self, size_bytes)

    monkeypatch.setattr(location.Location, "read_blocks", count)
    cache = node_cache.NodeCache()
    threads = [
        threading.Thread(target=cache.open, args=(file, sha256, FILE_BYTES, mapped_file.map_path)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fetched == [file.url]
    assert copies(folder) == {sha256}


def _die_while_fetching(folder: str) -> None:
    os.environ[node_cache.FOLDER_VARIABLE] = folder
    file, sha256 = put("dies", 1)
    location.Location.read_blocks = lambda *_: os.kill(os.getpid(), 9)  # type: ignore[method-assign, assignment]
    node_cache.NodeCache(2 * FILE_BYTES).open(file, sha256, FILE_BYTES, mapped_file.map_path)


def test_what_a_killed_process_reserved_is_removed_by_the_next_one_that_fetches(folder: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_die_while_fetching, args=(str(folder.parent),))
    process.start()
    process.join()
    assert process.exitcode == -9
    assert len(copies(folder)) == 1, "a file of its whole size, which counts"
    cache = node_cache.NodeCache(2 * FILE_BYTES)
    files = [put("after", number) for number in (2, 3)]
    for file in files:
        cache.open(*file, FILE_BYTES, mapped_file.map_path)
    assert copies(folder) == {sha256 for _, sha256 in files}


def test_a_file_that_does_not_fit_is_refused_with_the_setting(folder: Path) -> None:
    with pytest.raises(errors.StorageError, match=r"cluster\.cache_size_bytes: a file of 1000 bytes does not fit"):
        node_cache.NodeCache(FILE_BYTES - 1).open(*put("large", 1), FILE_BYTES, mapped_file.map_path)
    assert copies(folder) == set()


def test_a_copy_on_a_full_disk_is_an_error_that_names_the_file_and_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    file, sha256 = put("full", 1)
    match = rf"{sha256}.copy: the copy of memory://full/1.bin cannot be written \(No space left on device, \d+ bytes"
    with pytest.raises(errors.StorageError, match=match):
        node_cache.NodeCache().open(file, sha256, FILE_BYTES, mapped_file.map_path)
    assert copies(folder) == set()


def test_a_folder_of_another_user_is_not_trusted(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir()
    folder.symlink_to(folder.parent / "elsewhere")
    with pytest.raises(errors.StorageError, match="belongs to another user; set RAYCURRENT_CACHE"):
        node_cache.NodeCache().open(*put("other", 1), FILE_BYTES, mapped_file.map_path)


def test_a_split_in_an_object_store_maps_a_quarter_of_the_limit(folder: Path) -> None:
    root = location.Location.parse("memory://quarter/dataset")
    records = []
    for number in range(8):
        data = shards.encode_shard({"text": ROWS}, range(4 * number, 4 * number + 4), SIZES)
        file = commit.put_content(root, f"train/part-{number:05d}", ".arrow", data)
        records.append(shard_table.ShardRecord(file.name, 4, {"text": 6}, file.size_bytes, file.sha256))
    cache = node_cache.NodeCache(8 * records[0].size_bytes)
    dataset = shards.Dataset(root, None, {}, verify=True, cache=cache)  # type: ignore[arg-type]
    table = shard_table.ShardTable.of(records, ("text",))
    split = shards.Split(root, table, SIZES, verify=True, opened=dataset._opened, cache=cache)
    assert len(split.stream()[0:48]) == 48
    assert len(dataset._opened) == 2
    assert len(copies(folder)) == 8
