"""One driver at a time on a root: told by liveness where it can be known, else by silence, never by clocks."""

import json
import subprocess
import sys
import threading
import time
from concurrent import futures
from typing import Any

import pytest

from core import errors
from core.storage import commit, location, lock_owner

TTL_S, HEARTBEAT_S = 0.4, 0.05


def lock(root: location.Location, stage: str = "train") -> commit.RunLock:
    return commit.RunLock(root, stage, ttl_s=TTL_S, heartbeat_s=HEARTBEAT_S)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's life can be looked up: every holder might be on another machine."""
    monkeypatch.setattr(lock_owner, "is_here", lambda holder: False)


def test_the_second_is_refused_and_told_by_whom(root: location.Location) -> None:
    with lock(root) as held:
        held.check()
        with pytest.raises(errors.LockedError, match=r"in use by train on host .* \(process \d+, started 20"):
            lock(root, "score").__enter__()
    with lock(root) as next_one:
        assert next_one.epoch == held.epoch + 1
    assert not next_one._thread.is_alive()


@pytest.mark.usefixtures("elsewhere")
def test_a_beating_heart_elsewhere_refuses_before_the_ttl(root: location.Location) -> None:
    with lock(root):
        started_s = time.monotonic()
        with pytest.raises(errors.LockedError, match="in use by"):
            commit.RunLock(root, "train", ttl_s=60, heartbeat_s=HEARTBEAT_S).__enter__()
        assert time.monotonic() - started_s < 5


@pytest.mark.usefixtures("elsewhere")
def test_silence_is_taken_over_and_the_believed_dead_notices(
    root: location.Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused = lock(root)
    monkeypatch.setattr(paused, "_thread", threading.Thread(target=lambda: None))
    with paused:
        with lock(root) as taker:
            assert taker.epoch == paused.epoch + 1
            taker.check()
            with pytest.raises(errors.LockedError, match="has taken over"):
                paused.check()
        heartbeat = root.join("_lock", f"heartbeat-{taker.epoch:06d}.json").read_json()
        assert heartbeat["left"] is True


@pytest.mark.usefixtures("elsewhere")
def test_a_heartbeat_that_stops_after_a_takeover_leaves_the_new_one_alone(root: location.Location) -> None:
    with lock(root) as first:
        root.join("_lock", f"epoch-{first.epoch + 1:06d}.json").put_if_absent(b"{}")
        first._thread.join(5)
        assert not first._thread.is_alive()
    assert root.join("_lock", f"heartbeat-{first.epoch:06d}.json").read_json()["left"] is False


def test_a_dead_process_of_this_machine_is_taken_over_at_once(root: location.Location) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    holder = {**lock_owner.this_process("train"), "pid": child.pid, "born": lock_owner._born(child.pid)}
    root.join("_lock/epoch-000001.json").put_if_absent(json.dumps(holder).encode())
    slow = {"ttl_s": 60.0, "heartbeat_s": HEARTBEAT_S}
    with pytest.raises(errors.LockedError, match=str(child.pid)):
        commit.RunLock(root, "train", **slow).__enter__()
    child.communicate(b"\n")
    started_s = time.monotonic()
    with commit.RunLock(root, "train", **slow) as taker:
        assert taker.epoch == 2
    assert time.monotonic() - started_s < 2


def test_a_process_id_that_was_given_away_is_no_sign_of_life() -> None:
    me = lock_owner.this_process("train")
    assert lock_owner.is_here(me)
    assert not lock_owner.is_dead(me)
    assert lock_owner.is_dead({**me, "born": "1"})
    assert not lock_owner.is_here({**me, "machine": "another"})


def test_of_many_drivers_one_gets_in(root: location.Location) -> None:
    inside: list[commit.RunLock] = []

    def enter(_: int) -> str:
        try:
            inside.append(lock(root).__enter__())
        except errors.LockedError:
            return "refused"
        return "in"

    with futures.ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(enter, range(8))) == ["in"] + ["refused"] * 7
    inside[0].__exit__(None, None, None)


def test_a_store_that_ignores_conditions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def overwrites(self: location.Location, data: bytes) -> bool:
        self.replace(data)
        return True

    monkeypatch.setattr(location.Location, "put_if_absent", overwrites)
    with pytest.raises(errors.StorageError, match="overwrites in spite of a condition"):
        lock(location.Location.parse("memory://careless/x")).__enter__()


def test_a_store_that_fails_for_a_while_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    root = location.Location.parse("memory://shaky/x")
    real = location.Location.replace
    failures: list[str] = []

    def fails_twice(self: location.Location, data: bytes) -> Any:
        if len(failures) < 2:
            failures.append(self.name)
            raise errors.StorageError("the store is away")
        return real(self, data)

    with lock(root) as held:
        monkeypatch.setattr(location.Location, "replace", fails_twice)
        time.sleep(6 * HEARTBEAT_S)
        held.check()
    assert len(failures) == 2
    assert root.join("_lock/heartbeat-000001.json").read_json()["left"] is True
