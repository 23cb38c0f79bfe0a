"""Owners of a lock: identifies a process for messages, and tells on its own machine whether it is still alive."""

import functools
import os
import socket
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


@functools.lru_cache(maxsize=1)
def _machine(pid: int) -> str:
    del pid  # only part of the cache key: a forked child may be in another namespace
    # A host name is not enough: containers may share one, and each PID namespace counts from 1.
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{uuid.getnode():x} {socket.gethostname()}"


def this_process(stage: str) -> dict[str, Any]:
    """Returns a description of this process as JSON; the nonce makes it unique."""
    pid = os.getpid()
    return {
        "stage": stage,
        "host": socket.gethostname(),
        "machine": _machine(pid),
        "pid": pid,
        "born": _start_time(pid),  # the name that stored locks have
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "nonce": uuid.uuid4().hex,
    }


def describe(owner: dict[str, Any]) -> str:
    """Returns the text by which error messages name an owner."""
    return (
        f"{owner.get('stage', 'a run')} on host {owner.get('host')} "
        f"(process {owner.get('pid')}, started {owner.get('started')})"
    )


def ran_on_this_machine(owner: dict[str, Any]) -> bool:
    """Returns whether the owner ran on this machine, so that `is_dead` is meaningful."""
    return owner.get("machine") == _machine(os.getpid()) and isinstance(owner.get("pid"), int)


def is_dead(owner: dict[str, Any]) -> bool:
    """Returns whether an owner on this machine has ended, or its process id now belongs to another process."""
    try:
        # Signal 0 only checks that the process exists.
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False  # it exists, and belongs to another user
    # The kernel reuses process ids: the same id with another start time is another process.
    return bool(owner.get("born") is not None and _start_time(owner["pid"]) != owner["born"])


def _start_time(pid: int) -> str | None:
    """Returns when a process started, in the kernel's clock ticks since boot, or None if that is unknown."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The command name, in parentheses, may contain spaces and parentheses itself. Field 0 is the state, 19 starttime.
    fields = status.rpartition(")")[2].split()
    # A zombie process has ended, although its parent has not collected its exit status.
    return None if fields[0] in "ZX" else fields[19]
