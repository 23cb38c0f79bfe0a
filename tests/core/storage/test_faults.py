"""A store that fails or refuses, and clocks that jump: work is done exactly once, and no second driver is let in."""

import random
import time
from typing import Any

import pytest

from core import errors
from core.storage import commit, location, lock_owner, retries, run_lock

NUM_PARTS = 8


def _stage(root: location.Location) -> dict[str, Any] | None:
    """Does a whole stage, twice: a second worker finds every part committed."""
    for attempt in ("first", "second"):
        store = commit.PartStore(root, {"beam_size": 5})
        store.begin()
        files = []
        for number in range(NUM_PARTS):
            part = f"part-{number:06d}"
            record = store.committed(part)
            if record is None:
                file = commit.put_content(root, part, ".arrow", f"{part} by the {attempt}".encode()).to_json()
                record = store.commit(part, {"files": [file]})
            files += record["files"]
        store.finish({"format": "raycurrent-output", "version": 1, "files": files})
    return store.manifest()


@pytest.mark.parametrize("seed", range(3))
def test_a_store_that_fails_in_a_tenth_of_its_requests_changes_no_byte(
    s3_root: location.Location, store: Any, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Half of the requests that fail were applied: their replies are lost."""
    monkeypatch.setattr(retries, "FIRST_PAUSE_S", 0.001)
    expected = _stage(s3_root.join("quiet"))
    disturbed = s3_root.join("disturbed")
    with store.failing(0.1, random.Random(seed)):
        assert _stage(disturbed) == expected
    names = [name for name in disturbed.list_names() if name.startswith("part-")]
    assert len(names) == NUM_PARTS
    assert names == [name for name in s3_root.join("quiet").list_names() if name.startswith("part-")]


def test_a_stage_asks_for_nothing_outside_its_root(s3_root: location.Location, store: Any) -> None:
    """So that rights to this prefix are enough; listings name it in their query."""
    with store.recording() as requests:
        _stage(s3_root)
        with run_lock.RunLock(s3_root, "translate"):
            pass
    prefix = s3_root.url.removeprefix("s3:/")
    outside = {(request.kind, request.path) for request in requests if not request.path.startswith(f"{prefix}/")}
    assert outside <= {("LIST", f"/{prefix.split('/')[1]}")}
    assert {request.kind for request in requests} >= {"GET", "PUT"}


def test_a_file_of_another_writer_is_listed_at_once(s3_root: location.Location, store: Any) -> None:
    """The driver may remember a listing, and forgets it only when it writes there itself."""
    s3_root.join("ours").put_if_absent(b"")
    assert s3_root.list_names() == ["ours"]
    botocore = pytest.importorskip("botocore.session")
    bucket, _, prefix = s3_root.url.removeprefix("s3://").partition("/")
    another = botocore.get_session().create_client("s3")
    another.put_object(Bucket=bucket, Key=f"{prefix}/theirs", Body=b"")
    assert s3_root.list_names() == ["ours", "theirs"]
    assert s3_root.join("theirs").exists()


def test_a_denied_request_is_not_retried(store: Any, s3_root: location.Location) -> None:
    store.faults = ["denied"]
    before = store.requests
    with pytest.raises(errors.StorageError, match=r"/x: access denied .*; check the credentials and their rights"):
        s3_root.join("x").put_if_absent(b"one")
    assert store.requests - before == 1


@pytest.mark.parametrize("jump_s", [-600.0, 600.0])
def test_a_clock_that_jumps_lets_no_second_driver_in(
    root: location.Location, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    """The clock of the day jumps at each reading, as it may when it is set; leases do not look at it."""
    monkeypatch.setattr(lock_owner, "ran_on_this_machine", lambda holder: False)
    real, readings = time.time, iter(range(1, 1_000_000))
    monkeypatch.setattr(time, "time", lambda: real() + jump_s * next(readings))
    with run_lock.RunLock(root, "train", ttl_s=60, heartbeat_s=0.05) as holder:
        with pytest.raises(errors.LockedError, match="in use by"):
            run_lock.RunLock(root, "train", ttl_s=60, heartbeat_s=0.05).__enter__()
        holder.check()
