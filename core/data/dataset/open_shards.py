"""The shards of a dataset that a process has mapped."""

from collections.abc import Callable

from core.data.batching import buckets
from core.data.dataset import arrow_file

MAX_OPEN = 2 * buckets.SHUFFLE_LINES // buckets.RUN_LINES
"""Shards that are mapped at once: each run of a shuffle buffer, and of the one before, may be in another one."""


class OpenShards:
    """The mapped shards of a dataset, of all its splits: the most recently used ones.

    Batches of a shuffle buffer come from as many shards as it has runs, and a kernel allows a process 65,530 mappings.
    """

    def __init__(self, most: int = MAX_OPEN, most_bytes: int | None = None) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._num_bytes = 0
        self._shards: dict[object, tuple[arrow_file.Shard, int]] = {}

    def __len__(self) -> int:
        """Returns the number of mapped shards."""
        return len(self._shards)

    def get(self, key: object, size_bytes: int, open_shard: Callable[[], arrow_file.Shard]) -> arrow_file.Shard:
        """Returns a shard, which is opened unless it is one of them; the least recently used ones may be closed."""
        entry = self._shards.pop(key, None)
        if entry is None:
            entry = open_shard(), size_bytes
            self._num_bytes += size_bytes
        # At the end: a dict keeps the order in which keys came in, so that the first one was used least recently.
        self._shards[key] = entry
        while len(self._shards) > self._most or self._has_too_many_bytes():
            # Arrays that are in use keep their mapping open.
            self._num_bytes -= self._shards.pop(next(iter(self._shards)))[1]
        return entry[0]

    def _has_too_many_bytes(self) -> bool:
        return self._most_bytes is not None and self._num_bytes > self._most_bytes and len(self._shards) > 1
