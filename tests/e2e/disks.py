"""Disks that are full or cannot be written: real ones, in a mount namespace of their own, and commands that run there.

Mounting needs root. The program below is started inside the namespace; it imports what commands import, once, and forks
for each of them, since a start of Python and torch takes longer than the commands.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.storage import temporary
from tests import conftest
from tests.e2e import driving

READY = "ready"


class Disk:
    """A file system in memory that only commands of this object see under its path."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.path = folder / "disk"
        self.path.mkdir()
        self._log = folder / "log"
        mount = f'mount -t tmpfs -o size={size_bytes} tmpfs "$1" && exec "$2" -m tests.e2e.disks'
        self._program = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", mount, "sh", str(self.path), sys.executable],
            cwd=conftest.REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(conftest.REPOSITORY)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if self._reply() != READY:
            _, log = self._program.communicate()
            pytest.skip(f"no file system can be mounted here: {log.strip()[-200:]}")
        # The same folder, as it is seen from outside of the namespace.
        self.inside = Path(f"/proc/{self._program.pid}/root{self.path}")

    def _reply(self) -> str:
        assert self._program.stdout is not None
        return self._program.stdout.readline().strip()

    def run(self, *arguments: str, scratch: Path | None = None) -> driving.Ended:
        """Runs a command; `scratch` is the folder of its temporary files, if not that of this machine."""
        assert self._program.stdin is not None
        folder = tempfile.gettempdir() if scratch is None else str(scratch)
        self._program.stdin.write(json.dumps([str(self._log), folder, *arguments]) + "\n")
        self._program.stdin.flush()
        code = int(self._reply())
        return driving.Ended(code, "", self._log.read_text(errors="replace"), 0.0, 0.0)

    def fill(self, free_bytes: int) -> None:
        """Writes a file that leaves so many bytes."""
        with (self.inside / "ballast").open("wb") as file:
            size = max(0, shutil.disk_usage(self.inside).free - free_bytes)
            os.posix_fallocate(file.fileno(), 0, size) if size else None

    def empty(self) -> None:
        """Removes everything."""
        for path in self.inside.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def forbid_writing(self) -> None:
        """Lets nothing be written any more."""
        command = ["nsenter", f"--mount=/proc/{self._program.pid}/ns/mnt", "mount", "-o", "remount,ro", str(self.path)]
        subprocess.run(command, check=True, capture_output=True)

    def files(self) -> dict[str, bytes]:
        """Returns all files but the ballast, the lock, and what tells of the last command."""
        return {
            name: path.read_bytes()
            for path in sorted(self.inside.rglob("*"))
            if path.is_file()
            and not (name := str(path.relative_to(self.inside))).endswith(("ballast", "run.json"))
            and not {"_lock", "metrics"} & set(path.relative_to(self.inside).parts)
        }

    def temporary_names(self) -> list[str]:
        """Returns the temporary files and folders."""
        return [str(path) for path in self.inside.rglob("*") if temporary.is_temporary(path.name)]

    def close(self) -> None:
        """Ends the program, and with it the file system."""
        assert self._program.stdin is not None
        self._program.stdin.close()
        self._program.wait(30)
        for stream in (self._program.stdout, self._program.stderr):
            if stream is not None:
                stream.close()


@contextlib.contextmanager
def mounted(folder: Path, size_bytes: int) -> Iterator[Disk]:
    """Yields a disk of this size; skips the test where none can be mounted."""
    if os.getuid() != 0 or shutil.which("unshare") is None or shutil.which("nsenter") is None:
        pytest.skip("needs root, unshare and nsenter, to mount a file system")
    disk = Disk(folder, size_bytes)
    try:
        yield disk
    finally:
        disk.close()


def _run(log: str, scratch: str, arguments: list[str]) -> int:
    """Runs a command in a process of its own, and returns its exit code."""
    pid = os.fork()
    if pid == 0:
        os.environ["TMPDIR"], tempfile.tempdir = scratch, None
        written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor, target in ((os.open(os.devnull, os.O_RDONLY), 0), (written, 2), (os.open(os.devnull, 1), 1)):
            os.dup2(descriptor, target)
        from jobs import __main__ as main

        code = 1
        try:
            code = main.main(arguments)
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _serve() -> None:
    import torch  # noqa: F401

    from jobs import (  # noqa: F401  # noqa: F401
        __main__,
        evaluate,
        forecast,
        generate,
        init,
        inspect,
        pipeline,
        prepare,
        report,
        score,
        train,
        translate,
    )

    print(READY, flush=True)
    for line in sys.stdin:
        log, scratch, *arguments = json.loads(line)
        print(_run(log, scratch, arguments), flush=True)


if __name__ == "__main__":
    _serve()
