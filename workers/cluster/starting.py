"""Start of Ray in a thread of its own, so that signals are heard meanwhile.

`ray.init` blocks for seconds, on a busy machine for minutes, and in the main thread replaces our signal handlers by its
own, which exit from within. In another thread it leaves them alone, and the main thread waits for it or for a signal.
"""

import atexit
import contextlib
import importlib
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from core import errors
from workers.cluster import signals, watchdog

POLL_S = 0.1
LEAVE_S = 1.5  # for the thread to notice that the processes which it waits for were ended

# Ray's own limits of its start, of 20 to 60 s, by the variables that it reads them from.
_LIMITS_S = ("RAY_gcs_server_port_wait_time_s", "RAY_gcs_server_request_timeout_seconds")
_LIMITS_OF_WORKERS_S = ("RAY_worker_register_timeout_seconds",)
_LIMITS_MS = ("RAY_agent_register_timeout_ms",)


def limits(timeout_s: float) -> dict[str, str]:
    """Returns the environment variables by which the parts of a local cluster wait so long for each other."""
    seconds = str(max(1, round(timeout_s)))
    in_seconds = dict.fromkeys((*_LIMITS_S, *_LIMITS_OF_WORKERS_S), seconds)
    return {**in_seconds, **dict.fromkeys(_LIMITS_MS, f"{seconds}000")}


class Starter:
    """The thread that starts Ray. It lives until `release`: Linux ends Ray's processes with the thread that made them.

    Args:
        start: calls `ray.init`.
        folder: private folder of the processes of a local cluster.
        is_local: whether `ray.init` starts a cluster, of which nothing must outlive the driver.
    """

    def __init__(self, start: Callable[[], None], folder: Path, is_local: bool) -> None:
        self._start = start
        self._folder = folder
        self._watchdog = watchdog.Watchdog(folder) if is_local else None
        self._error: BaseException | None = None
        self._has_started = threading.Event()
        self._is_released = threading.Event()
        # A daemon, since a start that hangs must not keep the process.
        self._thread = threading.Thread(target=self._run, name="start-ray", daemon=True)

    def run(self, should_stop: signals.StopFlag) -> None:
        """Starts Ray and returns when it is up.

        Raises:
            InterruptedRunError: a signal came first.
            Exception: what `start` raises.
        """
        self._thread.start()
        while not self._has_started.wait(POLL_S):
            if should_stop():
                self._leave(should_stop.signal or signal.SIGTERM)
        if self._error is not None:
            self._is_released.set()
            raise self._error

    def release(self) -> None:
        """Lets the thread end, after Ray was shut down."""
        self._is_released.set()
        if self._watchdog:
            self._watchdog.close()

    def _run(self) -> None:
        try:
            self._start()
        except BaseException as error:  # noqa: BLE001 (raised in the main thread)
            self._error = error
        self._has_started.set()
        self._is_released.wait()

    def _leave(self, number: int) -> None:
        """Ends what has started, and lets the process end without Ray's own code for it, which aborts in mid-start."""
        deadline_s = time.monotonic() + LEAVE_S
        # Again and again, for it may be starting the next one.
        while time.monotonic() < deadline_s:
            watchdog.kill_processes_of(self._folder)
            if self._has_started.wait(POLL_S):
                break
        self._is_released.set()
        atexit.register(_end, 128 + number, self._folder)
        raise errors.InterruptedRunError("cluster: stopped while Ray was starting; run the command again")


def _end(code: int, folder: Path) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    watchdog.kill_processes_of(folder)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(code)


@contextlib.contextmanager
def patient(timeout_s: float) -> Iterator[None]:
    """Lets the driver wait so long for the node of its local cluster; Ray waits 30 s, and has no setting for it."""
    services: Any = importlib.import_module("ray._private.services")
    get_node = services.get_node
    deadline_s = time.monotonic() + timeout_s

    def wait_for_node(*arguments: Any, **options: Any) -> Any:
        while True:
            try:
                return get_node(*arguments, **options)
            except RuntimeError:  # it is not known yet
                if time.monotonic() > deadline_s:
                    raise
            time.sleep(POLL_S)

    services.get_node = wait_for_node
    try:
        yield
    finally:
        services.get_node = get_node
