"""Run lock: one driver at a time works on a root.

The files are `_lock/epoch-NNNNNN.json` (the holder of each lock number) and `_lock/heartbeat-NNNNNN.json`. The lock
number counts the holders of the lock and only grows; its stored name is of older releases.
"""

import logging
import re
import threading
import time
from types import TracebackType
from typing import Any, Self

from core import errors
from core.storage import control_files, location, lock_owner

FOLDER = "_lock"
# A holder whose store fails for less than the TTL keeps its lock: twenty heartbeats in a row must be missing.
HEARTBEAT_S, TTL_S = 3.0, 60.0
_log = logging.getLogger(__name__)


class RunLock:
    """The lock of the one driver that works on a root: `with RunLock(root, "train"): …`.

    Each holder takes the next lock number, by put-if-absent of a file that is never reused, and then updates its
    heartbeat file periodically. Another driver takes over when the heartbeat has not changed for `ttl_s` of its own
    monotonic clock (clocks of two machines are never compared), or at once if the holder released the lock, or ran
    on this machine and is dead. The lock keeps cooperating drivers apart; what a zombie still writes is harmless,
    because its file names are never used again (`core.storage.commit`), and it calls `check` before it removes or
    replaces anything.

    Raises:
        LockedError: another driver holds the root; the message names it.
        StorageError: the root cannot be written, or its store has no conditional writes.
    """

    def __init__(
        self, root: location.Location, stage: str, ttl_s: float = TTL_S, heartbeat_s: float = HEARTBEAT_S
    ) -> None:
        self.root = root
        self.lock_number = 0
        self._ttl_s = ttl_s
        self._heartbeat_s = heartbeat_s
        self._owner = lock_owner.this_process(stage)
        self._lost = threading.Event()
        self._released = threading.Event()
        self.is_removed = False
        self._thread = threading.Thread(target=self._heartbeat_loop, name="lock-heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._acquire()
        self._sweep()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        # Before the release is written: a late heartbeat would overwrite it, and others would wait for the TTL.
        self._thread.join()
        if not self._lost.is_set() and not self.is_removed:
            try:
                self._write_heartbeat(0, released=True)
            except errors.StorageError as failure:
                _log.warning("%s: the lock could not be released and will expire: %s", self.root, failure)
            self._sweep()

    def _sweep(self) -> None:
        """Removes what drivers and workers that were killed left."""
        self.root.sweep()
        # It takes a request. A driver that was killed had a number of its own.
        if self.lock_number > 1:
            self.root.abort_uploads()

    def refuse_if_in_use(self) -> None:
        """Refuses a root that a living process of this machine holds: at once, and without taking the lock.

        Of a process of another machine only the wait for the lock tells if it is alive.

        Raises:
            LockedError: the root is in use.
        """
        if newest := self._newest():
            holder = _read_or_damaged(self._file("epoch", newest))
            is_free = (self._read_heartbeat(newest) or {}).get("left")
            if holder and not is_free and lock_owner.ran_on_this_machine(holder) and not lock_owner.is_dead(holder):
                raise self._in_use_error(holder)

    def check(self) -> None:
        """Checks that no other driver has taken over: before a manifest is written, and each step that destroys.

        Raises:
            LockedError: the lock expired, because the heartbeat stopped, and another driver took it.
        """
        # Numbers are taken without gaps, so whoever takes over has the next one. One that has finished may have removed
        # the lock with its folder, and a third may have begun at 1: then our own file is gone, or that of another.
        if (
            self._lost.is_set()
            or self._file("epoch", self.lock_number + 1).is_file()
            or (_read_or_damaged(self._file("epoch", self.lock_number)) or {}).get("nonce") != self._owner["nonce"]
        ):
            self._lost.set()
            raise errors.LockedError(
                f"{self.root}: the lock expired and another driver has taken over; wait for it, or use another root"
            )

    def remove(self) -> None:
        """Removes the files of the lock, of a folder that its holder has emptied; nothing is locked any more.

        Raises:
            LockedError: another driver has taken over.
        """
        self._released.set()
        self._thread.join()  # a late heartbeat would make the folder again
        self.check()
        self.is_removed = True
        own = self._file("epoch", self.lock_number)
        others = [self.root.join(FOLDER, name) for name in self.root.join(FOLDER).list_names() if name != own.name]
        # The own file last: as long as it is there, others see that the folder is in use.
        for path in (*others, own):
            path.remove()
        self.root.join(FOLDER).remove_folder_if_empty()

    def _acquire(self) -> None:
        while True:
            newest = self._newest()
            if newest:
                self._wait_until_free(newest)
            lock_file = self._file("epoch", newest + 1)
            # Else another driver took the number in between: it is the next holder to wait for.
            if lock_file.put_if_absent(control_files.encode(self._owner)):
                break
        # A probe: a store that ignores the condition overwrites our file here, and would let two drivers in.
        if lock_file.put_if_absent(b"{}"):
            lock_file.remove()
            raise errors.StorageError(f"{self.root}: the store ignores conditional writes; use another store")
        self.lock_number = newest + 1
        self._write_heartbeat(0)

    def _wait_until_free(self, lock_number: int) -> None:
        """Returns once the holder of a lock number has released the lock or is dead."""
        holder = _read_or_damaged(self._file("epoch", lock_number))
        if holder is None:
            return  # it has finished, and removed its lock with its folder
        # Compared with this reading, not with a time: the clocks of two machines may differ.
        first, since_s = self._read_heartbeat(lock_number), time.monotonic()
        while True:
            silent_s = time.monotonic() - since_s
            heartbeat = self._read_heartbeat(lock_number)
            if (heartbeat or {}).get("left") or (lock_owner.ran_on_this_machine(holder) and lock_owner.is_dead(holder)):
                return
            # On this machine a process that is not dead is alive, heartbeat or not: refuse without waiting for the TTL.
            if lock_owner.ran_on_this_machine(holder) or heartbeat != first:
                raise self._in_use_error(holder)
            if silent_s > self._ttl_s:
                _log.warning("%s: no heartbeat from %s; taking over the lock", self.root, lock_owner.describe(holder))
                return
            # Half a period, so that a change is seen at most that long after it.
            time.sleep(self._heartbeat_s / 2)

    def _heartbeat_loop(self) -> None:
        beat = 0
        while not self._released.wait(self._heartbeat_s):
            beat += 1
            try:
                # First: who has lost the lock writes nothing, in a folder that may be gone.
                self.check()
                self._write_heartbeat(beat)
            # `check` has noted the loss; the driver's thread raises at its own next `check`.
            except errors.LockedError:
                return
            # An outage shorter than the TTL costs nothing, so it must not end the thread.
            except errors.StorageError as error:
                _log.warning("the heartbeat of the lock could not be written: %s", error)

    def _write_heartbeat(self, beat: int, released: bool = False) -> None:
        content = {"nonce": self._owner["nonce"], "beat": beat, "left": released}
        self._file("heartbeat", self.lock_number).replace(control_files.encode(content))

    def _read_heartbeat(self, lock_number: int) -> dict[str, Any] | None:
        return _read_or_damaged(self._file("heartbeat", lock_number))

    def _in_use_error(self, holder: dict[str, Any]) -> errors.LockedError:
        return errors.LockedError(
            f"{self.root}: is in use by {lock_owner.describe(holder)}; wait for it, end it, or use another root"
        )

    def _newest(self) -> int:
        """Returns the newest lock number, 0 if there is none."""
        # Characters 6 to 11 are the digits of `epoch-NNNNNN.json`.
        return max((int(name[6:12]) for name in self._lock_names()), default=0)

    def _lock_names(self) -> list[str]:
        return [name for name in self.root.join(FOLDER).list_names() if re.fullmatch(r"epoch-[0-9]{6}\.json", name)]

    def _file(self, kind: str, lock_number: int) -> location.Location:
        # The stored kinds are "epoch" (the owner of a lock number) and "heartbeat".
        return self.root.join(FOLDER, f"{kind}-{lock_number:06d}.json")


def _read_or_damaged(path: location.Location) -> dict[str, Any] | None:
    """Reads a file of the lock; a damaged one says nothing, neither of an owner nor that the lock was released."""
    try:
        return control_files.read_if_there(path)
    except errors.IntegrityError as error:
        _log.warning("%s", error)
        return {}
