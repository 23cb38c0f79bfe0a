"""Object stores as filesystems of Arrow, for libraries that want one: they go through our drivers."""

from typing import Any

from pyarrow import fs

from core.storage import filesystems, location, urls

_ATTEMPTS = 8  # the driver tries again by itself: a library does not know which errors are transient


class _Handler(fs.FSSpecHandler):  # type: ignore[misc] # without types
    """The driver of a store, pickled as its URL: whoever reads it makes a driver as all of ours are made."""

    def __init__(self, url: str) -> None:
        scheme, authority, _ = urls.split(url)
        super().__init__(filesystems.filesystem(scheme, authority, _ATTEMPTS))
        self.url = url

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.url,)


def of(folder: location.Location) -> tuple[str, fs.FileSystem]:
    """Returns the path of a folder in an object store, and the filesystem of the store, which can be pickled.

    Raises:
        UsageError: the driver is not installed.
        StorageError: the environment does not say how to reach the store.
    """
    handler = _Handler(folder.url)
    return str(handler.fs._strip_protocol(folder.url)), fs.PyFileSystem(handler)
