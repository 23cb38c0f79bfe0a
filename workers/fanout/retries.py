"""What can become of an attempt to do a part, what a pool needs from a cluster, and when to try again."""

import collections
import dataclasses
import statistics
from collections.abc import Callable
from typing import Any, Protocol

from core import errors

SPECULATE_AFTER = 3.0  # times the median duration of a part, when workers have nothing else to do
SPECULATE_AFTER_S = 5.0  # and never before
MEMORY_RETRIES = 2  # a part that exhausts memory will most likely do so again


class Outcome:
    """What became of an attempt, or of the start of a worker; one of the four below."""


@dataclasses.dataclass(frozen=True)
class Done(Outcome):
    """The part is done."""

    value: Any


@dataclasses.dataclass(frozen=True)
class Refused(Outcome):
    """The worker raised what the user should see."""

    error: errors.RaycurrentError


@dataclasses.dataclass(frozen=True)
class Bug(Outcome):
    """The worker raised what nobody expected; the text holds its traceback."""

    text: str


@dataclasses.dataclass(frozen=True)
class Lost(Outcome):
    """The worker is gone, or cannot be relied on."""

    reason: str
    memory: bool = False


class Backend(Protocol):
    """What a pool needs from a cluster. Handles and tickets are opaque, tickets can be keys."""

    def start(self) -> tuple[Any, Any]:
        """Starts a worker: its handle, and a ticket that is done when it is up."""

    def submit(self, handle: Any, run: int, factory: Callable[[], Callable[[Any], Any]], payload: Any) -> Any:
        """Gives a worker a payload of the run with this number; returns the ticket of the attempt."""

    def wait(self, tickets: list[Any], timeout_s: float) -> list[Any]:
        """Waits until some tickets are done or the time is over; returns those that are."""

    def outcome(self, ticket: Any) -> Outcome:
        """What became of a ticket that is done."""

    def kill(self, handle: Any) -> None:
        """Ends a worker, whatever it is doing."""


class History:
    """What happened so far in a run; decides what is tried again and what is tried twice."""

    def __init__(self, max_failures: int) -> None:
        self._max_failures = max_failures
        self._failures: dict[str, list[Lost]] = collections.defaultdict(list)
        self._failed_starts = 0
        self._durations_s: list[float] = []

    def done(self, part: str, elapsed_s: float) -> None:
        """A part is done after so long."""
        self._failures.pop(part, None)
        self._durations_s.append(elapsed_s)

    def failed(self, part: str, outcome: Outcome) -> None:
        """An attempt came to nothing; returns if another one is due.

        Raises:
            RaycurrentError: what the worker raised, if another attempt would raise it too.
            ClusterError: the part failed too often.
        """
        match outcome:
            case Refused(error):
                if not isinstance(error, errors.ClusterError):
                    raise error
                lost = Lost(str(error))
            case Bug(text):
                raise RuntimeError(f"part {part}: a worker raised\n{text}")
            case _:
                assert isinstance(outcome, Lost)
                lost = outcome
        failures = self._failures[part]
        failures.append(lost)
        if len(failures) > self._max_failures or sum(failure.memory for failure in failures) > MEMORY_RETRIES:
            remedy = f"raise cluster.max_failures ({self._max_failures}) if that was chance"
            if lost.memory:
                remedy = "use smaller parts or batches, or fewer workers on a node"
            raise errors.ClusterError(
                f"part {part}: failed {len(failures)} times; the last time: {lost.reason}; {remedy}"
            )

    def started(self, outcome: Outcome) -> None:
        """A worker came up, or did not.

        Raises:
            ClusterError: one after the other did not.
        """
        if isinstance(outcome, Done):
            self._failed_starts = 0
            return
        self._failed_starts += 1
        if not isinstance(outcome, Lost) or self._failed_starts > self._max_failures:
            reason = outcome.reason if isinstance(outcome, Lost) else str(outcome)
            raise errors.ClusterError(f"cluster: workers do not start: {reason}; look at the cluster's logs")

    @property
    def straggler_s(self) -> float:
        """A part that runs for longer is worth a second attempt, if a worker has nothing else to do."""
        if not self._durations_s:
            return float("inf")
        return max(SPECULATE_AFTER * statistics.median(self._durations_s), SPECULATE_AFTER_S)
