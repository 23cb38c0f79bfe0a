"""Watchdog of a local cluster: a process that outlives the driver, and ends what is left of the cluster after it.

Ray's daemons end with the driver, and its workers with the daemons, but not a worker that is starting meanwhile: it
waits half a minute or more for daemons that are gone, with a hundred megabytes. Run as a script the module needs no
other of ours, so that the process takes little time and memory.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

POLL_S = 0.1
SWEEP_S = 60.0  # for processes that the system takes long to end
CLOSE_S = 5.0


class Watchdog:
    """The process, as its driver sees it: it acts when the driver closes it, or has ended in whichever way.

    Args:
        folder: private folder of the cluster's processes; it is removed, too.
    """

    def __init__(self, folder: Path) -> None:
        # Isolated and without site-packages; in a session of its own, so that no Ctrl-C ends it.
        self._process = subprocess.Popen(  # noqa: S603 (our own script)
            [sys.executable, "-I", "-S", __file__, str(folder), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def close(self) -> None:
        """Lets it end what is left, and waits for it a little."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSE_S)


def kill_processes_of(folder: Path, spared: frozenset[int] = frozenset()) -> bool:
    """Kills the processes of a cluster by its private folder, but for those spared; returns whether there was any.

    The name of the folder is random, and no other process has it in its command line, or writes its standard output
    there. None is known without /proc.
    """
    was_any = False
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile, or is another user's
            pid = int(entry.name)
            if pid not in spared and pid != os.getpid() and _is_of(entry, f"{folder}/"):
                os.kill(pid, signal.SIGKILL)
                was_any = True
    return was_any


def _is_of(process: Path, folder: str) -> bool:
    # A worker replaces its command line by a title, but keeps its output.
    return folder.encode() in (process / "cmdline").read_bytes() or any(
        str((process / "fd" / number).readlink()).startswith(folder) for number in ("1", "2")
    )


def main(folder: Path, driver: int) -> None:
    """Waits for the driver's end, or for its word, and sweeps."""
    sys.stdin.buffer.read()
    deadline_s = time.monotonic() + SWEEP_S
    num_quiet = 0
    # Twice: a daemon that was just killed may have started a worker just before.
    while num_quiet < 2 and time.monotonic() < deadline_s:
        num_quiet = 0 if kill_processes_of(folder, frozenset([driver])) else num_quiet + 1
        time.sleep(POLL_S)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
