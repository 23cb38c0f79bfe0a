"""Driver processes: commands as users start them, which a test can watch and kill."""

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
ORPHANS_S = 30.0  # workers of a dead driver end within this time
# Ray's agents on a node outlive it by up to a minute, idle, waiting for the head to return.
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
PRIVATE_FOLDER = re.compile(r"/tmp/rc-[A-Za-z0-9_]+")


@dataclasses.dataclass(frozen=True)
class Process:
    """A process, identified by its id and its start time: ids are reused."""

    pid: int
    born: str

    @classmethod
    def at(cls, pid: int) -> tuple[Self, int] | None:
        """Returns the process with this id and its parent's id; None if it is gone or a zombie."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else (cls(pid, fields[19]), int(fields[1]))

    def is_alive(self) -> bool:
        current = self.at(self.pid)
        return current is not None and current[0] == self

    def title(self) -> str:
        """Returns the title of the process; empty once it has ended."""
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
    """Result of a command; `cpu_s` does not depend on other load of the machine."""

    code: int
    stdout: str
    log: str
    elapsed_s: float
    cpu_s: float

    def document(self) -> dict[str, Any]:
        """Returns the JSON document that the command printed; fails unless it ended with 0."""
        assert self.code == 0, f"exit {self.code}\n{self.log}"
        document: dict[str, Any] = json.loads(self.stdout)
        return document


class Driver:
    """A running command, in a process session of its own; `program` replaces `python -m jobs`.

    It does not inherit the environment of Ray or of Raycurrent, so it never joins a cluster of the test's.
    """

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
        environment[conftest.NICENESS] = os.environ[conftest.NICENESS]
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
        """Returns the driver and its current descendants; all that were ever seen are remembered for `clean_up`."""
        children: dict[int, list[Process]] = {}
        for path in Path("/proc").iterdir():
            current = Process.at(int(path.name)) if path.name.isdigit() else None
            if current is not None:
                process, parent = current
                children.setdefault(parent, []).append(process)
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
        """Returns the living Ray workers whose title begins with `title`, oldest first."""
        workers = [process for process in self.family() if process.title().startswith(f"ray::{title}")]
        return sorted(workers, key=lambda process: int(process.born))

    def ranks(self) -> list[Process]:
        """Returns the living ranks of training, oldest first."""
        return self.workers("TrainingRank") or self.workers("RayTrainWorker")

    def kill_at_work(self, title: str, chance: random.Random) -> None:
        """Waits for a worker whose title begins with `title`, which names its task, and kills it during that task."""

        def kill() -> bool:
            busy = self.workers(title)
            if not busy:
                return False
            worker = chance.choice(busy)
            # Stopped first, so that the task cannot end between the check and the kill.
            worker.signal(signal.SIGSTOP)
            if not worker.title().startswith(f"ray::{title}"):  # the task has just ended
                worker.signal(signal.SIGCONT)
                return False
            worker.signal(signal.SIGKILL)
            return True

        self.until(kill, f"a {title}")

    def until(self, condition: Callable[[], T | None], what: str, timeout_s: float = 280.0) -> T:
        """Waits until a condition is true while the command runs; returns the condition's value."""
        deadline_s = time.monotonic() + timeout_s
        while not (value := condition()):
            assert self._popen.poll() is None, f"ended with {self._popen.returncode} before {what}\n{self.log()}"
            assert time.monotonic() < deadline_s, f"{what}: not within {timeout_s} s\n{self.log()}"
            time.sleep(POLL_S)
        return value

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def runs_for(self, seconds: float) -> bool:
        """Waits for some seconds or until the command ends; returns whether it is still running."""
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def end(self, timeout_s: float = 280.0) -> Ended:
        """Waits until the command ends; returns its result."""
        before_s = _cpu_s()
        try:
            code = self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end within {timeout_s} s\n{self.log()}") from None
        elapsed_s = time.monotonic() - self._started_s
        return Ended(code, self.output(), self.log(), elapsed_s, _cpu_s() - before_s)

    def kill(self) -> None:
        """Kills the driver, and waits until none of its workers is left."""
        self.family()
        self._popen.kill()
        self._popen.wait()
        killed_s = time.monotonic()
        while left := [title for title in map(Process.title, self._family) if is_worker(title)]:
            assert time.monotonic() - killed_s < ORPHANS_S, f"alive {ORPHANS_S} s after their driver: {left}"
            time.sleep(POLL_S)

    def clean_up(self) -> None:
        """Kills all remaining processes, and removes the private folders that a killed driver left behind."""
        self.family()
        if self._popen.poll() is None:
            self._popen.kill()
            self._popen.wait()
        for process in self.family() | self._family:
            process.signal(signal.SIGKILL)
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)


def is_worker(title: str) -> bool:
    """Returns whether a process with this title is a Ray worker, or one that is starting and has its title not yet."""
    is_starting = "/default_worker.py" in title and not Path(title.partition(" ")[0]).name.startswith("raylet")
    return is_starting or (title.startswith("ray::") and not title.startswith(AGENTS))


def _cpu_s() -> float:
    """Returns the CPU time of all child processes that were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def check_refused(second: Ended, verb: str) -> None:
    """Checks that a second driver was refused without torch, by CPU time: wall time depends on the machine's load."""
    assert second.code == 6, second.log
    assert f"is in use by {verb} on host" in second.log
    assert second.cpu_s < 3  # torch alone takes as long
    assert second.elapsed_s < 30


Drive = Callable[..., Driver]
