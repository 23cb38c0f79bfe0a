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
