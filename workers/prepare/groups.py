"""Groups of parts, or of their shards, that one task takes: a file and a commit record for several of them."""

from collections.abc import Sequence
from typing import TypeVar

LEAST_TASKS = 128
"""Tasks that a pass has before any takes several parts: more workers than most clusters have."""
MOST_PARTS = 64
"""Parts of a task at most: what a worker that dies has done in vain."""

_Item = TypeVar("_Item")


def of(items: Sequence[_Item]) -> list[tuple[_Item, ...]]:
    """Returns consecutive groups of equal size, but for the last; the size depends on the number of items alone."""
    size = max(1, min(len(items) // LEAST_TASKS, MOST_PARTS))
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]
