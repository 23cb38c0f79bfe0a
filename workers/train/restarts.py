"""Restarts of the worker group: the line that says what was lost, and from where training resumes."""

import time
from collections.abc import Callable, Mapping

from core.training import progress
from workers.train import messages


class RestartMonitor:
    """Notices from the progress of a run that its worker group has started again.

    Args:
        addresses: returns the addresses of live nodes, by node id.
        clock: seconds of a monotonic clock.
    """

    def __init__(self, addresses: Callable[[], Mapping[str, str]], clock: Callable[[], float] = time.monotonic) -> None:
        self._addresses = addresses
        self._clock = clock
        self._known = dict(addresses())  # a lost node has no address any more
        self._last: progress.Progress | None = None
        self._last_s = 0.0
        self._nodes: frozenset[str] = frozenset()
        self._num_ranks = 0

    def describe(self, status: messages.GroupStatus) -> str | None:
        """Returns one line at the first progress after a restart, else None."""
        now, before = status.progress, self._last
        if not isinstance(now, progress.Progress):
            return None
        text = None
        if before is not None and now.fencing_number != before.fencing_number:
            num_lost = max(0, before.step - now.first_step)
            text = (
                f"train: {self._cause(status)}; training resumes from step {now.first_step} with "
                f"{_count(status.num_ranks, 'worker')}: {_count(num_lost, 'step')} repeated, "
                f"{self._clock() - self._last_s:.0f} s without a step"
            )
        self._last, self._last_s = now, self._clock()
        self._nodes, self._num_ranks = status.nodes, status.num_ranks
        return text

    def _cause(self, status: messages.GroupStatus) -> str:
        alive = self._addresses()
        lost = sorted(self._known.get(node, node) for node in self._nodes - alive.keys())
        self._known |= alive
        if lost:
            return f"lost {'nodes' if len(lost) > 1 else 'node'} {', '.join(lost)}"
        if status.num_ranks > self._num_ranks:
            return "the worker group has grown"
        return "a worker died, its node is up"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
