"""Retry policy: outcomes of attempts, the backend interface, and the decision to try again."""

import collections
import dataclasses
import statistics
from collections.abc import Callable
from typing import Any, Protocol

from core import errors

SPECULATE_AFTER = 3.0  # times the median duration of a task: a longer attempt is a straggler
SPECULATE_AFTER_S = 5.0  # at least; below, a second attempt costs more than it saves
MEMORY_RETRIES = 2  # a task that exhausts memory will most likely do so again


class Outcome:
    """The outcome of an attempt, or of the start of a worker; one of the four below."""


@dataclasses.dataclass(frozen=True)
class Done(Outcome):
    """The task is done; `value` is its result."""

    value: Any


@dataclasses.dataclass(frozen=True)
class Failed(Outcome):
    """The worker raised an error that is meant for the user."""

    error: errors.RaycurrentError


@dataclasses.dataclass(frozen=True)
class Bug(Outcome):
    """The worker raised an unexpected exception; `text` holds its traceback."""

    text: str


@dataclasses.dataclass(frozen=True)
class Lost(Outcome):
    """The worker died, or did not answer; `memory`: because memory ran out."""

    reason: str
    memory: bool = False


class Backend(Protocol):
    """The interface of a pool to its workers. Handles and futures are opaque; futures are hashable."""

    def start(self) -> tuple[Any, Any]:
        """Starts a worker; returns its handle, and a future that completes when it is up."""

    def submit(self, handle: Any, run: int, factory: Callable[[], Callable[[Any], Any]], payload: Any) -> Any:
        """Sends a worker a payload of the run with this number; returns the future of the attempt."""

    def wait(self, futures: list[Any], timeout_s: float) -> list[Any]:
        """Waits until a future is done or the time is over; returns those that are done."""

    def outcome(self, future: Any) -> Outcome:
        """Returns the outcome of a future that is done."""

    def kill(self, handle: Any) -> None:
        """Kills a worker, even while it is busy."""


class RetryPolicy:
    """Decides which tasks are retried, and which get a speculative second attempt; one for each run.

    Args:
        max_failures: retries of a task, and failed starts of workers in a row, before the run fails.
    """

    def __init__(self, max_failures: int) -> None:
        self._max_failures = max_failures
        self._failures: dict[str, list[Lost]] = collections.defaultdict(list)
        self._failed_starts = 0
        self._durations_s: list[float] = []

    def done(self, task: str, elapsed_s: float) -> None:
        """Records that a task is done, and the duration of the attempt."""
        self._failures.pop(task, None)
        self._durations_s.append(elapsed_s)

    def failed(self, task: str, outcome: Outcome) -> None:
        """Records a failed attempt; raises if the task must not be retried.

        Raises:
            RaycurrentError: the worker raised it, and another attempt would raise it, too.
            ClusterError: the task failed too often.
            RuntimeError: the worker raised an unexpected exception.
        """
        match outcome:
            case Failed(error):
                # A ClusterError of a worker, such as a peer that is gone, is the only one that may pass by itself.
                if not isinstance(error, errors.ClusterError):
                    raise error
                lost = Lost(str(error))
            case Bug(text):
                # A bug: every attempt would raise it again.
                raise RuntimeError(f"task {task}: a worker raised\n{text}")
            case _:
                assert isinstance(outcome, Lost)
                lost = outcome
        failures = self._failures[task]
        failures.append(lost)
        if len(failures) > self._max_failures or sum(failure.memory for failure in failures) > MEMORY_RETRIES:
            remedy = f"raise cluster.max_failures ({self._max_failures}) if that was chance"
            if lost.memory:
                remedy = "use smaller parts or batches, or fewer workers on a node"
            raise errors.ClusterError(
                f"task {task}: failed {len(failures)} times; the last time: {lost.reason}; {remedy}"
            )

    def started(self, outcome: Outcome) -> None:
        """Records the start of a worker, successful or not.

        Raises:
            ClusterError: too many starts in a row failed, or one raised an exception.
        """
        if isinstance(outcome, Done):
            self._failed_starts = 0
            return
        self._failed_starts += 1
        # A worker that raises at its start would do so on every node.
        if not isinstance(outcome, Lost) or self._failed_starts > self._max_failures:
            reason = outcome.reason if isinstance(outcome, Lost) else str(outcome)
            raise errors.ClusterError(f"cluster: workers do not start: {reason}; look at the cluster's logs")

    @property
    def straggler_s(self) -> float:
        """The duration after which an attempt counts as a straggler; infinite before the first task is done."""
        if not self._durations_s:
            return float("inf")
        # The median, which the stragglers themselves hardly move.
        return max(SPECULATE_AFTER * statistics.median(self._durations_s), SPECULATE_AFTER_S)
