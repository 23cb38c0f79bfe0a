"""fsspec filesystems: drivers without listing caches and without retries of their own, and downloads."""

import functools
import io
import ipaddress
import os
import socket
import tempfile
import types
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

import fsspec

from core import errors
from core.storage import concurrent

CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 30
BLOCK_BYTES = 1 << 22  # of the first request for an object, and of those of a reader
RANGE_BYTES = 1 << 24  # of the further requests for a large object
_EXTRAS = {"s3": "s3", "gs": "gcs", "abfs": "azure"}
# Variables that say which store a driver speaks to.
_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    "gs": ("STORAGE_EMULATOR_HOST",),
    "abfs": ("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT_NAME"),
}


def filesystem(scheme: str, authority: str, attempts: int = 1) -> Any:
    """Returns the fsspec driver of a store, cached per process, since connections do not survive a fork.

    Args:
        scheme: beginning of the URL.
        authority: bucket or host.
        attempts: how often the driver itself tries a request; more than once only where the caller cannot.

    Raises:
        UsageError: the driver is not installed.
        StorageError: the environment does not say how to reach the store.
    """
    # Part of the cache key: another endpoint is another store.
    endpoint = next(filter(None, map(os.environ.get, _ENDPOINTS.get(scheme, ()))), "")
    return _filesystem(scheme, authority if scheme == "abfs" else "", endpoint, attempts, os.getpid())


@functools.lru_cache(maxsize=32)
def _filesystem(scheme: str, authority: str, endpoint: str, attempts: int, pid: int) -> Any:
    del pid  # only part of the cache key
    # fsspec caches instances over a fork, and listings without regard to other writers, whose files would be missed.
    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if scheme == "s3":
        settings: dict[str, Any] = {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            # Retries of several layers multiply: 25 requests in 45 s were measured for one failing call.
            "retries": {"total_max_attempts": attempts, "mode": "standard"},
        }
        if endpoint:
            # Stores other than Amazon's rarely support virtual-hosted addresses (bucket.host).
            settings["s3"] = {"addressing_style": "path"}
        options["config_kwargs"] = settings
    if scheme == "gs":
        # Else the driver asks by gRPC which kind of bucket it is: up to a minute and a warning where gRPC is blocked.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        if endpoint:
            # As Google's own client; else each process looks for credentials in a metadata server for 10 s.
            options["token"] = "anon"  # noqa: S105 (no secret)
    if scheme == "abfs":
        options.update(connection_timeout=CONNECT_TIMEOUT_S, read_timeout=READ_TIMEOUT_S)
    if scheme in ("http", "https"):
        # Refuse redirects: they could lead to an address that `refuse_private_host` would have refused.
        # 1 refuses the first redirect; 0 means no limit in aiohttp.
        options["max_redirects"] = 1
    try:
        driver, _ = fsspec.core.url_to_fs(f"{scheme}://{authority}/" if authority else f"{scheme}://", **options)
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        what_to_do = f"run: pip install 'raycurrent[{extra}]'" if extra else f"install {error.name}"
        raise errors.UsageError(f"{scheme}://: its driver is not installed; {what_to_do}") from error
    except ValueError as error:  # of Azure's driver, without an account
        raise errors.StorageError(f"{scheme}://: {error}; set the store's credential variables") from error
    # s3fs has a loop of its own around those of botocore.
    if hasattr(driver, "retries"):
        driver.retries = 1
    if attempts == 1:
        _disable_retries(driver)
    return driver


def _disable_retries(driver: Any) -> None:
    """Turns off the retries of a driver, which would multiply ours.

    They would also hide from us that a write was tried before: a name that it has taken itself would count as taken by
    another writer.
    """
    # gcsfs has them in a decorator, adlfs in a policy of Azure's client.
    request = getattr(getattr(type(driver), "_request", None), "__wrapped__", None)
    if request is not None:
        driver._request = types.MethodType(request, driver)
    pipeline = getattr(getattr(driver, "service_client", None), "_pipeline", None)
    for policy in getattr(pipeline, "_impl_policies", ()):
        if hasattr(policy, "total_retries"):
            policy.total_retries = 0


def refuse_private_host(authority: str) -> None:
    """Refuses hosts with private addresses, against server-side request forgery (SSRF).

    Raises:
        UsageError: the host is, or resolves to, a non-public address.
    """
    # Without the port, and below without the brackets of an IPv6 address.
    host = authority.rpartition(":")[0] if authority.rpartition(":")[2].isdigit() else authority
    try:
        addresses = {str(entry[4][0]) for entry in socket.getaddrinfo(host.strip("[]"), None)}
    except OSError:
        return  # behind a proxy names may not resolve here; otherwise the request itself will fail
    # All of them: the request may use any. `%` begins the zone of a link-local IPv6 address.
    if not all(ipaddress.ip_address(address.partition("%")[0]).is_global for address in addresses):
        raise errors.UsageError(f"{authority}: is not a public address; download the file and name its path")


def download(driver: Any, url: str) -> BinaryIO:
    """Downloads a file of the web into an anonymous temporary file, positioned at its beginning."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 (the caller closes it)
    try:
        # block_size 0 streams the file: a server need not support ranges.
        with driver.open(url, "rb", block_size=0) as page:
            while data := page.read(1 << 20):
                file.write(data)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return cast(BinaryIO, file)


def read_blocks(fetch: Callable[[int, int], bytes], size_bytes: Callable[[], int], block_bytes: int) -> Iterator[bytes]:
    """Yields an object of a store in blocks; one request if it is shorter than a block, else several at a time.

    A driver would ask for the size first, and for a listing if the object is absent. Here the first range, longer than
    most objects, tells where a short one ends.

    Args:
        fetch: returns the bytes from a position up to another, or up to the end of the object.
        size_bytes: returns the size of the object.
        block_bytes: size of the blocks behind the first one.
    """
    beginning = fetch(0, BLOCK_BYTES)
    yield beginning
    if len(beginning) < BLOCK_BYTES:
        return
    size = size_bytes()
    starts = range(BLOCK_BYTES, size, block_bytes)
    yield from concurrent.map_in_order(lambda start: fetch(start, min(start + block_bytes, size)), starts)


class RangeReader(io.RawIOBase):
    """An object in a store, fetched range by range, so that each range can be retried on its own.

    The first block is fetched at once: an absent object is an error here, as a file is where it is opened.

    Args:
        fetch: returns the bytes from a position up to another, or up to the end of the object.
        size_bytes: returns the size of the object; called only to seek from the end of a large one.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], size_bytes: Callable[[], int]) -> None:
        self._fetch = fetch
        self._size_bytes = size_bytes
        self._position = 0
        self._beginning = fetch(0, BLOCK_BYTES)
        # Where the object ends is known from the first range that is shorter than what was asked for.
        self._end = len(self._beginning) if len(self._beginning) < BLOCK_BYTES else None

    def readable(self) -> bool:
        """Returns True."""
        return True

    def seekable(self) -> bool:
        """Returns True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to a position and returns it."""
        if whence == io.SEEK_END and self._end is None:
            self._end = self._size_bytes()
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._end or 0}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fetches the next range."""
        start, stop = self._position, self._position + len(buffer)
        if start < len(self._beginning):
            data = self._beginning[start:stop]
        elif start == stop or (self._end is not None and start >= self._end):
            data = b""
        else:
            data = self._fetch(start, stop)
            # An empty range may begin behind the end.
            if 0 < len(data) < stop - start:
                self._end = start + len(data)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
