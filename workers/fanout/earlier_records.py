"""Commit records of earlier runs, read while workers do the parts that are left.

A record takes a request of its own, some milliseconds in an object store. A driver that resumes with many committed
parts would wait for hours before it hands out the first part, if it read their records first.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

from core import errors
from core.storage import commit, concurrent

_POLL_S = 0.2  # longest delay until a stop is noticed


@contextlib.contextmanager
def reading_along(
    store: commit.PartStore,
    names: Sequence[str],
    add: Callable[[int, dict[str, Any]], None],
    should_stop: Callable[[], bool],
) -> Iterator[Callable[[], None]]:
    """Reads commit records beside the body, several at a time; when the body is done, waits until all are read.

    Args:
        store: the parts.
        names: those with a commit record; may be lazy and long.
        add: called with the number and the record of each, in order, in another thread than that of the caller.
        should_stop: polled while the body is done and records are left.

    Yields:
        A function for the body to call now and then: it raises the error of the first record that could not be read or
        added, which otherwise comes at the end.

    Raises:
        IntegrityError, StorageError: a record is damaged, or cannot be read.
        InterruptedRunError: `should_stop` returned True.
    """
    is_over = threading.Event()

    def read_all() -> None:
        records = concurrent.map_in_order(functools.partial(_read, store), names)
        for number, record in enumerate(records):
            if is_over.is_set():
                return
            add(number, record)

    with futures.ThreadPoolExecutor(1, thread_name_prefix="earlier-records") as pool:
        reading = pool.submit(read_all)

        def check() -> None:
            if reading.done():
                reading.result()

        try:
            yield check
            while not reading.done():
                if should_stop():
                    raise errors.InterruptedRunError(
                        f"{store.folder}: stopped while commit records were read; run it again to resume"
                    )
                futures.wait([reading], _POLL_S)
            check()
        finally:
            is_over.set()


def _read(store: commit.PartStore, name: str) -> dict[str, Any]:
    record = store.committed(name)
    if record is None:
        raise errors.StorageError(
            f"{store.folder}: the commit record of {name} disappeared; let nothing else change this folder, "
            "then run the same command again"
        )
    return record
