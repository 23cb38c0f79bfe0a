"""Commands as users start them, in processes that a test can watch, kill, and be sure are gone."""

import contextlib
import dataclasses
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from tests import conftest

T = TypeVar("T")
JOBS = (sys.executable, "-m", "jobs")
POLL_S = 0.02
ORPHANS_S = 30.0  # no worker of a dead driver lives longer
# Ray's helpers on a node live for a minute without it, and do nothing: they wait for a head that is gone.
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
PRIVATE_FOLDER = re.compile(r"/tmp/rc-[A-Za-z0-9_]+")


@dataclasses.dataclass(frozen=True)
class Process:
    """A process, never taken for a later one with the same id."""

    pid: int
    born: str

    @classmethod
    def at(cls, pid: int) -> tuple[Self, int] | None:
        """The process with this id and its parent; None if it is gone, or has ended and was not waited for."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else (cls(pid, fields[19]), int(fields[1]))

    def is_alive(self) -> bool:
        found = self.at(self.pid)
        return found is not None and found[0] == self

    def title(self) -> str:
        """What it calls itself; nothing once it has ended."""
        if not self.is_alive():
            return ""
        try:
            return Path(f"/proc/{self.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            return ""

    def signal(self, number: int) -> None:
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended; `cpu_s` does not depend on what else the machine does."""

    code: int
    stdout: str
    log: str
    elapsed_s: float
    cpu_s: float

    def document(self) -> dict[str, Any]:
        """What it printed, which is one JSON document; it must have ended well."""
        assert self.code == 0, f"exit {self.code}\n{self.log}"
        found: dict[str, Any] = json.loads(self.stdout)
        return found


class Driver:
    """A command that runs, in a session of its own, with no cluster around it; `program` if it is not ours."""

    def __init__(self, folder: Path, arguments: Sequence[str], program: Sequence[str] = JOBS) -> None:
        self._log, self._out = folder / "log", folder / "out"
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RAY_", "RAYCURRENT_", "PROMETHEUS_"))
        }
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text("0123456789abcdef" * 4)
        environment |= {"RAY_AUTH_TOKEN_PATH": str(token), "RAY_AUTH_MODE": "token", "OMP_NUM_THREADS": "1"}
        self._started_s = time.monotonic()
        self._family: set[Process] = set()
        self._folders: set[str] = set()
        with self._log.open("wb") as log, self._out.open("wb") as out:
            self._popen = subprocess.Popen(
                [*program, *arguments],
                cwd=conftest.REPOSITORY,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                start_new_session=True,
            )

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def output(self) -> str:
        return self._out.read_text(errors="replace")

    def family(self) -> set[Process]:
        """The driver and all that descend from it now; whoever was once seen is remembered for the end."""
        children: dict[int, list[Process]] = {}
        for path in Path("/proc").iterdir():
            found = Process.at(int(path.name)) if path.name.isdigit() else None
            if found is not None:
                children.setdefault(found[1], []).append(found[0])
        driver = Process.at(self._popen.pid)
        family = {driver[0]} if driver is not None else set()
        queue = [process.pid for process in family | self._family if process.is_alive()]
        while queue:
            for child in children.get(queue.pop(), []):
                if child not in family:
                    family.add(child)
                    queue.append(child.pid)
        self._family |= family
        with contextlib.suppress(OSError):
            self._folders |= set(PRIVATE_FOLDER.findall(Path(f"/proc/{self._popen.pid}/maps").read_text()))
        return family

    def workers(self, title: str) -> list[Process]:
        """The living workers of Ray whose title begins so, oldest first."""
        found = [process for process in self.family() if process.title().startswith(f"ray::{title}")]
        return sorted(found, key=lambda process: int(process.born))

    def kill_at_work(self, title: str, chance: random.Random) -> None:
        """Waits for a worker that is at a task, whose title begins so, and kills it there."""

        def kill() -> bool:
            busy = self.workers(title)
            if not busy:
                return False
            worker = chance.choice(busy)
            worker.signal(signal.SIGSTOP)
            if not worker.title().startswith(f"ray::{title}"):  # it has just ended
                worker.signal(signal.SIGCONT)
                return False
            worker.signal(signal.SIGKILL)
            return True

        self.until(kill, f"a {title}")

    def until(self, condition: Callable[[], T | None], what: str, timeout_s: float = 280.0) -> T:
        """Waits for a condition while the command runs; returns what it gave."""
        deadline_s = time.monotonic() + timeout_s
        while not (found := condition()):
            assert self._popen.poll() is None, f"ended with {self._popen.returncode} before {what}\n{self.log()}"
            assert time.monotonic() < deadline_s, f"{what}: not within {timeout_s} s\n{self.log()}"
            time.sleep(POLL_S)
        return found

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def runs_for(self, seconds: float) -> bool:
        """Waits so long, or until the command ends; says whether it still runs."""
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def end(self, timeout_s: float = 280.0) -> Ended:
        """Waits for the end of the command."""
        before_s = _cpu_s()
        try:
            code = self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end within {timeout_s} s\n{self.log()}") from None
        elapsed_s = time.monotonic() - self._started_s
        return Ended(code, self.output(), self.log(), elapsed_s, _cpu_s() - before_s)

    def kill(self) -> None:
        """Kills the driver, and waits until no worker is left that it had."""
        self.family()
        self._popen.kill()
        self._popen.wait()
        killed_s = time.monotonic()
        while left := [title for title in map(Process.title, self._family) if is_worker(title)]:
            assert time.monotonic() - killed_s < ORPHANS_S, f"alive {ORPHANS_S} s after their driver: {left}"
            time.sleep(POLL_S)

    def clean_up(self) -> None:
        """Ends whatever is left, and removes the private folders of a driver that could not."""
        self.family()
        if self._popen.poll() is None:
            self._popen.kill()
            self._popen.wait()
        for process in self.family() | self._family:
            process.signal(signal.SIGKILL)
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)


def is_worker(title: str) -> bool:
    """Whether a process with this title is a worker of Ray."""
    return title.startswith("ray::") and not title.startswith(AGENTS)


def _cpu_s() -> float:
    """The CPU time of all children that were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def check_refused(second: Ended, verb: str) -> None:
    """A second driver was told at once who is there; on an idle machine its wall time is its CPU time."""
    assert second.code == 6, second.log
    assert f"is in use by {verb} on host" in second.log
    assert second.cpu_s < 5
    assert second.elapsed_s < 30


Drive = Callable[..., Driver]
