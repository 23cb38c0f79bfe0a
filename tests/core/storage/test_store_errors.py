"""Errors of disks and stores become one line of ours, or are repeated."""

import errno
import os
from pathlib import Path

import pytest

from core import errors
from core.storage import store_errors


def _numbered(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class NoCredentialsError(Exception):
    """Has the name of botocore's."""


class _ReplyError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__("a reply")
        self.status = status


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (_numbered(errno.ENAMETOOLONG), errors.UsageError, "the name is too long; shorten it"),
        (_numbered(errno.EDQUOT), errors.StorageError, "bytes are free; free some"),
        (_numbered(errno.EROFS), errors.StorageError, "Read-only file system; check"),
        (_numbered(errno.ENOTDIR), errors.UsageError, "a part of this path is a file"),
    ],
)
def test_an_error_of_a_disk_says_what_to_do(tmp_path: Path, error: OSError, kind: type[Exception], text: str) -> None:
    translated = store_errors.translated("here", tmp_path / "none" / "x", error)
    assert type(translated) is kind
    assert str(translated).startswith("here: ")
    assert text in str(translated)


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (NoCredentialsError("none found"), errors.StorageError, "set the store's credential variables"),
        (_ReplyError(403), errors.StorageError, "check the credentials"),
        (_ReplyError(400), errors.StorageError, "check the location"),
        (OSError("Forbidden: b/bucket/o\nno right"), errors.StorageError, "check the credentials"),
        (ValueError("Bad Request: b/bucket/o\ninvalid"), errors.StorageError, "check the location"),
        (_numbered(errno.ENOSPC), errors.StorageError, "no space left; free some"),
    ],
)
def test_an_error_of_a_store_that_no_retry_mends_says_what_to_do(
    error: Exception, kind: type[Exception], text: str
) -> None:
    translated = store_errors.translated("here", None, error)
    assert type(translated) is kind
    assert text in str(translated)


@pytest.mark.parametrize(
    "error", [_ReplyError(503), _ReplyError(429), ConnectionResetError(), Exception("half a reply")]
)
def test_an_error_of_a_store_that_may_pass_is_repeated(error: Exception) -> None:
    assert store_errors.translated("here", None, error) is None


def test_the_status_of_an_error_is_that_of_its_cause() -> None:
    inner = Exception()
    inner.response = {"ResponseMetadata": {"HTTPStatusCode": 412}}  # type: ignore[attr-defined]
    outer = OSError("translated")
    outer.__cause__ = inner
    assert store_errors.status(outer) == 412
    assert store_errors.status(OSError("alone")) == 0
