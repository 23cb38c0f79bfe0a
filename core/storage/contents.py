"""Content of a file to write: bytes, or a local file that may be larger than memory."""

import hashlib
from pathlib import Path

from core.storage import location

Content = bytes | Path


def sha256_and_size(content: Content) -> tuple[str, int]:
    """Returns the SHA-256 of some content, and its size in bytes."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest(), len(content)
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), content.stat().st_size


def put_if_absent(path: location.Location, content: Content) -> bool:
    """Writes a new file; see `Location.put_if_absent`."""
    return path.put_if_absent(content) if isinstance(content, bytes) else path.put_file_if_absent(content)


def replace(path: location.Location, content: Content) -> None:
    """Writes a file, replacing an existing one; see `Location.replace`."""
    if isinstance(content, bytes):
        path.replace(content)
    else:
        path.replace_by_file(content)
