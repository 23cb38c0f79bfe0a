"""Temporary names: what a killed writer left is removed by the next driver, and nothing of a living one ever is."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.storage import local_files, location, private_folders, run_lock, temporary

# Each writes half of its content, says so, and waits to be killed.
WRITERS = {
    "a file of a root": "local_files.create(base / 'root' / 'checkpoints' / 'x', half)",
    "a control file that is replaced": "local_files.replace(base / 'root' / 'run.json', half)",
    "the copy of a source": """with private_folders.staging(base / 'root' / 'dataset' / '.staging') as folder:
    with (folder / 'raw').open('wb') as file: half(file)""",
}
PROGRAM = """
import sys
from pathlib import Path
from core.storage import local_files, private_folders
base = Path(sys.argv[1])
def half(file):
    file.write(b'half')
    file.flush()
    print('ready', flush=True)
    sys.stdin.readline()
"""


class Writer:
    """A process in the middle of a write."""

    def __init__(self, code: str, base: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM + code, str(base)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(base)},
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def left(base: Path) -> list[str]:
    """Returns the names below a folder that are temporary, and what is in such folders."""
    return [str(path) for path in base.rglob("*") if temporary.is_temporary(path.name)]


@pytest.fixture
def root(tmp_path: Path) -> location.Location:
    (tmp_path / "root").mkdir()
    return location.Location.parse(str(tmp_path / "root"))


@pytest.mark.parametrize("kind", WRITERS)
def test_what_a_killed_writer_left_is_removed_by_the_next_driver_and_not_before(
    tmp_path: Path, root: location.Location, kind: str
) -> None:
    writer = Writer(WRITERS[kind], tmp_path)
    try:
        with run_lock.RunLock(root, "train"):
            assert len(left(tmp_path)) == 1, "it is being written"
    finally:
        writer.kill()
    assert len(left(tmp_path)) == 1
    with run_lock.RunLock(root, "train"):
        assert left(tmp_path) == []


def test_what_a_worker_left_is_removed_when_its_driver_ends(tmp_path: Path, root: location.Location) -> None:
    with run_lock.RunLock(root, "train"):
        Writer(WRITERS["a file of a root"], tmp_path).kill()
        assert len(left(tmp_path)) == 1
    assert left(tmp_path) == []


def test_a_scratch_folder_of_a_killed_process_is_removed_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    writer = Writer("with private_folders.scratch() as folder: half((folder / 'merged.jsonl').open('wb'))", tmp_path)
    (folder,) = tmp_path.iterdir()
    os.utime(folder, (1, 1))
    with private_folders.scratch() as own:
        assert set(tmp_path.iterdir()) == {folder, own}, "a merge may take hours without a change of its folder"
    writer.kill()
    with private_folders.scratch() as own:
        assert list(tmp_path.iterdir()) == [own]
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(params=["of another machine", "of release 0.1"])
def unknown(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A temporary file whose writer cannot be asked for, and a folder beside it."""
    name = "-0123abcd-77-123456-0123456789abcdef" if request.param == "of another machine" else "-0123456789abcdef" * 2
    (tmp_path / f".staging{name}").mkdir()
    (tmp_path / f".staging{name}" / "raw").write_bytes(b"half")
    path = tmp_path / f".writing{name}.tmp"
    path.write_bytes(b"half")
    return path


def test_files_of_writers_that_cannot_be_asked_for_stay_for_a_while(tmp_path: Path, unknown: Path) -> None:
    temporary.sweep(tmp_path)
    assert len(left(tmp_path)) == 2
    old_s = time.time() - temporary.ABANDONED_S - 60
    os.utime(unknown, (old_s, old_s))
    (folder,) = tmp_path.glob(".staging*")
    os.utime(folder, (old_s, old_s))
    temporary.sweep(tmp_path)
    assert left(tmp_path) == [str(folder)], "its content is new"
    os.utime(folder / "raw", (old_s, old_s))
    temporary.sweep(tmp_path)
    assert left(tmp_path) == []


def test_a_file_of_another_user_stays(tmp_path: Path, unknown: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.utime(unknown, (1, 1))
    monkeypatch.setattr(os, "getuid", lambda: unknown.stat().st_uid + 1)
    temporary.sweep(tmp_path)
    assert unknown.exists()


def test_folders_below_are_swept_only_if_asked_for(tmp_path: Path) -> None:
    writer = Writer(WRITERS["a file of a root"], tmp_path)
    writer.kill()
    temporary.sweep(tmp_path, recursive=False)
    assert len(left(tmp_path)) == 1
    temporary.sweep(tmp_path)
    assert left(tmp_path) == []


def test_readers_do_not_see_temporary_names(root: location.Location, unknown: Path) -> None:
    assert location.Location.parse(str(unknown.parent)).list_names() == ["root"]
    assert not temporary.is_temporary("run.json")
    assert local_files.create(root.path / "x", lambda file: file.write(b"x"))


def test_a_file_that_vanishes_while_it_is_looked_at_is_no_error(
    tmp_path: Path, unknown: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> bool:
        raise FileNotFoundError

    monkeypatch.setattr(temporary, "_writer_has_ended", gone)
    temporary.sweep(tmp_path)
    assert unknown.exists()
