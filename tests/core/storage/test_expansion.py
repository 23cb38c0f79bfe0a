"""Files that names give: files, folders and globs, locally and in an object store."""

import os
import pathlib
import uuid
from collections.abc import Callable

import pytest

from core import errors
from core.storage import expansion, location

FILES = ("a.txt", "b.txt", "c.txt.gz", "[1].txt", ".hidden.txt", "_made.txt", "deep/d.txt", "deep/er/e.txt")


@pytest.fixture
def at(root: location.Location) -> Callable[[str], location.Location]:
    """A function that returns the location of a name in a folder with `FILES`, of each kind of store."""
    folder = root.join("in")
    for name in FILES:
        folder.join(name).put_if_absent(b"x\n")
    return lambda name: folder.join(name) if name else folder


def _names(at: Callable[[str], location.Location], *names: str) -> list[str]:
    found = expansion.collect([at(name) for name in names], "--input")
    assert all(file.path.exists() for file in found)
    return [file.name for file in found]


def test_a_folder_gives_its_visible_files(at: Callable[[str], location.Location]) -> None:
    assert _names(at, "") == ["[1].txt", "a.txt", "b.txt", "c.txt.gz"]
    assert _names(at, "deep") == ["d.txt"]
    assert not expansion.is_single(at(""))


def test_a_name_with_brackets_that_exists_is_taken_as_it_is(at: Callable[[str], location.Location]) -> None:
    assert _names(at, "[1].txt") == ["[1].txt"]
    assert expansion.is_single(at("[1].txt"))
    assert _names(at, "[ab].txt") == ["a.txt", "b.txt"]
    assert not expansion.is_single(at("[ab].txt"))
    assert not expansion.is_single(at("a*"))  # also a glob that matches one file


def test_a_glob_names_files_below_its_last_folder_without_a_wildcard(at: Callable[[str], location.Location]) -> None:
    assert _names(at, "*.txt") == ["[1].txt", "_made.txt", "a.txt", "b.txt"]
    assert _names(at, "deep/*") == ["d.txt"]
    assert _names(at, "d*/*.txt") == ["deep/d.txt"]
    assert _names(at, "deep/**/*.txt") == ["d.txt", "er/e.txt"]


def test_several_names_are_kept_in_their_order(at: Callable[[str], location.Location]) -> None:
    assert _names(at, "deep", "b.txt", "c*") == ["d.txt", "b.txt", "c.txt.gz"]


def test_names_that_give_no_file_or_one_twice_are_refused(at: Callable[[str], location.Location]) -> None:
    with pytest.raises(errors.UsageError, match=r"^--input: .*/z\.txt does not exist; check the path"):
        _names(at, "a.txt", "z.txt")
    with pytest.raises(errors.UsageError, match=r"^--input: .*/z\* matches no file; check the path"):
        _names(at, "z*")
    with pytest.raises(errors.UsageError, match=r"a\.txt is named twice; name it once"):
        _names(at, "a.txt", "*.txt")
    at("bare/.hidden").put_if_absent(b"")
    with pytest.raises(errors.UsageError, match=r"bare has no visible files directly in it; .*bare/\*\*/\*\.txt"):
        _names(at, "bare")


def test_a_pipe_is_read_only_where_it_is_named(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    folder = location.Location.parse(str(tmp_path))
    assert [file.name for file in expansion.collect([folder.join("pipe")], "--input")] == ["pipe"]
    with pytest.raises(errors.UsageError, match="is a pipe, not a regular file; name files"):
        expansion.collect([folder], "--input")
    with pytest.raises(errors.UsageError, match="'/dev/zero' is a device"):
        expansion.collect([location.Location.parse("/dev/zero")], "--input")


def test_a_folder_is_listed_with_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of a million objects would take hours with one for each."""
    folder = location.Location.parse(f"memory://{uuid.uuid4().hex}/in")
    for number in range(5):
        folder.join(f"{number}.txt").put_if_absent(b"")
    listed: list[location.Location] = []
    original = location.Location._list_remote

    def counted(self: location.Location, folders: bool) -> list[str]:
        listed.append(self)
        return original(self, folders)

    monkeypatch.setattr(location.Location, "_list_remote", counted)
    assert len(expansion.expand(folder, "--input")) == 5
    assert listed == [folder, folder]  # whether it is a folder, and what is in it
