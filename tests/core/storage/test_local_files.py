"""Local files: who comes first keeps the name, and what is no regular file is never waited for."""

import os
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from core.storage import local_files


def test_a_name_that_is_taken_during_the_write_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "x"

    def write(file: BinaryIO) -> None:
        file.write(b"late")
        path.write_bytes(b"first")

    assert not local_files.create(path, write)
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_that_was_made_although_it_failed_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS repeats a request whose reply was lost, and then reports the first one's link as another's."""
    real = os.link

    def repeated(*arguments: Any) -> None:
        real(*arguments)
        raise FileExistsError

    monkeypatch.setattr(os, "link", repeated)
    assert local_files.create(tmp_path / "x", lambda file: file.write(b"ours"))
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.timeout(20)
def test_a_pipe_put_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes between the look at the name and the opening; nobody writes to it."""
    path = tmp_path / "x"
    os.mkfifo(path)
    monkeypatch.setattr(local_files, "size_bytes", lambda path: 5)
    with pytest.raises(local_files.IrregularFileError, match="pipe"):
        local_files.open_regular(path)


def test_a_folder_that_a_finishing_driver_removes_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = local_files.make_folder
    removals: list[Path] = []

    def removed_at_first(folder: Path) -> None:
        real(folder)
        if len(removals) < num_removals:
            removals.append(folder)
            folder.rmdir()

    monkeypatch.setattr(local_files, "make_folder", removed_at_first)
    num_removals = local_files._FOLDER_ATTEMPTS - 1
    local_files.replace(tmp_path / "out/x", lambda file: file.write(b"ours"))
    assert (tmp_path / "out/x").read_bytes() == b"ours"
    removals.clear()
    num_removals = local_files._FOLDER_ATTEMPTS
    with pytest.raises(FileNotFoundError):
        local_files.replace(tmp_path / "new/x", lambda file: file.write(b"ours"))


def test_without_hard_links_an_interrupted_write_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError

    def interrupted(file: BinaryIO) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(KeyboardInterrupt):
        local_files._create_without_links(tmp_path / "x", interrupted, local_files.FILE_MODE)
    assert list(tmp_path.iterdir()) == []
