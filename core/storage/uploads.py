"""Objects that are uploaded in parts, which appear together at the end: no reader sees a part of one.

An upload that fails is aborted; that of a process that is killed stays. In an S3 store nobody sees its parts, and they
are paid for. Google's and Azure's stores discard them themselves, after a week.
"""

import contextlib
import datetime
import io
import logging
from collections.abc import Callable
from typing import Any, BinaryIO, cast

from core.storage import temporary

PART_BYTES = 1 << 25  # S3 allows 10,000 parts, so that an object may have 312 GiB
_log = logging.getLogger(__name__)


def write(
    content: Callable[[BinaryIO], object], begin: Callable[[], Any] | None, is_taken: Callable[[], bool]
) -> bytes | None:
    """Uploads what a function writes, unless it fits into one part; returns what was not uploaded.

    Args:
        content: writes the bytes into an open file.
        begin: opens the object for writing: what is written appears when that file is closed; None uploads nothing.
        is_taken: returns whether the name is taken; asked before the upload begins.

    Raises:
        FileExistsError: it is.
    """
    parts = _Parts(begin, is_taken)
    try:
        content(cast(BinaryIO, parts))
        if parts.upload is None:
            return parts.held.getvalue()
        parts.upload.close()
    except BaseException:
        if parts.upload is not None:
            _discard(parts.upload)
        raise
    return None


class _Parts(io.RawIOBase):
    """A file that begins an upload when there is more than one part."""

    def __init__(self, begin: Callable[[], Any] | None, is_taken: Callable[[], bool]) -> None:
        self.held = io.BytesIO()
        self.upload: Any = None
        self._begin = begin
        self._is_taken = is_taken

    def writable(self) -> bool:
        """Returns True."""
        return True

    def write(self, data: Any) -> int:
        """Writes bytes behind those before."""
        if self.upload is None:
            self.held.write(data)
            if self._begin is not None and self.held.tell() > PART_BYTES:
                if self._is_taken():
                    raise FileExistsError("the name is taken")
                self.upload = self._begin()
                self.upload.write(self.held.getvalue())
                self.held = io.BytesIO()
        else:
            self.upload.write(data)
        return len(data)


def _discard(upload: Any) -> None:
    # The error that ends the upload is the one to report.
    with contextlib.suppress(Exception):
        if hasattr(upload, "discard"):  # Azure's has none
            upload.discard()
    # Else its finalizer would complete it.
    upload.closed = True


def abort_abandoned(driver: Any, bucket: str, key: str) -> None:
    """Aborts the uploads to an object, and to those below it, to which nothing was added for `temporary.ABANDONED_S`.

    The first thousand; the next call finds the others. Times are those of the store, whose clock is ours: it refuses
    requests that are more than a quarter of an hour off.
    """
    # Some stores ignore the prefix; what begins with it may be a neighbour, as `out.txt.parts` is of `out.txt`.
    for upload in driver.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=key).get("Uploads", []):
        if upload["Key"] != key and not upload["Key"].startswith(f"{key}/"):
            continue
        name = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
        if _is_old(upload["Initiated"]) and all(
            _is_old(part["LastModified"]) for part in driver.call_s3("list_parts", **name).get("Parts", [])
        ):
            driver.call_s3("abort_multipart_upload", **name)
            _log.info("s3://%s/%s: aborted an upload that was abandoned", bucket, upload["Key"])


def _is_old(time: datetime.datetime) -> bool:
    return (datetime.datetime.now(datetime.UTC) - time).total_seconds() > temporary.ABANDONED_S
