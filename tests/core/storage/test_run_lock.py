"""Laws of the run lock: one driver at a time, replaced when it is dead or silent, never by comparing clocks."""

import contextlib
import json
import subprocess
import sys
import threading
import time
import uuid
from concurrent import futures
from typing import Any

import pytest

from core import errors
from core.storage import location, lock_owner, run_lock

TTL_S, HEARTBEAT_S = 0.4, 0.05


def lock(root: location.Location, stage: str = "train") -> run_lock.RunLock:
    return run_lock.RunLock(root, stage, ttl_s=TTL_S, heartbeat_s=HEARTBEAT_S)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's life can be looked up: every holder might be on another machine."""
    monkeypatch.setattr(lock_owner, "ran_on_this_machine", lambda holder: False)


def test_a_second_driver_is_refused_and_the_holder_is_named(root: location.Location) -> None:
    with lock(root) as holder:
        holder.check()
        with pytest.raises(errors.LockedError, match=r"in use by train on host .* \(process \d+, started 20"):
            lock(root, "score").__enter__()
    with lock(root) as next_one:
        assert next_one.lock_number == holder.lock_number + 1
    assert not next_one._thread.is_alive()


@pytest.mark.usefixtures("elsewhere")
def test_a_live_heartbeat_on_another_machine_refuses_before_the_ttl(root: location.Location) -> None:
    with lock(root):
        started_s = time.monotonic()
        with pytest.raises(errors.LockedError, match="in use by"):
            run_lock.RunLock(root, "train", ttl_s=60, heartbeat_s=HEARTBEAT_S).__enter__()
        assert time.monotonic() - started_s < 5


@pytest.mark.usefixtures("elsewhere")
def test_a_silent_holder_is_replaced_and_notices_it(root: location.Location, monkeypatch: pytest.MonkeyPatch) -> None:
    paused = lock(root)
    monkeypatch.setattr(paused, "_thread", threading.Thread(target=lambda: None))
    with paused:
        with lock(root) as taker:
            assert taker.lock_number == paused.lock_number + 1
            taker.check()
            with pytest.raises(errors.LockedError, match="expired and another driver has taken over"):
                paused.check()
        heartbeat = root.join("_lock", f"heartbeat-{taker.lock_number:06d}.json").read_json()
        assert heartbeat["left"] is True


@pytest.mark.parametrize("is_held_again", [False, True])
@pytest.mark.usefixtures("elsewhere")
def test_a_silent_holder_notices_that_its_taker_has_finished_and_removed_the_lock(
    root: location.Location, monkeypatch: pytest.MonkeyPatch, is_held_again: bool
) -> None:
    """A third may have begun at 1 again: then there is a lock file of the holder's number, which is the third's."""
    paused = lock(root)
    monkeypatch.setattr(paused, "_thread", threading.Thread(target=lambda: None))
    with paused:
        with lock(root) as taker:
            taker.remove()
        with lock(root) if is_held_again else contextlib.nullcontext() as third:
            assert third is None or third.lock_number == paused.lock_number == 1
            with pytest.raises(errors.LockedError, match="expired and another driver has taken over"):
                paused.check()


@pytest.mark.usefixtures("elsewhere")
def test_a_replaced_holder_does_not_touch_the_heartbeat_of_the_new_one(root: location.Location) -> None:
    with lock(root) as first:
        root.join("_lock", f"epoch-{first.lock_number + 1:06d}.json").put_if_absent(b"{}")
        first._thread.join(5)
        assert not first._thread.is_alive()
    assert root.join("_lock", f"heartbeat-{first.lock_number:06d}.json").read_json()["left"] is False


def test_the_lock_of_a_dead_process_of_this_machine_is_taken_at_once(root: location.Location) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    holder = {**lock_owner.this_process("train"), "pid": child.pid, "born": lock_owner._start_time(child.pid)}
    root.join("_lock/epoch-000001.json").put_if_absent(json.dumps(holder).encode())
    slow = {"ttl_s": 60.0, "heartbeat_s": HEARTBEAT_S}
    with pytest.raises(errors.LockedError, match=str(child.pid)):
        run_lock.RunLock(root, "train", **slow).__enter__()
    child.communicate(b"\n")
    started_s = time.monotonic()
    with run_lock.RunLock(root, "train", **slow) as taker:
        assert taker.lock_number == 2
    assert time.monotonic() - started_s < 2


def test_a_reused_process_id_does_not_count_as_alive() -> None:
    me = lock_owner.this_process("train")
    assert lock_owner.ran_on_this_machine(me)
    assert not lock_owner.is_dead(me)
    assert lock_owner.is_dead({**me, "born": "1"})
    assert not lock_owner.ran_on_this_machine({**me, "machine": "another"})


def test_exactly_one_of_many_concurrent_drivers_gets_the_lock(root: location.Location) -> None:
    inside: list[run_lock.RunLock] = []

    def enter(_: int) -> str:
        try:
            inside.append(lock(root).__enter__())
        except errors.LockedError:
            return "refused"
        return "in"

    with futures.ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(enter, range(8))) == ["in"] + ["refused"] * 7
    inside[0].__exit__(None, None, None)


def test_a_store_that_ignores_conditional_writes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def overwrites(self: location.Location, data: bytes) -> bool:
        self.replace(data)
        return True

    monkeypatch.setattr(location.Location, "put_if_absent", overwrites)
    with pytest.raises(errors.StorageError, match="ignores conditional writes"):
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

    with lock(root) as holder:
        monkeypatch.setattr(location.Location, "replace", fails_twice)
        time.sleep(6 * HEARTBEAT_S)
        holder.check()
    assert len(failures) == 2
    assert root.join("_lock/heartbeat-000001.json").read_json()["left"] is True


def test_a_lock_that_cannot_be_released_is_a_warning_and_expires(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(self: location.Location, data: bytes) -> None:
        raise errors.StorageError("the store is away")

    root = location.Location.parse(f"memory://{uuid.uuid4().hex}")
    holder = lock(root).__enter__()
    with monkeypatch.context() as patch:
        patch.setattr(location.Location, "replace", fails)
        holder.__exit__(None, None, None)
    assert "could not be released and will expire: the store is away" in caplog.text
    assert not holder._thread.is_alive()


def test_a_removed_lock_leaves_nothing_and_the_next_driver_begins_at_one(root: location.Location) -> None:
    with lock(root):
        pass
    with lock(root) as holder:
        assert holder.lock_number == 2
        holder.remove()
        assert root.join("_lock").list_names() == []
    assert root.join("_lock").list_names() == [], "the release writes nothing either"
    with lock(root) as next_one:
        assert next_one.lock_number == 1


def test_who_has_lost_the_lock_does_not_remove_it(root: location.Location) -> None:
    with lock(root) as paused:
        root.join("_lock", f"epoch-{paused.lock_number + 1:06d}.json").put_if_absent(b"{}")
        with pytest.raises(errors.LockedError, match="another driver has taken over"):
            paused.remove()
    assert "epoch-000001.json" in root.join("_lock").list_names()


def test_a_lock_that_is_removed_while_it_is_looked_at_is_free(
    root: location.Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = lock(root)
    with first:
        real = run_lock.RunLock._lock_names

        def finishes_now(self: run_lock.RunLock) -> list[str]:
            names = real(self)
            if not first.is_removed:
                first.remove()
            return names

        monkeypatch.setattr(run_lock.RunLock, "_lock_names", finishes_now)
        with lock(root) as taker:
            taker.check()


def test_owners_are_told_apart_where_the_kernel_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As without /proc: a process is alive if it can be asked for, or belongs to another user."""

    def unreadable(*_: object) -> str:
        raise PermissionError

    lock_owner._machine.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.read_text", unreadable)
        me = lock_owner.this_process("train")
        assert me["born"] is None
        assert lock_owner.ran_on_this_machine(me)
        assert not lock_owner.is_dead(me)

        def of_another_user(*_: object) -> None:
            raise PermissionError

        patch.setattr("os.kill", of_another_user)
        assert not lock_owner.is_dead(me)
    lock_owner._machine.cache_clear()


def test_a_root_in_use_is_refused_without_taking_its_lock(root: location.Location) -> None:
    run_lock.RunLock(root, "check").refuse_if_in_use()  # never locked
    with run_lock.RunLock(root, "train") as lock:
        with pytest.raises(errors.LockedError, match="is in use by train on host"):
            run_lock.RunLock(root, "check").refuse_if_in_use()
        lock.check()
    run_lock.RunLock(root, "check").refuse_if_in_use()  # released
