"""Objects that are uploaded in parts: what fails or is killed half way does not stay for ever."""

import datetime
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from core import errors
from core.storage import location, retries, run_lock, temporary, uploads

LARGE_BYTES = 101 << 20  # from 100 MiB on the driver uploads parts


@pytest.fixture
def client(s3_root: location.Location) -> Any:
    """A client of the server that sees uploads."""
    return pytest.importorskip("botocore.session").get_session().create_client("s3")


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody adds to is abandoned at once."""
    monkeypatch.setattr(temporary, "ABANDONED_S", -60.0)


def begin(client: Any, path: location.Location, num_parts: int = 1) -> None:
    """Does what a process does that is killed during an upload."""
    bucket, _, key = path.url.removeprefix("s3://").partition("/")
    upload = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    for number in range(1, num_parts + 1):
        client.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=b"half")


def keys(client: Any, root: location.Location) -> list[str]:
    """Returns the unfinished uploads below a folder, by name."""
    bucket, _, prefix = root.url.removeprefix("s3://").partition("/")
    found = client.list_multipart_uploads(Bucket=bucket, Prefix=prefix).get("Uploads", [])
    return sorted(upload["Key"].removeprefix(prefix) for upload in found)


def test_an_upload_that_fails_half_way_is_aborted_and_no_object_appears(
    s3_root: location.Location, store: Any, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "DEADLINE_S", 0.0)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(LARGE_BYTES)
    store.faults = ["busy"]
    with pytest.raises(errors.StorageError, match="the store failed"):
        s3_root.join("large").put_file_if_absent(tmp_path / "large")
    assert keys(client, s3_root) == []
    assert s3_root.list_names() == []


def pieces(number: int) -> Callable[[BinaryIO], None]:
    """Returns a function that writes pieces of a mebibyte, each of one byte."""

    def write(file: BinaryIO) -> None:
        for value in range(number):
            file.write(bytes([value]) * (1 << 20))

    return write


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest parts that S3 takes."""
    monkeypatch.setattr(uploads, "PART_BYTES", 5 << 20)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("num_pieces", [0, 5, 6, 12])
def test_what_a_function_writes_piece_by_piece_is_a_file_as_any_other(root: location.Location, num_pieces: int) -> None:
    expected = b"".join(bytes([value]) * (1 << 20) for value in range(num_pieces))
    path = root.join("large")
    assert path.write_if_absent(pieces(num_pieces))
    assert path.read_bytes() == expected
    assert not path.write_if_absent(pieces(7)), "the name is taken"
    assert path.read_bytes() == expected
    path.write_over(pieces(8))
    assert path.size_bytes() == 8 << 20
    assert root.list_names() == ["large"]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("write", [location.Location.write_if_absent, location.Location.write_over])
def test_a_writer_that_fails_half_way_leaves_what_was_there(
    root: location.Location, request: pytest.FixtureRequest, write: Callable[..., object]
) -> None:
    def fail(file: BinaryIO) -> None:
        pieces(12)(file)
        raise errors.IntegrityError("a part is damaged")

    with pytest.raises(errors.IntegrityError, match="a part is damaged"):
        write(root.join("new"), fail)
    assert root.list_names() == []
    if root.url.startswith("s3://"):
        gc.collect()  # the driver completes an upload when its file is collected
        assert keys(request.getfixturevalue("client"), root) == []
        assert root.list_names() == []


@pytest.mark.usefixtures("small_parts")
def test_a_part_that_the_store_refuses_is_sent_again_without_those_before(
    s3_root: location.Location, store: Any
) -> None:
    calls = []

    def write(file: BinaryIO) -> None:
        calls.append(0)
        pieces(6)(file)
        store.faults = ["busy", "busy"]
        pieces(12)(file)

    with store.recording() as requests:
        assert s3_root.join("large").write_if_absent(write)
    assert s3_root.join("large").size_bytes() == 18 << 20
    assert calls == [0]
    assert requests.by_kind()["PUT"] == 4 + 2, "four parts, and two answers that the store was busy"


@pytest.mark.usefixtures("at_once")
def test_the_next_driver_of_a_root_aborts_what_a_killed_one_was_uploading(
    s3_root: location.Location, client: Any
) -> None:
    root = s3_root.join("run")
    for path in (root.join("a"), root.join("dataset/b"), s3_root.join("run-2/c")):
        begin(client, path)
    with run_lock.RunLock(root, "train"):
        assert keys(client, s3_root) == ["/run-2/c", "/run/a", "/run/dataset/b"], "it is the first driver"
    with run_lock.RunLock(root, "train"):
        assert keys(client, s3_root) == ["/run-2/c"]
        begin(client, root.join("of-a-worker"))
    assert keys(client, s3_root) == ["/run-2/c"]


def test_an_upload_to_which_a_part_was_added_within_the_hour_goes_on(s3_root: location.Location, client: Any) -> None:
    """The server says of every upload that it began in 2010."""
    begin(client, s3_root.join("living"))
    begin(client, s3_root.join("dead"), num_parts=0)
    s3_root.abort_uploads()
    assert keys(client, s3_root) == ["/living"]


@pytest.mark.usefixtures("at_once")
def test_uploads_to_one_object_leave_those_of_its_neighbours(s3_root: location.Location, client: Any) -> None:
    for name in ("out.txt", "out.txt.parts/a", "out.txt2"):
        begin(client, s3_root.join(name))
    s3_root.join("out.txt").abort_uploads()
    assert keys(client, s3_root) == ["/out.txt.parts/a", "/out.txt2"]


def test_an_upload_that_has_just_begun_is_not_abandoned() -> None:
    now = datetime.datetime.now(datetime.UTC)

    class Driver:
        def call_s3(self, method: str, **_: Any) -> dict[str, Any]:
            assert method == "list_multipart_uploads", "nothing is asked of it, and it is not aborted"
            return {"Uploads": [{"Key": "x", "UploadId": "1", "Initiated": now}]}

    uploads.abort_abandoned(Driver(), "bucket", "x")


def test_a_store_that_lists_no_uploads_fails_nothing(
    s3_root: location.Location, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(uploads, "abort_abandoned", denied)
    for _ in range(2):
        with run_lock.RunLock(s3_root, "train"):
            pass
    location.Location.parse("memory://x").abort_uploads()
