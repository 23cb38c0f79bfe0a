"""A store in memory in place of S3: it counts the requests of the real client, and answers them after a latency."""

import collections
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pytest

from core.storage import filesystems, location
from tests import s3

PAGE_NAMES = 1000  # names that one request lists
BUCKET = "s3://scale/"


class Made(NamedTuple):
    """Objects of a folder that are made when they are read, such as a million commit records."""

    names: Sequence[str]
    content: Callable[[str], bytes]


class FakeStore:
    """The methods of an fsspec filesystem that locations use, with as many requests as s3fs sends for each.

    Attributes:
        requests: all requests so far: of a kind, for a path, of a stage.
        in_series: the same requests with their times, for `s3.Requests.in_series`; kept where there is a latency.
        stage: what the requests from now on are for.
        latency_s: time until a request is answered.
        made: by folder, objects that are made when they are read.
        large: by path, the size of an object whose content repeats `content`.
    """

    def __init__(self, latency_s: float = 0.0, content: bytes = b"") -> None:
        self.requests: collections.Counter[tuple[str, str]] = collections.Counter()
        self.in_series = s3.Requests()
        self.stage = ""
        self.latency_s = latency_s
        self.made: dict[str, Made] = {}
        self.large: dict[str, int] = {}
        self._content = content
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def num(self, kind: str | None = None, stage: str | None = None) -> int:
        """Returns the number of requests, of one kind or stage or of all."""
        return sum(
            number
            for (of_stage, of_kind), number in self.requests.items()
            if kind in (None, of_kind) and stage in (None, of_stage)
        )

    def _request(self, kind: str, path: str, pages: int = 1) -> None:
        for _ in range(pages):
            started_s = time.monotonic()
            if self.latency_s:
                time.sleep(self.latency_s)
            # Apart: a heartbeat comes every few seconds, whatever the driver does.
            stage = "lock" if "/_lock" in path else self.stage
            with self._lock:
                self.requests[stage, kind] += 1
                if self.latency_s:
                    self.in_series.append(s3.Request(kind, path, started_s, time.monotonic()))

    def _find(self, path: str) -> bytes | None:
        folder, _, name = path.rpartition("/")
        if folder in self.made and path not in self._objects:
            return self.made[folder].content(name)
        return self._objects.get(path)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """Reads a range: one GET."""
        self._request("GET", path)
        if path in self.large:
            start, end = start or 0, min(self.large[path], self.large[path] if end is None else end)
            times = -(-(end - start) // len(self._content)) + 1
            first = start % len(self._content)
            return (self._content * times)[first : first + end - start]
        data = self._find(path)
        if data is None:
            raise FileNotFoundError(path)
        return bytes(memoryview(data)[start:end])  # a copy, as a client makes

    def size(self, path: str) -> int:
        """Returns a size: one HEAD."""
        self._request("HEAD", path)
        if path in self.large:
            return self.large[path]
        data = self._find(path)
        if data is None:
            raise FileNotFoundError(path)
        return len(data)

    def exists(self, path: str) -> bool:
        """Looks for an object and, if there is none, for a folder: a HEAD, and a LIST."""
        self._request("HEAD", path)
        if path in self.large or self._find(path) is not None:
            return True
        self._request("LIST", path)
        return any(name.startswith(f"{path}/") for name in self._objects)

    def ls(self, path: str, detail: bool = True) -> list[dict[str, str]]:
        """Lists a folder: a LIST for each thousand names."""
        prefix = f"{path.rstrip('/')}/"
        made = self.made.get(path.rstrip("/"))
        if made is not None:
            names = [*made.names]
        else:
            names = sorted({name[len(prefix) :].partition("/")[0] for name in self._objects if name.startswith(prefix)})
        self._request("LIST", path, max(1, -(-len(names) // PAGE_NAMES)))
        if not names:
            raise FileNotFoundError(path)
        return [{"name": prefix + name, "type": "file"} for name in names]

    def pipe_file(self, path: str, data: bytes, mode: str = "overwrite") -> None:
        """Writes an object: one PUT."""
        self._request("PUT", path)
        with self._lock:
            if mode == "create" and self._find(path) is not None:
                raise FileExistsError(path)
            self._objects[path] = data

    def rm_file(self, path: str) -> None:
        """Deletes an object: one DELETE."""
        self._request("DELETE", path)
        with self._lock:
            self._objects.pop(path, None)

    def rm(self, paths: Sequence[str]) -> None:
        """Deletes objects: one request for each thousand."""
        self._request("DELETE", paths[0], -(-len(paths) // PAGE_NAMES))
        with self._lock:
            for path in paths:
                self._objects.pop(path, None)

    def _strip_protocol(self, path: str) -> str:
        return path

    @contextlib.contextmanager
    def installed(self) -> Iterator[location.Location]:
        """Puts the store in the place of S3, and yields a folder of it."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(filesystems, "filesystem", lambda *_: self)
            yield location.Location.parse(f"{BUCKET}run")

    def by_stage(self) -> Mapping[str, collections.Counter[str]]:
        """Returns the number of requests by stage and kind, in order of the stages."""
        counts: dict[str, collections.Counter[str]] = {}
        for (stage, kind), number in self.requests.items():
            counts.setdefault(stage, collections.Counter())[kind] += number
        return counts


def quiet(_: Any) -> None:
    """Does nothing with a value."""
