"""Multipart uploads that killed writers left in an S3 store: nobody sees their parts, and they are paid for.

An object above 100 MiB is uploaded in parts, which appear together at the end. The driver aborts an upload that fails;
that of a process that is killed stays. Google's and Azure's stores discard such parts themselves, after a week.
"""

import datetime
import logging
from typing import Any

from core.storage import temporary

_log = logging.getLogger(__name__)


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
