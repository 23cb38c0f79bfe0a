"""URLs: normalization of user-written paths and URLs, allowed schemes, and refusal of likely mistakes."""

import os
import re
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from core import errors

Scheme = Literal["file", "s3", "gs", "abfs", "memory", "http", "https"]
SCHEMES: dict[str, Scheme] = {
    "file": "file",
    "s3": "s3",
    "gs": "gs",
    "gcs": "gs",
    "abfs": "abfs",
    "az": "abfs",
    "memory": "memory",
    "http": "http",
    "https": "https",
}
READ_ONLY = ("http", "https")
MAX_SEGMENT_BYTES = 255  # NAME_MAX of the usual Linux filesystems
# Names of the same stores in Hadoop and fsspec.
_ALMOST = {"s3a": "s3", "s3n": "s3", "abfss": "abfs", "local": "file"}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_LIKE_A_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|(s3|gs|gcs|abfs|az|file|memory|https?)//", re.IGNORECASE)


def normalize(text: str, where: str, base: str | None) -> str:
    """Returns the absolute URL of a path or URL: with an allowed scheme, single slashes and no `.` or `..`.

    Local paths become plain `file:///…` URLs without percent-encoding. A leading `~` is the home folder; variables
    are not expanded. Relative paths start from `base`, by default the current folder.

    Raises:
        UsageError: the text is empty, has a scheme that is not allowed, or looks like a mistyped URL.
    """
    where = f"{where}: " if where else ""
    _refuse_odd_characters(text, where)
    if match := _SCHEME.match(text):
        return _normalize_url(text, match[1], where)
    # fsspec would chain filesystems, such as simplecache::s3://…, with a cache that is not ours.
    if "::" in text.partition("/")[0]:
        raise errors.UsageError(
            f"{where}{text!r} is a chain of filesystems, which is not supported; name the file itself"
        )
    if re.match(r"[A-Za-z]:[\\/]", text):
        raise errors.UsageError(f"{where}{text!r} is a Windows path; use a path of this system or a URL")
    # fsspec takes any such text for a local path, and the run would write into a folder named `s3:`.
    if _LIKE_A_URL.match(text):
        # What precedes an `@` may be a password.
        shown = repr(text) if "@" not in text else f"…@{text.rpartition('@')[2]}"
        raise errors.UsageError(
            f"{where}{shown} looks like a URL without '://'; write it like s3://bucket/name, or put ./ before a file"
        )
    if base is not None and _SCHEME.match(base) and not text.startswith(("/", "~")):
        return normalize(f"{base.rstrip('/')}/{text}", where.removesuffix(": "), None)
    folder = Path.cwd() if base is None else Path(base)
    local = Path(text).expanduser() if re.match(r"~(/|$)", text) else Path(text)
    return _local_url(os.path.normpath(folder.absolute() / local), where)


def split(url: str) -> tuple[Scheme, str, str]:
    """Splits a normalized URL into scheme, authority (bucket, host; empty for local files) and path."""
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    return SCHEMES[scheme], authority, slash + path


def _refuse_odd_characters(text: str, where: str) -> None:
    if not text or text.isspace():
        raise errors.UsageError(f"{where}the location is empty; name a path or a URL")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise errors.UsageError(f"{where}{text!a} is not valid UTF-8; rename it") from None
    if any(character in text for character in "\0\n\r"):
        raise errors.UsageError(f"{where}{text!r} holds a line break or NUL; rename it")


def _normalize_url(text: str, written: str, where: str) -> str:
    scheme = SCHEMES.get(written)
    if scheme is None:
        near = SCHEMES.get(written.lower()) or _ALMOST.get(written.lower())
        what_to_do = f"write {near}://" if near else f"use {', '.join(f'{name}://' for name in SCHEMES)} or a path"
        raise errors.UsageError(f"{where}{written}:// is not a known kind of location; {what_to_do}")
    parts = _parse(text, written, where)
    authority = parts.netloc
    # Locations are stored and logged. Azure's `container@account` is a name, not a credential.
    if ":" in authority.rpartition("@")[0] or ("@" in authority and scheme != "abfs"):
        raise errors.UsageError(
            f"{where}{scheme}://…@{authority.rpartition('@')[2]} holds credentials; leave them to the environment"
        )
    rest = text[len(written) + 3 + len(authority) :]
    if scheme == "file":
        if authority:
            raise errors.UsageError(f"{where}{text!r} names the host {authority!r}; write file:///{authority}{rest}")
        return _local_url(os.path.normpath(rest or "/"), where)
    if not authority:
        raise errors.UsageError(f"{where}{text!r} has no bucket or host; write {scheme}://bucket/name")
    # The rest of a web address means what its server says: `//` and `..` are kept.
    if scheme in READ_ONLY:
        return f"{scheme}://{authority}{rest}"
    segments = [segment for segment in rest.split("/") if segment not in ("", ".")]
    # In an object store `..` is an ordinary name: normalizing it would read another object.
    if ".." in segments:
        raise errors.UsageError(f"{where}{text!r} contains '..'; write the location in full")
    return "/".join((f"{scheme}://{authority}", *segments))


def _parse(text: str, written: str, where: str) -> SplitResult:
    # Parse the authority only: '?' and '#' are ordinary characters in names of files and objects.
    authority = text[len(written) + 3 :].partition("/")[0]
    try:
        parts = urlsplit(f"{written}://{authority}")
        # Read for its check alone: the property raises ValueError for an invalid port.
        _ = parts.port
    except ValueError:
        raise errors.UsageError(f"{where}{text!r} is not a valid URL; check its host and port") from None
    return parts._replace(netloc=authority)


def _local_url(path: str, where: str) -> str:
    # `normpath` keeps two leading slashes, as POSIX allows; one file must have one URL.
    path = "/" + path.lstrip("/")
    for segment in PurePosixPath(path).parts:
        if len(segment.encode()) > MAX_SEGMENT_BYTES:
            raise errors.UsageError(f"{where}{segment[:40]!r}… is longer than {MAX_SEGMENT_BYTES} bytes; shorten it")
    return f"file://{path}"
