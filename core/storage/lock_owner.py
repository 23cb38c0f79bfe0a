"""Who holds a lock: enough of a process to name it to a person, and to know on its own machine whether it lives."""

import functools
import os
import socket
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


@functools.lru_cache(maxsize=1)
def _machine(pid: int) -> str:
    del pid  # part of the key alone
    # A host name is not enough: containers share them, and process ids count anew in each container.
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{uuid.getnode():x} {socket.gethostname()}"


def this_process(stage: str) -> dict[str, Any]:
    """Describes this process, as JSON; the nonce makes the description unlike any other."""
    pid = os.getpid()
    return {
        "stage": stage,
        "host": socket.gethostname(),
        "machine": _machine(pid),
        "pid": pid,
        "born": _born(pid),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "nonce": uuid.uuid4().hex,
    }


def describe(owner: dict[str, Any]) -> str:
    """Names an owner in an error."""
    return (
        f"{owner.get('stage', 'a run')} on host {owner.get('host')} "
        f"(process {owner.get('pid')}, started {owner.get('started')})"
    )


def is_here(owner: dict[str, Any]) -> bool:
    """Whether the owner ran on this machine, so that `is_dead` can tell."""
    return owner.get("machine") == _machine(os.getpid()) and isinstance(owner.get("pid"), int)


def is_dead(owner: dict[str, Any]) -> bool:
    """Whether an owner on this machine is gone, or its process id now belongs to another process."""
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return bool(owner.get("born") is not None and _born(owner["pid"]) != owner["born"])


def _born(pid: int) -> str | None:
    """The instant at which a process started, in the kernel's clock ticks; None where that cannot be known."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = status.rpartition(")")[2].split()
    # A process that has ended but was not waited for holds nothing any more.
    return None if fields[0] in "ZX" else fields[19]
