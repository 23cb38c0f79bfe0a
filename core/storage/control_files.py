"""Control files: the JSON documents that decisions are read from, each with the hash of its own content.

Manifests, plans, commit records, indices, locks and `run.json` decide what is read, resumed, removed and believed. A
flipped bit in one of them would be another decision without an error, so each begins with the SHA-256 of the bytes that
follow. Files of release 0.1 have none, and are read as they are.
"""

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

from core import errors
from core.storage import json_values, location

SHA256 = "sha256"
# Far above what we write: a few kilobytes, and a manifest of 100 million lines, with 300 bytes a part.
MAX_BYTES = 1 << 24
MAX_MANIFEST_BYTES = 1 << 29
_HEAD = '{{\n "' + SHA256 + '": "{}",'


def encode_plain(content: Mapping[str, Any]) -> bytes:
    """Returns a JSON document with sorted keys and without a hash: equal content gives equal bytes."""
    # Encoded incrementally: `json.dumps` would hold a manifest of many parts in memory several times.
    # NaN is refused here: no strict JSON reader, ours included, would read it back.
    encoder = json.JSONEncoder(sort_keys=True, ensure_ascii=False, indent=1, allow_nan=False)
    text = io.BytesIO()
    text.writelines(chunk.encode() for chunk in encoder.iterencode(content))
    return text.getvalue() + b"\n"


def encode(content: Mapping[str, Any]) -> bytes:
    """Returns a control file: the JSON document of `encode_plain`, led by the SHA-256 of the bytes after it."""
    assert content, "a control file says something"
    assert SHA256 not in content, f"{SHA256} is the name of the file's own hash"
    rest = encode_plain(content).removeprefix(b"{")
    return _HEAD.format(hashlib.sha256(rest).hexdigest()).encode() + rest


def parse(data: bytes, where: str) -> dict[str, Any]:
    """Parses a control file and returns its content, without the hash.

    Raises:
        IntegrityError: it is damaged, or no JSON object.
    """
    content = json_values.parse(data, where)
    if not isinstance(content, dict):
        raise errors.IntegrityError(f"{where}: is not a JSON object; restore or remove it")
    sha256 = content.pop(SHA256, None)
    if sha256 is None:
        return content
    head = _HEAD.format(sha256).encode()
    actual = hashlib.sha256(data.removeprefix(head)).hexdigest()
    if not data.startswith(head) or actual != sha256:
        raise errors.IntegrityError(
            f"{where}: is damaged, or was changed by hand: its hash is {str(sha256)[:16]}…, that of its content "
            f"{actual[:16]}…; restore or remove it"
        )
    return content


def read(path: location.Location, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Reads a control file and returns its content, without the hash.

    Raises:
        NotFoundError: it does not exist.
        IntegrityError: it is damaged, larger than `max_bytes`, or no regular file.
    """
    return parse(read_bounded(path, max_bytes), str(path))


def read_if_there(path: location.Location, max_bytes: int = MAX_BYTES) -> dict[str, Any] | None:
    """Reads a control file as `read` does; None if it does not exist."""
    try:
        return read(path, max_bytes)
    except errors.NotFoundError:
        return None


def read_bounded(path: location.Location, max_bytes: int) -> bytes:
    """Reads a file that is known to be small, and no more than `max_bytes` of it.

    Raises:
        NotFoundError: it does not exist.
        IntegrityError: it is larger, or no regular file: what we write is neither.
    """
    try:
        data = path.read_range(0, max_bytes + 1)
    except errors.UsageError as error:  # a folder, a pipe, a device
        raise errors.IntegrityError(f"{error}") from error
    if len(data) > max_bytes:
        raise errors.IntegrityError(f"{path}: is larger than {max_bytes} bytes, so not a file of ours; restore it")
    return data


@contextlib.contextmanager
def parsing(where: str, remedy: str = "restore it") -> Iterator[None]:
    """Turns what a malformed document raises while its fields are read into an IntegrityError.

    Files of before have no hash, and a forged one may have any: their fields are data until they are validated.
    """
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise errors.IntegrityError(f"{where}: is not complete or not valid ({what}); {remedy}") from error
