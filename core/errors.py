"""The one family of errors that a user may see, each with the exit code of its kind.

A message is one line, `where: what is wrong; what to do`. Every class takes that one string and nothing
else, so that an error raised on a Ray worker arrives in the driver as what it was.
"""

from typing import ClassVar


class RaycurrentError(Exception):
    """Something that the user can act on; printed as one line, without a traceback."""

    exit_code: ClassVar[int] = 1


class UsageError(RaycurrentError):
    """The command line, a setting or a URI is wrong."""

    exit_code = 2


class DataError(RaycurrentError):
    """The input data is not what its place in the configuration needs."""

    exit_code = 3


class IntegrityError(RaycurrentError):
    """An artefact is damaged, or written in a format that this version does not read."""

    exit_code = 4


class StorageError(RaycurrentError):
    """A filesystem or object store refused, failed or is full."""

    exit_code = 5


class NotFoundError(StorageError):
    """There is nothing at this location."""


class LockedError(RaycurrentError):
    """Another run holds the place, or what is there was made with other settings."""

    exit_code = 6


class DivergedError(RaycurrentError):
    """Training produced numbers that are not finite, several steps in a row."""

    exit_code = 7


class ClusterError(RaycurrentError):
    """The cluster or a worker failed, and retries did not help."""

    exit_code = 8


class InterruptedRunError(RaycurrentError):
    """A signal ended the run after its state was saved; the driver turns the signal into 130 or 143."""

    exit_code = 143
