"""Private temporary folders: nobody else reads them, and what a killed run left is removed by the next one alone."""

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from core import errors
from core.storage import private_folders


def make_old(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (1, 1))


def test_all_folders_on_the_way_are_private(tmp_path: Path) -> None:
    """Ranks and exporters make the folder again that a driver has removed."""
    old_umask = os.umask(0)
    try:
        private_folders.make(tmp_path / "rc-x" / "metrics" / "a")
    finally:
        os.umask(old_umask)
    modes = [path.stat().st_mode & 0o777 for path in (tmp_path / "rc-x", tmp_path / "rc-x/metrics")]
    assert modes == [0o700, 0o700]


def test_folders_of_killed_runs_are_removed_by_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left, recent, foreign, other = (tmp_path / name for name in ("rc-left", "rc-recent", "rc-foreign", "theirs"))
    for folder in (left, recent, foreign, other):
        (folder / "metrics").mkdir(parents=True)
        (folder / "metrics" / "counter_1.db").write_bytes(b"1")
        make_old(folder)
    os.utime(recent / "metrics")
    (tmp_path / "rc-link").symlink_to(other)
    real = Path.lstat

    def of_another_user(self: Path) -> os.stat_result:
        status = real(self)
        return os.stat_result((*status[:4], os.getuid() + 1, *status[5:])) if self == foreign else status

    monkeypatch.setattr(Path, "lstat", of_another_user)
    made = private_folders.create(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"rc-recent", "rc-foreign", "theirs", "rc-link", made.name}
    assert made.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("how", ["argument", "variable", "descriptor", "map"])
def test_a_folder_that_a_living_process_uses_stays(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "rc-used"
    folder.mkdir()
    (folder / "file").write_bytes(b"12345678")
    code = {
        "descriptor": "file = open(PATH)",
        "map": "import mmap; file = open(PATH, 'r+b'); map = mmap.mmap(file.fileno(), 0); file.close()",
    }.get(how, "")
    # The path is read from standard input, so that neither the command line nor the environment has it.
    program = f"PATH = input()\n{code}\nprint('ready', flush=True)\ninput()"
    arguments = [str(folder / "r")] if how == "argument" else []
    environment = {**os.environ, **({"PROMETHEUS_MULTIPROC_DIR": str(folder / "m")} if how == "variable" else {})}
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        process.stdin.write(f"{folder / 'file'}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ready\n"
        make_old(folder)
        private_folders.sweep(tmp_path)
        assert folder.exists()
        process.stdin.write("\n")
        process.stdin.close()
    private_folders.sweep(tmp_path)
    assert not folder.exists()


def test_a_full_disk_under_a_temporary_folder_is_an_error_of_ours_and_others_pass(tmp_path: Path) -> None:
    with pytest.raises(errors.StorageError, match="no space left"), private_folders.staging(tmp_path / "new"):
        raise OSError(errno.ENOSPC, "No space left on device")
    for ours in (FileNotFoundError(), errors.DataError("a bad line")):
        with pytest.raises(type(ours)), private_folders.staging(tmp_path / "new"):
            raise ours
    assert list((tmp_path / "new").iterdir()) == []


def test_a_temporary_folder_that_cannot_be_made_names_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(errors.StorageError, match=r"no temporary folder can be made there .*; set TMPDIR"):
        private_folders.create(tmp_path / "missing")

    def nowhere() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    with pytest.raises(errors.StorageError, match=r"TMPDIR: .*; set it to a folder"):
        private_folders.temporary_folder()


def test_a_folder_that_changes_while_it_is_looked_at_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "rc-changing"
    folder.mkdir()
    make_old(folder)
    real = os.walk

    def vanishing(path: Path) -> Any:
        yield from real(path)
        yield str(Path(path, "gone")), [], []

    monkeypatch.setattr(os, "walk", vanishing)
    private_folders.sweep(tmp_path)
    assert folder.exists()
