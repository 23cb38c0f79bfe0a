"""Requests to stores, repeated while their errors are transient, with back-off until a deadline.

The only layer of retries: those of the drivers are off.
"""

import logging
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from core import errors
from core.storage import store_errors

DEADLINE_S = 60.0
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


def until_deadline(where: str, path: Path | None, call: Callable[[], _Result]) -> _Result:
    """Returns the result of a call, which is repeated until it succeeds or the deadline has passed.

    Args:
        where: the location that it is about, for messages.
        path: its local path; None in an object store.
        call: the request.

    Raises:
        RaycurrentError: the error of the call, translated, at once if no retry mends it.
    """
    deadline_s = time.monotonic() + DEADLINE_S
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return call()
        # Raised by a call inside, such as a missing driver: already translated, and no retry mends it.
        except errors.RaycurrentError:
            raise
        except Exception as error:
            permanent = store_errors.translated(where, path, error)
            if permanent is not None:
                try:
                    raise permanent from error
                finally:
                    # A frame that refers to its own exception is a reference cycle: it would keep the objects
                    # of all callers alive until the garbage collector runs.
                    del permanent
            # A pause that would end after the deadline is not begun.
            if time.monotonic() + pause_s > deadline_s:
                raise errors.StorageError(
                    f"{where}: the store failed for {DEADLINE_S:g} s, the last error: "
                    f"{store_errors.one_line(error)}; check the network and the store, "
                    "then run the same command again"
                ) from error
            _log.warning("%s: %s; retrying", where, store_errors.one_line(error))
        # Without jitter all workers that one outage stopped would come back at the same moment.
        time.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 (jitter, no secret)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
