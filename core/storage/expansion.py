"""Expansion of the names that users write: files, folders and globs, on every filesystem.

A name that exists is taken as it is, brackets and all; else it is a glob. A folder is short for the visible
files directly in it.
"""

import collections
from collections.abc import Sequence
from typing import NamedTuple

from core import errors
from core.storage import location, streams

_WILDCARDS = "*?["


class NamedFile(NamedTuple):
    """A file that was named, or that a folder or glob gave.

    Attributes:
        name: its path below the named folder, or below the last folder before the first wildcard; of a file its name.
        path: its location.
    """

    name: str
    path: location.Location


def is_single(named: location.Location) -> bool:
    """Returns whether a name is that of one file: not of a folder, and no glob."""
    return not _is_folder(named) if named.exists() else not _has_wildcards(named)


def collect(names: Sequence[location.Location], where: str) -> list[NamedFile]:
    """Returns the files that several names give, those of each name in sorted order.

    Args:
        names: files, folders and globs.
        where: the option that has them, for messages.

    Raises:
        UsageError: a name matches no file, two give the same file, or one gives a device, or a pipe that it does not
            name itself.
    """
    files = [file for named in names for file in _collect(named, where)]
    path, count = collections.Counter(file.path for file in files).most_common(1)[0]
    if count > 1:
        raise errors.UsageError(f"{where}: {path} is named twice; name it once")
    return files


def expand(named: location.Location, where: str) -> list[location.Location]:
    """Returns the files that a name gives, sorted; none if it matches nothing.

    Only one level: folders inside a named folder, and folders that match a glob, are left out.

    Raises:
        UsageError: one is a device, or a pipe that is not named itself: nothing may ever write to it.
    """
    files = [named.join(name) for name in _visible_files(named)] if _is_folder(named) else named.glob()
    for file in files:
        streams.refuse_device(file, where)
        if file != named and streams.is_stream(file):
            raise errors.UsageError(f"{where}: {str(file)!a} is a pipe, not a regular file; name files")
    return files


def _collect(named: location.Location, where: str) -> list[NamedFile]:
    files = expand(named, where)
    if not files:
        raise errors.UsageError(f"{where}: {named} {_reason(named)}")
    if files == [named]:
        return [NamedFile(named.name, named)]
    base = (named if _is_folder(named) else _folder_of_glob(named)).url.rstrip("/")
    return [NamedFile(file.url.removeprefix(f"{base}/"), file) for file in files]


def _reason(named: location.Location) -> str:
    if _is_folder(named):
        return f"has no visible files directly in it; name them, or use a glob such as {named}/**/*.txt"
    return f"{'matches no file' if _has_wildcards(named) else 'does not exist'}; check the path"


def _has_wildcards(path: location.Location) -> bool:
    return any(character in path.url for character in _WILDCARDS) and not path.is_web


def _folder_of_glob(path: location.Location) -> location.Location:
    """Returns the last folder before the first wildcard."""
    first = min(path.url.index(character) for character in _WILDCARDS if character in path.url)
    return location.Location(path.url[: path.url.rindex("/", 0, first)])


def _is_folder(path: location.Location) -> bool:
    if path.is_local:
        return path.path.is_dir()
    # Object stores have no folders: a name with names below it is one. Web servers list nothing.
    return not path.is_web and bool(path.list_names())


def _visible_files(folder: location.Location) -> list[str]:
    """Lists a folder without names that begin with `.` or `_`, which other tools use for their own files."""
    return [name for name in folder.list_names(folders=False) if not name.startswith((".", "_"))]
