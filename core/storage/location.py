"""Locations: absolute URLs of files and folders, with reads and atomic writes on every filesystem.

Differences between stores are hidden here and nowhere else: their errors become ours, transient errors are retried
(`retries`), and writes are atomic.
"""

import contextlib
import functools
import glob
import io
import logging
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from core import errors
from core.storage import filesystems, json_values, local_files, retries, store_errors, temporary, uploads, urls

_NAMES_OF_REQUEST = 1000  # that one request deletes
_ATTEMPTS_AT_A_PART = 8  # to begin again with the first part would cost more than one request
# fsspec's store in memory looks a name up and writes it in two steps; the lock makes `create` atomic between threads.
_MEMORY_WRITES = threading.Lock()
_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, order=True)
class Location:
    """An absolute URL of a file or folder. It holds no connection, so it can be pickled, hashed and compared."""

    url: str

    @classmethod
    def parse(cls, text: str, where: str = "", base: str | None = None) -> "Location":
        """Parses a path or URL written by a user.

        Args:
            text: the path or URL.
            where: name of the setting or option, for error messages.
            base: folder that a relative path starts from; None: the current folder.

        Raises:
            UsageError: the text is not a location of an allowed kind.
        """
        return cls(urls.normalize(text, where, base))

    def __str__(self) -> str:
        return self.url.removeprefix("file://")

    def join(self, *names: str) -> "Location":
        """Returns the location of a name below this one. A name may contain slashes, but cannot leave the folder.

        Raises:
            UsageError: a name is absolute, empty or holds `..`.
        """
        segments = [segment for name in names for segment in name.split("/")]
        for segment in segments:
            if segment in ("", ".", "..") or "\0" in segment:
                raise errors.UsageError(f"{self}: {'/'.join(names)!r} is not a name below it; use plain names")
        return Location("/".join((self.url.removesuffix("/"), *segments)))

    @property
    def name(self) -> str:
        """The last segment of the URL."""
        return self.url.rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> "Location":
        """The enclosing folder; the topmost folder is its own parent."""
        scheme, authority, path = urls.split(self.url)
        return Location(f"{scheme}://{authority}{path.rpartition('/')[0] or ('/' if scheme == 'file' else '')}")

    @property
    def is_local(self) -> bool:
        """True for the filesystem of this machine, which may be a network filesystem."""
        return self.url.startswith("file://")

    @property
    def is_web(self) -> bool:
        """True for a web address, which can only be read."""
        return self.url.startswith(tuple(f"{scheme}://" for scheme in urls.READ_ONLY))

    @property
    def path(self) -> Path:
        """The local path.

        Raises:
            UsageError: the location is not local.
        """
        if not self.is_local:
            raise errors.UsageError(f"{self}: is not a local path; a local path is needed here")
        return Path(self.url.removeprefix("file://"))

    def read_bytes(self) -> bytes:
        """Reads the whole file."""
        _log.debug("read %s", self)
        if self.is_local:
            with self.open() as file:
                return self._call(file.read)
        if self.is_web:  # its server need not support ranges
            return self._call(lambda: cast(bytes, self._remote().cat_file(self.url)))
        return b"".join(filesystems.read_blocks(self._fetch, self.size_bytes, filesystems.RANGE_BYTES))

    def read_blocks(self, size_bytes: int | None = None) -> Iterator[bytes]:
        """Yields the content in blocks; several requests for an object are under way at a time.

        Args:
            size_bytes: the size of the file, if it is known.
        """
        if self.is_local or self.is_web:
            with self.open() as file:
                yield from iter(lambda: self._call(lambda: file.read(filesystems.BLOCK_BYTES)), b"")
            return
        size = self.size_bytes if size_bytes is None else lambda: size_bytes
        yield from filesystems.read_blocks(self._fetch, size, filesystems.BLOCK_BYTES)

    def read_range(self, start: int, stop: int) -> bytes:
        """Reads the bytes from `start` up to `stop`, or up to the end of the file."""
        if stop <= start:
            return b""
        if self.is_local:
            return self._call(lambda: local_files.read(self.path, start, stop))
        return self._fetch(start, stop)

    def size_bytes(self) -> int:
        """Returns the size of the file."""
        if self.is_local:
            return self._call(lambda: local_files.size_bytes(self.path))
        size = self._call(lambda: self._remote().size(self.url))
        if size is None:  # a web server may send no length
            raise errors.StorageError(f"{self}: the server does not report its size; download the file first")
        return int(size)

    @contextlib.contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Opens the file for reading; reads from an object store survive a broken connection.

        Raises:
            UsageError: it is a folder, a pipe, a device or a socket.
        """
        if self.is_local:
            file: BinaryIO = self._call(lambda: local_files.open_regular(self.path))
        # Web servers need not support ranges, so there is nothing to read again from after a broken connection.
        elif self.is_web:
            file = self._call(lambda: filesystems.download(self._remote(), self.url))
        else:
            reader = filesystems.RangeReader(self._fetch, self.size_bytes)
            file = cast(BinaryIO, io.BufferedReader(reader, filesystems.BLOCK_BYTES))
        with file:
            yield file

    def read_json(self) -> Any:
        """Reads a JSON document.

        Raises:
            IntegrityError: the file is not valid JSON.
        """
        return json_values.parse(self.read_bytes(), str(self))

    def exists(self) -> bool:
        """Returns whether there is a file or folder. Not atomic: use `put_if_absent` to decide who may write."""
        if self.is_local:
            return self._call(self.path.exists)
        return self._call(lambda: bool(self._remote().exists(self.url)))

    def is_file(self) -> bool:
        """Returns whether there is a file, by one request; `exists` asks a store for a listing, too, where none is."""
        if self.is_local:
            return self._call(self.path.is_file)
        with contextlib.suppress(errors.NotFoundError):
            self._fetch(0, 1)
            return True
        return False

    def list_names(self, folders: bool = True) -> list[str]:
        """Returns the sorted names in this folder, with or without those of folders; none if it does not exist."""
        try:
            if self.is_local:
                names = self._call(
                    lambda: [entry.name for entry in self.path.iterdir() if folders or not entry.is_dir()]
                )
            else:
                names = self._call(lambda: self._list_remote(folders))
        except errors.NotFoundError:
            return []
        # Sorted, because stores list in different orders, and results must not depend on them.
        return sorted(name for name in names if name and not temporary.is_temporary(name))

    def sweep(self, recursive: bool = True) -> None:
        """Removes what killed writers left in this folder; object stores show nothing before it is whole."""
        if self.is_local:
            temporary.sweep(self.path, recursive)

    def abort_uploads(self) -> None:
        """Aborts what killed writers were uploading to this object, or below this folder, if the store allows it."""
        if self.url.startswith("s3://"):
            _, bucket, key = urls.split(self.url)
            with contextlib.suppress(errors.StorageError):  # to list them takes a right that nothing else needs
                self._call(lambda: uploads.abort_abandoned(self._remote(), bucket, key.strip("/")))

    def glob(self) -> list["Location"]:
        """Returns the files that match this URL, sorted. Wildcards are expanded unless a file has exactly this name."""
        if self.is_web or self.exists():  # a name with brackets may be that of a file
            return [self]
        if self.is_local:
            paths = self._call(lambda: glob.glob(str(self.path), recursive=True))  # noqa: PTH207 (absolute patterns)
            return sorted(Location(f"file://{path}") for path in paths if Path(path).is_file())
        scheme, authority, _ = urls.split(self.url)
        matches = self._call(lambda: self._remote().glob(self.url, detail=True))
        # Drivers return `bucket/name`, some with a leading slash.
        names = [str(name).lstrip("/").partition("/")[2] for name, info in matches.items() if info["type"] == "file"]
        # As `glob` above: a wildcard does not match the dot of a hidden name.
        shown = [name for name in names if "/." not in f"/{name}" or "/." in self.url]
        return sorted(Location(f"{scheme}://{authority}/{name}") for name in shown)

    def put_if_absent(self, data: bytes) -> bool:
        """Writes a new file, atomically and durably; of several concurrent writers exactly one succeeds.

        If the reply to an earlier attempt was lost and the existing file equals `data`, the write counts as ours.

        Returns:
            False if the name is taken.
        """
        _log.debug("create %s, %d bytes", self, len(data))
        if self.is_local:
            return self._call(lambda: local_files.create(self.path, lambda file: file.write(data)))
        return self._create(
            lambda options: self._remote().pipe_file(self.url, data, **options), lambda: self.read_bytes() == data
        )

    def put_file_if_absent(self, path: Path) -> bool:
        """Copies a local file here, as `put_if_absent` does."""
        _log.debug("create %s from %s", self, path)
        if self.is_local:
            return self._call(lambda: local_files.create(self.path, lambda file: local_files.copy(path, file)))
        return self._create(
            lambda options: self._remote().put_file(str(path), self.url, **options), lambda: self._equals(path)
        )

    def write_if_absent(self, write: Callable[[BinaryIO], object]) -> bool:
        """Writes a new file, as `put_if_absent` does, from what a function writes into an open file.

        The function may be called again. A long object whose last reply was lost counts as another's: compare its hash.
        """
        _log.debug("create %s", self)
        if self.is_local:
            return self._call(lambda: local_files.create(self.path, write))
        written = self._call(lambda: store_errors.false_if_taken(lambda: self._upload(write, "xb")))
        return self.put_if_absent(written) if isinstance(written, bytes) else written is None

    def write_over(self, write: Callable[[BinaryIO], object]) -> None:
        """Writes the file, as `replace` does, from what a function writes into an open file."""
        _log.debug("replace %s", self)
        if self.is_local:
            self._call(lambda: local_files.replace(self.path, write))
            return
        short = self._call(lambda: self._upload(write, "wb"))
        if short is not None:
            self.replace(short)

    def _upload(self, write: Callable[[BinaryIO], object], mode: str) -> bytes | None:
        """Uploads what a function writes; returns it instead if it is short, or kept in memory anyway."""
        self._refuse_read_only()
        begin = functools.partial(self._remote(_ATTEMPTS_AT_A_PART).open, self.url, mode, block_size=uploads.PART_BYTES)
        # Only saves an upload for nothing: the end of one is conditional.
        is_taken = self.is_file if mode == "xb" else lambda: False
        return uploads.write(write, None if self._is_memory else begin, is_taken)

    def replace(self, data: bytes) -> None:
        """Writes the file, atomically and durably, replacing an existing one."""
        _log.debug("replace %s, %d bytes", self, len(data))
        self._replace(lambda file: file.write(data), lambda: self._remote().pipe_file(self.url, data))

    def replace_by_file(self, path: Path) -> None:
        """Copies a local file here, as `replace` does."""
        _log.debug("replace %s by %s", self, path)
        self._replace(lambda file: local_files.copy(path, file), lambda: self._remote().put_file(str(path), self.url))

    def take(self, other: "Location") -> None:
        """Moves a file of the same filesystem here, replacing an existing one: readers see the old or the new content.

        In an object store it is copied and then removed: after a crash it may be at both places.

        Raises:
            NotFoundError: the other file does not exist.
        """
        _log.debug("move %s to %s", other, self)
        if self.is_local:
            self._call(lambda: local_files.move(other.path, self.path))
            return
        self._replace(lambda _: None, lambda: self._remote().cp_file(other.url, self.url))
        other.remove()

    def _replace(self, write: Callable[[BinaryIO], object], put: Callable[[], object]) -> None:
        self._refuse_read_only()
        if self.is_local:
            self._call(lambda: local_files.replace(self.path, write))
            return
        with _MEMORY_WRITES if self._is_memory else contextlib.nullcontext():
            self._call(put)

    def remove_folder_if_empty(self) -> None:
        """Deletes the folder, if there is one and nothing is in it; an object store has no folders."""
        if self.is_local:
            with contextlib.suppress(OSError):  # not empty, not there, or not ours to remove
                self.path.rmdir()

    def remove(self) -> None:
        """Deletes the file, if it exists."""
        _log.debug("remove %s", self)
        self._refuse_read_only()
        with contextlib.suppress(errors.NotFoundError):
            if self.is_local:
                self._call(lambda: local_files.remove(self.path))
            else:
                self._call(lambda: self._remote().rm_file(self.url))

    def remove_names(self, names: Sequence[str]) -> None:
        """Deletes files of this folder; those of an object store a thousand by one request.

        For what nobody else may be using: between a question to a lock and such a request lies more than one file.
        """
        left: Sequence[str] = names
        # A driver takes a name with a wildcard for a pattern.
        if not (self.is_local or self._is_memory or glob.has_magic(self.url)):
            for start in range(0, len(names), _NAMES_OF_REQUEST):
                urls_of_request = [self.join(name).url for name in names[start : start + _NAMES_OF_REQUEST]]
                with contextlib.suppress(errors.NotFoundError):
                    self._call(functools.partial(self._remote().rm, urls_of_request))
            # Drivers do not report each file that could not be deleted.
            left = sorted(set(names).intersection(self.list_names())) if names else ()
        for name in left:
            self.join(name).remove()

    def free_bytes(self) -> int | None:
        """Returns the free space of the disk that this path is on; None for an object store."""
        if not self.is_local:
            return None
        folder = next(parent for parent in (self.path, *self.path.parents) if parent.exists())
        return self._call(lambda: shutil.disk_usage(folder).free)

    @property
    def _is_memory(self) -> bool:
        return self.url.startswith("memory://")

    def _refuse_read_only(self) -> None:
        if self.is_web:
            raise errors.UsageError(f"{self}: web addresses can only be read; write to a path or an object store")

    def _remote(self, attempts: int = 1) -> Any:
        scheme, authority, _ = urls.split(self.url)
        if self.is_web:
            filesystems.refuse_private_host(authority)
        return filesystems.filesystem(scheme, authority, attempts)

    def _fetch(self, start: int, stop: int) -> bytes:
        def fetch() -> bytes:
            try:
                return cast(bytes, self._remote().cat_file(self.url, start=start, end=stop))
            except Exception as error:
                # `start` is beyond the end; asking for the size first would cost a request.
                if store_errors.status(error) == 416:
                    return b""
                raise

        return self._call(fetch)

    def _list_remote(self, folders: bool) -> list[str]:
        filesystem = self._remote()
        own = filesystem._strip_protocol(self.url).strip("/")
        listed = filesystem.ls(self.url, detail=True)
        paths = [str(info["name"]).strip("/") for info in listed if folders or info["type"] == "file"]
        # The folder itself is listed where it is an object: some tools mark a folder by an empty one.
        return [path.rpartition("/")[2] for path in paths if path != own]

    def _equals(self, path: Path) -> bool:
        with path.open("rb") as file:
            return all(block == file.read(len(block)) for block in self.read_blocks()) and not file.read(1)

    def _create(self, put: Callable[[dict[str, Any]], object], equals: Callable[[], bool]) -> bool:
        self._refuse_read_only()
        # Put-if-absent is spelled differently in adlfs; s3fs sends `If-None-Match: *`.
        options = {"overwrite": False} if self.url.startswith("abfs://") else {"mode": "create"}
        attempts = 0

        def attempt() -> bool:
            nonlocal attempts
            attempts += 1
            return store_errors.false_if_taken(lambda: put(options)) is not False

        with _MEMORY_WRITES if self._is_memory else contextlib.nullcontext():
            created = self._call(attempt)
        # With one attempt the name was taken before it: equal bytes are another writer's, who has won.
        return created or (attempts > 1 and equals())

    def _call(self, call: Callable[[], _Result]) -> _Result:
        return retries.until_deadline(str(self), self.path if self.is_local else None, call)
