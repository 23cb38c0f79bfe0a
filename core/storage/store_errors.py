"""Errors of stores: those of the filesystem, fsspec and its drivers, translated into ours, with the remedy."""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

from core import errors
from core.storage import local_files

_Result = TypeVar("_Result")
# Errors of botocore, by name: the library is an extra, and may not be installed.
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "TokenRetrievalError")
# Timeout, conflict of two conditional writes (S3), too early, too many requests. All from 500 on are transient, too.
_TRANSIENT_STATUS = (408, 409, 425, 429)


def translated(where: str, path: Path | None, error: Exception) -> errors.RaycurrentError | None:
    """Translates an error of a store, or returns None if a retry may succeed.

    Args:
        where: the location, for the message.
        path: its local path; None in an object store.
        error: what the filesystem or the driver raised.
    """
    if isinstance(error, FileNotFoundError):
        return errors.NotFoundError(f"{where}: does not exist; check the name")
    if isinstance(error, local_files.IrregularFileError):
        return errors.UsageError(f"{where}: is a {error}, not a regular file; name a file")
    if isinstance(error, IsADirectoryError):
        return errors.UsageError(f"{where}: is a folder; name a file")
    # Put-if-absent handles a taken name itself: here a folder was to be made where there is a file.
    if isinstance(error, (NotADirectoryError, FileExistsError)):
        return errors.UsageError(f"{where}: a part of this path is a file; name another folder")
    if isinstance(error, PermissionError) or status(error) in (401, 403) or _begins(error, "Forbidden: "):
        who = "the owner and mode of the folder" if path is not None else "the credentials and their rights"
        return errors.StorageError(f"{where}: access denied ({one_line(error)}); check {who}")
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT):
        return errors.StorageError(f"{where}: no space left{_free(path)}; free some or use another folder")
    if number == errno.ENAMETOOLONG:
        return errors.UsageError(f"{where}: the name is too long; shorten it")
    if type(error).__name__ in _NO_CREDENTIALS:
        return errors.StorageError(f"{where}: {one_line(error)}; set the store's credential variables")
    code = status(error)
    # An error without a status, such as a broken connection or a malformed reply, counts as transient.
    if path is not None or _is_our_mistake(error) or (400 <= code < 500 and code not in _TRANSIENT_STATUS):
        return errors.StorageError(f"{where}: {one_line(error)}; check the location and its store")
    return None


def _is_our_mistake(error: Exception) -> bool:
    # Repeating a wrong call does not help; botocore validates names before it sends a request.
    return (
        isinstance(error, (TypeError, AttributeError, NotImplementedError))
        or type(error).__name__ in ("ParamValidationError", "InvalidURL", "TooManyRedirects")
        or _begins(error, "Bad Request: ")
    )


def _begins(error: Exception, text: str) -> bool:
    # gcsfs raises plain errors for the statuses 400 and 403, and names the kind in the text alone.
    return type(error) in (OSError, ValueError) and str(error).startswith(text)


def status(error: BaseException) -> int:
    """Returns the HTTP status in an error of a driver or in its cause, or 0."""
    # s3fs raises an OSError of its own from that of botocore, which has the status.
    for candidate in (error, error.__cause__):
        # A dictionary in botocore; elsewhere the status is an attribute of the error.
        response = getattr(candidate, "response", None)
        if isinstance(response, dict):
            return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        for name in ("status", "status_code", "code"):
            value = getattr(candidate, name, None)
            if isinstance(value, int):
                return value
    return 0


def false_if_taken(put: Callable[[], _Result]) -> _Result | Literal[False]:
    """Returns the result of a conditional write, or False if the name is taken."""
    try:
        return put()
    except OSError as error:
        if isinstance(error, FileExistsError) or status(error) == 412:  # precondition failed
            return False
        raise


def _free(path: Path | None) -> str:
    if path is None:
        return ""
    # The folder may not have been made yet; its disk is that of the nearest parent.
    folder = next(parent for parent in path.parents if parent.exists())
    return f": {shutil.disk_usage(folder).free} bytes are free"


def one_line(error: BaseException) -> str:
    """Returns the message of an error on one line, without its number; its class where it has none."""
    text = " ".join((getattr(error, "strerror", None) or str(error)).split())
    return text[:200] or type(error).__name__
