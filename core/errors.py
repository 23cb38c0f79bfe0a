"""Exceptions that a user may see, each with the exit code of its kind.

A message is one line, `where: what is wrong; what to do`. Every class takes that string as its only argument: an
exception that takes others cannot be unpickled, and would arrive from a Ray worker as an unknown error.
"""

import re
from typing import ClassVar

_COLON = re.compile(r":(?!//)")  # not that of a scheme


def without_credentials(text: str) -> str:
    """Returns text with user and password of the URLs in it replaced by an ellipsis.

    They reach from the slashes, or the beginning of a word, to its last `@`, since a password may hold such signs
    itself. Without a colon there is no password: Azure's container@account is a name.
    """
    # Word by word, in linear time: text may be quoted that was made to keep a regular expression busy.
    return re.sub(r"\S+", _without_credentials, text) if "@" in text else text


def _without_credentials(match: re.Match[str]) -> str:
    word = match[0]
    end = word.rfind("@")
    starts = []
    slashes = word.find("//") + 2
    if slashes >= 2 and word.find(":", slashes, max(0, end)) >= 0:
        starts.append(slashes)
    colon = _COLON.search(word, 0, max(0, end))
    if colon is not None:
        starts.append(1 + max(word.rfind(sign, 0, colon.start()) for sign in "=/'\""))
    return f"{word[: min(starts)]}…@{word[end + 1 :]}" if starts else word


def escaped(text: str) -> str:
    """Returns text with escapes for what cannot be printed.

    Terminals and pages obey control characters, line breaks and bidirectional controls, so that text from elsewhere
    could imitate ours, or show a name in another order than it has.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _one_line(text: str) -> str:
    """Returns text with spaces for line breaks, and escapes for what else cannot be printed."""
    if text.isprintable():
        return text
    return escaped(" ".join(line.rstrip(" \t") for line in re.split(r"[\r\n]\s*", text)).strip())


class RaycurrentError(Exception):
    """Base class of errors that the user can act on; printed as one line, without a traceback.

    Its message never has the password of a URL, nor a line break or another control character, wherever the text was
    quoted from.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str) -> None:
        super().__init__(_one_line(without_credentials(message)))


class UsageError(RaycurrentError):
    """The command line, a setting or a URI is wrong."""

    exit_code = 2


class DataError(RaycurrentError):
    """Input data is invalid, or not of the kind that the configuration needs."""

    exit_code = 3


class IntegrityError(RaycurrentError):
    """An artefact is damaged, or written in a format that this version does not read."""

    exit_code = 4


class StorageError(RaycurrentError):
    """A filesystem or object store refused, failed or is full."""

    exit_code = 5


class NotFoundError(StorageError):
    """A file or folder does not exist."""


class ClosedOutputError(RaycurrentError):
    """The reader of standard output went away before it had all results."""

    exit_code = 141  # as shells report a process that SIGPIPE ended


class LockedError(RaycurrentError):
    """The output is locked by another run, or was made with other settings."""

    exit_code = 6


class DivergedError(RaycurrentError):
    """Training diverged: gradients were not finite for several steps in a row."""

    exit_code = 7


class ClusterError(RaycurrentError):
    """The cluster or a worker failed, and retries did not help."""

    exit_code = 8


class InterruptedRunError(RaycurrentError):
    """A signal ended the run after its state was saved; the driver turns the signal into 130 or 143."""

    exit_code = 143


FINAL_EXIT_CODES = frozenset(
    kind.exit_code for kind in (UsageError, DataError, IntegrityError, LockedError, DivergedError)
)
"""Exit codes of errors that no retry mends."""
