"""Laws of reading and writing that hold on every filesystem."""

import contextlib
import errno
import functools
import gc
import http.server
import os
import re
import socket
import threading
import weakref
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from core import errors
from core.storage import filesystems, local_files, location, retries, temporary


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "DEADLINE_S", 0.3)
    monkeypatch.setattr(retries, "FIRST_PAUSE_S", 0.01)


def names_in(folder: Path) -> list[str]:
    """Every name, those that are hidden from readers too."""
    return sorted(entry.name for entry in folder.iterdir())


def test_write_then_read_is_identity(root: location.Location) -> None:
    data = bytes(range(256)) * 5
    path = root.join("a/b c%20é", "data.bin")
    assert path.put_if_absent(data)
    assert path.read_bytes() == data
    assert path.size_bytes() == len(data)
    assert path.read_range(250, 260) == data[250:260]
    assert path.read_range(len(data) - 3, len(data) + 9) == data[-3:]
    assert path.read_range(9, 9) == path.read_range(len(data) + 1, len(data) + 2) == b""
    with path.open() as file:
        assert file.read(3) == data[:3]
        assert file.seek(-2, os.SEEK_END) == len(data) - 2
        assert file.read() == data[-2:]
        file.seek(0)
        assert b"".join(iter(functools.partial(file.read, 100), b"")) == data


def test_a_range_of_an_object_takes_one_request(s3_root: location.Location, store: Any) -> None:
    path = s3_root.join("x")
    path.put_if_absent(b"0123456789")
    for start, stop, expected in ((2, 5, b"234"), (8, 20, b"89"), (10, 12, b""), (50, 60, b"")):
        before = store.requests
        assert path.read_range(start, stop) == expected
        assert store.requests == before + 1
    s3_root.join("empty").put_if_absent(b"")
    assert s3_root.join("empty").read_range(0, 4) == b""


def test_an_object_takes_one_request_to_read_whether_it_is_there_or_not(s3_root: location.Location, store: Any) -> None:
    path = s3_root.join("x")
    path.put_if_absent(b"0123456789")
    s3_root.join("empty").put_if_absent(b"")
    with store.recording() as requests:
        assert path.read_bytes() == b"0123456789"
        assert s3_root.join("empty").read_bytes() == b""
        with path.open() as file:
            assert file.read() == b"0123456789"
            assert file.seek(-1, os.SEEK_END) == 9
            assert file.read() == b"9"
        with pytest.raises(errors.NotFoundError):
            s3_root.join("absent").read_bytes()
    assert requests.by_kind() == {"GET": 4}


@pytest.mark.parametrize("size", [7, 8, 9, 15, 16, 17, 24, 25, 40, 41, 100])
def test_an_object_of_several_blocks_is_read_whole(
    s3_root: location.Location, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(filesystems, "BLOCK_BYTES", 8)
    monkeypatch.setattr(filesystems, "RANGE_BYTES", 16)
    data = bytes(range(size))
    path = s3_root.join("x")
    path.put_if_absent(data)
    assert path.read_bytes() == data
    with path.open() as file:
        assert file.read() == data
        assert file.read() == b""
        assert file.seek(-3, os.SEEK_END) == size - 3
        assert file.read() == data[-3:]
        assert file.seek(size + 5) == size + 5
        assert file.read() == b""
        assert file.seek(-size, os.SEEK_END) == 0
        assert b"".join(iter(functools.partial(file.read, 3), b"")) == data


def test_ranges_of_a_large_object_are_fetched_at_the_same_time(
    s3_root: location.Location, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystems, "BLOCK_BYTES", 8)
    monkeypatch.setattr(filesystems, "RANGE_BYTES", 16)
    path = s3_root.join("x")
    path.put_if_absent(bytes(8 + 16 * 8))
    with store.recording(latency_s=0.2) as requests:
        path.read_bytes()
    assert requests.by_kind() == {"GET": 9, "HEAD": 1}
    assert requests.in_series() == 3


def test_put_if_absent_succeeds_once_and_replace_overwrites(root: location.Location, tmp_path: Path) -> None:
    source = tmp_path / "source-of-a-copy"
    source.write_bytes(b"copy")
    path = root.join("x")
    assert path.put_if_absent(b"one")
    assert not path.put_if_absent(b"two")
    assert not path.put_if_absent(b"one")
    assert not path.put_file_if_absent(source)
    assert path.read_bytes() == b"one"
    path.replace(b"three")
    assert path.read_bytes() == b"three"
    path.remove()
    path.remove()
    assert not path.exists()
    assert path.put_file_if_absent(source)
    assert path.read_bytes() == b"copy"


def test_exactly_one_of_many_concurrent_writers_wins(root: location.Location) -> None:
    for attempt in range(3):
        path = root.join("races", str(attempt))
        with futures.ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda who, path=path: path.put_if_absent(b"%d" % who), range(8)))
        assert sum(won) == 1
        assert path.read_bytes() == b"%d" % won.index(True)
    assert root.join("races").list_names() == ["0", "1", "2"]


def test_missing_files_raise_not_found(root: location.Location) -> None:
    missing = root.join("no/such")
    for read in (missing.read_bytes, missing.size_bytes, missing.read_json, lambda: missing.read_range(0, 1)):
        with pytest.raises(errors.NotFoundError, match="does not exist"):
            read()
    with pytest.raises(errors.NotFoundError), missing.open():
        pass
    assert not missing.exists()
    assert missing.list_names() == []
    assert missing.glob() == []


def test_a_handled_error_keeps_no_objects_alive(tmp_path: Path) -> None:
    class Large:
        """Stands for what a caller has in memory."""

    def work() -> weakref.ref[Large]:
        large = Large()
        with contextlib.suppress(errors.NotFoundError):
            location.Location.parse(str(tmp_path / "missing")).read_bytes()
        return weakref.ref(large)

    gc.disable()  # it would find it, but only when it next looks
    try:
        assert work()() is None
    finally:
        gc.enable()


def test_names_are_listed_without_caches_and_patterns_expanded(root: location.Location) -> None:
    folder = root.join("listed")
    for name in ("b.txt", "a.txt", "c.json", "deep/d.txt", "[1].txt", "1.txt"):
        assert folder.join(name).put_if_absent(b"")
        assert name.partition("/")[0] in folder.list_names()
    assert folder.list_names() == ["1.txt", "[1].txt", "a.txt", "b.txt", "c.json", "deep"]
    matches = location.Location(f"{folder.url}/*.txt").glob()
    assert [path.name for path in matches] == ["1.txt", "[1].txt", "a.txt", "b.txt"]
    assert matches[2] == folder.join("a.txt")
    assert [path.name for path in location.Location(f"{folder.url}/**/*.txt").glob()].count("d.txt") == 1
    assert folder.join("[1].txt").glob() == [folder.join("[1].txt")]
    assert folder.join("c.json").glob() == [folder.join("c.json")]
    assert folder.exists()


@pytest.mark.parametrize("text", ["{", "", '{"a": NaN}', '{"a": 1e400}', "[" * 100_000, "\xff"])
def test_invalid_json_is_an_integrity_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text, encoding="latin-1")
    with pytest.raises(errors.IntegrityError, match=r"x\.json: is not valid JSON"):
        location.Location.parse(str(tmp_path / "x.json")).read_json()


def test_a_file_where_a_folder_belongs_is_a_usage_error(tmp_path: Path) -> None:
    root = location.Location.parse(str(tmp_path))
    root.join("file").put_if_absent(b"")
    root.join("folder/x").put_if_absent(b"")
    with pytest.raises(errors.UsageError, match="is a folder; name a file"):
        root.join("folder").read_bytes()
    with pytest.raises(errors.UsageError, match="is a folder"):
        root.join("folder").size_bytes()
    with pytest.raises(errors.UsageError, match="a part of this path is a file"):
        root.join("file/below").put_if_absent(b"")


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, r"no space left: \d+ bytes are free"),
        (errno.EACCES, "access denied .*; check the owner and mode"),
        (errno.EROFS, "Read-only file system; check"),
        (errno.EIO, "Input/output error; check"),
    ],
)
def test_a_failure_at_any_step_of_a_local_write_leaves_old_or_new_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, expected: str
) -> None:
    """Fails the first, second, third … operation until a write passes; nothing is lost and no litter stays."""
    root = location.Location.parse(str(tmp_path))
    for write in ("replace", "put_if_absent"):
        path = root.join(write)
        if write == "replace":
            path.replace(b"old")
        failing = 1
        while _fails_at(failing, number, monkeypatch, lambda w=write, p=path: getattr(p, w)(b"new"), expected):
            assert not path.exists() or path.read_bytes() in (b"old", b"new")
            assert path.exists() or write == "put_if_absent"
            assert [name for name in names_in(tmp_path) if temporary.is_temporary(name)] == []
            path.remove()
            path.replace(b"old") if write == "replace" else None
            failing += 1
        assert failing >= 4
        assert path.read_bytes() == b"new"


def _fails_at(failing: int, number: int, monkeypatch: pytest.MonkeyPatch, write: Any, expected: str) -> bool:
    """Runs a write whose operation of this number fails; False once there are not so many operations."""
    done = 0

    def failing_version(real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal done
            done += 1
            if done == failing:
                raise OSError(number, os.strerror(number))
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in ("open", "fsync", "link"):
            patch.setattr(os, name, failing_version(getattr(os, name)))
        patch.setattr(Path, "replace", failing_version(Path.replace))
        try:
            write()
        except errors.StorageError as error:
            message = str(error)
        else:
            return done >= failing
    assert re.search(expected, message), message
    return True


def test_a_source_that_fails_midway_leaves_no_file(tmp_path: Path) -> None:
    def breaks_off(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(errno.EIO, "the source is gone")

    for write in (local_files.create, local_files.replace):
        with pytest.raises(OSError, match="the source is gone"):
            write(tmp_path / "x", breaks_off)
    assert names_in(tmp_path) == []


def test_a_full_disk_is_reported_as_full(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with pytest.raises(errors.StorageError, match="no space left"):
        location.Location("file:///x")._call(lambda: Path("/dev/full").write_bytes(b"x"))


def test_without_hard_links_put_if_absent_still_succeeds_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    path = location.Location.parse(str(tmp_path / "x"))
    assert path.put_if_absent(b"one")
    monkeypatch.setattr(Path, "exists", lambda self: False)
    monkeypatch.setattr(local_files, "make_folder", lambda folder: None)
    assert not path.put_if_absent(b"two")
    assert path.read_bytes() == b"one"
    assert names_in(tmp_path) == ["x"]


def test_temporary_files_of_a_killed_writer_are_not_listed(tmp_path: Path) -> None:
    local_files._write_beside(tmp_path / "x", lambda file: file.write(b"half"))
    assert len(names_in(tmp_path)) == 1
    assert location.Location.parse(str(tmp_path)).list_names() == []


def test_files_are_not_world_readable(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        location.Location.parse(str(tmp_path)).join("new/x").put_if_absent(b"")
    finally:
        os.umask(before)
    assert (tmp_path / "new/x").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o750


def test_a_busy_store_is_retried(store: Any, s3_root: location.Location) -> None:
    store.faults = ["busy", "busy"]
    assert s3_root.join("x").put_if_absent(b"one")
    assert s3_root.join("x").read_bytes() == b"one"


def test_a_write_whose_reply_was_lost_is_our_own(store: Any, s3_root: location.Location, tmp_path: Path) -> None:
    store.faults = ["lost"]
    assert s3_root.join("x").put_if_absent(b"one")
    store.faults = ["busy"]
    assert not s3_root.join("x").put_if_absent(b"two")
    for content, is_ours in ((b"one", True), (b"on", False), (b"one more", False)):
        (tmp_path / "file").write_bytes(content)
        store.faults = ["lost" if is_ours else "busy"]
        assert s3_root.join("y").put_file_if_absent(tmp_path / "file") == is_ours


@pytest.mark.usefixtures("impatient")
def test_an_outage_ends_with_a_one_line_error(store: Any, s3_root: location.Location) -> None:
    store.faults = ["busy"] * 1000
    before = store.requests
    with pytest.raises(errors.StorageError, match=r"the store failed for 0\.3 s") as caught:
        s3_root.join("x").put_if_absent(b"one")
    assert "\n" not in str(caught.value)
    # One layer of retries: pauses that double from 10 ms fit less than ten times into 300 ms.
    assert 2 <= store.requests - before <= 10


def test_a_missing_bucket_is_not_retried(store: Any) -> None:
    store.faults.clear()
    path = location.Location.parse("s3://no-such-bucket/x")
    before = store.requests
    with pytest.raises(errors.StorageError):
        path.put_if_absent(b"")
    assert store.requests - before <= 2


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> None:
        raise ImportError("Install gcsfs", name="gcsfs")

    monkeypatch.setattr("fsspec.core.url_to_fs", absent)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://localhost:1")  # none that a test before has connected to
    with pytest.raises(errors.UsageError, match=r"pip install 'raycurrent\[gcs\]'"):
        location.Location.parse("gs://bucket/x").read_bytes()


class _Pages(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status = {"/page": 200, "/away": 302}.get(self.path, 404)
        self.send_response(status)
        self.send_header("Location", "/page")
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"words")

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def web() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Pages)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.usefixtures("impatient")
def test_the_web_is_read_only_and_public(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    page = location.Location.parse(f"{web}/page")
    with pytest.raises(errors.UsageError, match="is not a public address"):
        page.read_bytes()
    for write in (lambda: page.put_if_absent(b""), lambda: page.replace(b""), page.remove):
        with pytest.raises(errors.UsageError, match="can only be read"):
            write()
    monkeypatch.setattr(filesystems, "refuse_private_host", lambda authority: None)
    with page.open() as file:
        assert file.read() == b"words"
    with pytest.raises(errors.NotFoundError):
        location.Location.parse(f"{web}/none").read_bytes()
    with pytest.raises(errors.StorageError, match="away"):
        location.Location.parse(f"{web}/away").read_bytes()


@pytest.mark.parametrize("host", ["169.254.169.254", "localhost:80", "[::1]:8080", "10.0.0.1"])
def test_addresses_of_this_network_are_refused(host: str) -> None:
    with pytest.raises(errors.UsageError, match="public"):
        filesystems.refuse_private_host(host)


def test_many_names_of_a_folder_are_deleted_and_nothing_else(root: location.Location) -> None:
    for name in ("a", "b", "c"):
        root.join("folder", name).put_if_absent(b"x")
    root.join("folder").remove_names(["a", "c", "absent"])
    assert root.join("folder").list_names() == ["b"]
    root.join("folder").remove_names([])
    # A bracket in the name of the folder is no pattern.
    root.join("folder[ab]", "a").put_if_absent(b"x")
    root.join("folder[ab]").remove_names(["a"])
    assert root.join("folder[ab]").list_names() == []
    assert root.join("folder").list_names() == ["b"]


def test_a_thousand_names_are_deleted_by_one_request(s3_root: location.Location, store: Any) -> None:
    names = [f"{number}" for number in range(12)]
    for name in names:
        s3_root.join(name).put_if_absent(b"x")
    with store.recording() as requests:
        s3_root.remove_names(names)
    # Deleted, then listed: an empty folder is listed twice.
    assert requests.by_kind() == {"POST": 1, "LIST": 2}


def test_blocks_of_a_file_are_its_content(root: location.Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystems, "BLOCK_BYTES", 8)
    for size in (0, 7, 8, 9, 40):
        path = root.join(f"blocks-{size}")
        path.put_if_absent(bytes(range(size)))
        assert b"".join(path.read_blocks()) == b"".join(path.read_blocks(size)) == bytes(range(size))


def test_whether_there_is_a_file_takes_one_request(s3_root: location.Location, store: Any, tmp_path: Path) -> None:
    s3_root.join("folder/x").put_if_absent(b"")
    with store.recording() as requests:
        assert s3_root.join("folder/x").is_file()
        assert not s3_root.join("folder").is_file()
        assert not s3_root.join("y").is_file()
    assert requests.by_kind() == {"GET": 3}
    (tmp_path / "folder").mkdir()
    assert not location.Location.parse(str(tmp_path / "folder")).is_file()


def test_a_file_is_moved_and_takes_the_place_of_another(root: location.Location) -> None:
    staged, final = root.join("staged"), root.join("out/final")
    staged.put_if_absent(b"new")
    final.put_if_absent(b"old")
    final.take(staged)
    assert final.read_bytes() == b"new"
    assert not staged.exists()
    with pytest.raises(errors.NotFoundError):
        final.take(staged)
    assert final.read_bytes() == b"new"


def test_free_space_is_that_of_the_disk_of_a_folder_which_need_not_exist(tmp_path: Path) -> None:
    free = location.Location.parse(str(tmp_path / "a/b/c")).free_bytes()
    assert free is not None
    assert free > 0
    assert location.Location.parse("memory://x").free_bytes() is None


def test_a_page_without_a_length_has_no_size(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        def size(self, url: str) -> None:
            return None

    monkeypatch.setattr(location.Location, "_remote", lambda self: Driver())
    with pytest.raises(errors.StorageError, match="does not report its size; download the file first"):
        location.Location.parse("https://example.org/x").size_bytes()


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"])
def test_public_hosts_and_names_that_only_a_proxy_knows_are_asked(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [(0, 0, 0, "", (address, 443))])
    filesystems.refuse_private_host("example.org:443")

    def unknown(*_: object) -> None:
        raise socket.gaierror("unknown")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    filesystems.refuse_private_host("example.org")


def test_a_download_that_breaks_leaves_no_file_open() -> None:
    class Driver:
        @contextlib.contextmanager
        def open(self, *_: object, **__: object) -> Iterator[BinaryIO]:
            raise ConnectionResetError("half a page")
            yield

    def num_open() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = num_open()
    with pytest.raises(ConnectionResetError):
        filesystems.download(Driver(), "https://example.org/x")
    assert num_open() == before


def test_buckets_are_addressed_by_their_host_at_amazon_and_by_their_path_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("s3fs")
    for variable in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(variable, raising=False)
    assert "s3" not in filesystems.filesystem("s3", "bucket").config_kwargs
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert filesystems.filesystem("s3", "bucket").config_kwargs["s3"] == {"addressing_style": "path"}
