"""Requests to a store at the same time: their latency is waited for together, not one after the other."""

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import TypeVar

# As many connections as the pool of botocore has by default.
NUM_REQUESTS = 10
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_Other = TypeVar("_Other")


def map_in_order(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Yields the results of a function that waits for a store, in the order of the items.

    At most `NUM_REQUESTS` results are under way or unread at a time, so that a long sequence of large files takes the
    memory of a few. The first error, in the order of the items, is raised; calls that have begun are waited for.
    """
    remaining = iter(items)
    first = list(itertools.islice(remaining, NUM_REQUESTS))
    if len(first) < 2:  # nothing to overlap: no thread is started
        yield from map(function, first)
        return
    with futures.ThreadPoolExecutor(len(first), thread_name_prefix="storage") as pool:
        pending = collections.deque(pool.submit(function, item) for item in first)
        try:
            while pending:
                result = pending.popleft().result()
                pending.extend(pool.submit(function, item) for item in itertools.islice(remaining, 1))
                yield result
        finally:
            for future in pending:
                future.cancel()


def pair(first: Callable[[], _Result], second: Callable[[], _Other]) -> tuple[_Result, _Other]:
    """Calls two functions at the same time and returns both results; an error of the first one is raised first."""
    with futures.ThreadPoolExecutor(1, thread_name_prefix="storage") as pool:
        other = pool.submit(second)
        return first(), other.result()
