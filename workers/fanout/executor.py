"""Executors: run tasks here or on workers, and report each once.

A `Task` is what a worker is handed: mostly a part, a range of lines. A picklable factory builds, once in each worker,
the callable that is applied to the payloads. `InProcess` runs tasks one after the other in this process,
`ray_actors.RayPool` on Ray actors. Both give the same guarantees: `on_done` runs in the caller, once for each task, in
order of completion; an error that only the user can correct ends the run at once and keeps its type.
"""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Sized
from typing import Any, Protocol, TypeVar

from core import errors
from core.telemetry import metrics as telemetry
from workers.fanout import part_metrics

_log = logging.getLogger(__name__)
Result = TypeVar("Result")
Work = Callable[[Any], Result]
Factory = Callable[[], Work[Result]]


@dataclasses.dataclass(frozen=True)
class Task:
    """One unit of work of the fan-out.

    Attributes:
        name: unique in its run.
        payload: the argument of the worker's callable; picklable.
        weight: units of progress, such as the lines of a part.
    """

    name: str
    payload: Any
    weight: int = 1


def never() -> bool:
    """Returns False: the `should_stop` of a run that cannot be stopped."""
    return False


def ignore_progress(weight: int) -> None:
    """Does nothing: the `progress` of a run that shows none."""


@dataclasses.dataclass(frozen=True)
class Monitor:
    """Observation and control of a run of tasks.

    Attributes:
        metrics: receives the measurements of the fan-out.
        progress: called with the weight of each task that is done, and with 0 when the first worker is ready.
        should_stop: polled; True ends the run with an InterruptedRunError.
        interrupting: entered for each task that runs in this process; a signal then ends the task at once.
    """

    metrics: telemetry.Metrics = dataclasses.field(default_factory=telemetry.NullMetrics)
    progress: Callable[[int], None] = ignore_progress
    should_stop: Callable[[], bool] = never
    interrupting: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext


UNMONITORED = Monitor()


class Executor(Protocol):
    """Runs tasks, here or on workers."""

    num_workers: int

    def run(
        self,
        stage: str,
        tasks: Iterable[Task],
        factory: Factory[Result],
        on_done: Callable[[Task, Result], None],
        monitor: Monitor = UNMONITORED,
    ) -> None:
        """Runs every task and calls `on_done` once with each and its result.

        Tasks are taken from the iterable when a worker is free for them, so it may be lazy and long.

        Args:
            stage: name of the stage, for metrics and messages.
            tasks: with unique names.
            factory: builds the callable that is applied to each payload; called once in each worker.
            on_done: runs in the caller.
            monitor: metrics, progress and stop request.

        Raises:
            RaycurrentError: a worker raised it; not retried, except for a ClusterError.
            InterruptedRunError: `monitor.should_stop` returned True; unfinished tasks are abandoned.
        """


class InProcess:
    """Runs tasks one after the other in this process.

    Args:
        threads: threads that each operation of the work uses.
    """

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads
        self.num_workers = 1

    def run(
        self,
        stage: str,
        tasks: Iterable[Task],
        factory: Factory[Result],
        on_done: Callable[[Task, Result], None],
        monitor: Monitor = UNMONITORED,
    ) -> None:
        """See `Executor`."""
        work: Work[Result] | None = None
        meter = part_metrics.PartMetrics(monitor.metrics, stage)
        for num_done, task in enumerate(tasks, 1):
            # Between two tasks, as there is nobody here to interrupt one.
            if monitor.should_stop():
                raise errors.InterruptedRunError(f"{stage}: stopped before task {task.name}; run it again to resume")
            if work is None:
                work = factory()  # not before the first task: loading a model for nothing takes seconds
                monitor.progress(0)
            started_s = time.monotonic()
            with monitor.interrupting():
                result = work(task.payload)
            # A lazy iterable has no length.
            num_pending = len(tasks) - num_done if isinstance(tasks, Sized) else 0
            elapsed_s = time.monotonic() - started_s
            _log.debug("%s: %s done in %.3f s", stage, task.name, elapsed_s)
            meter.done(elapsed_s, num_pending)
            # Before progress is shown: what is shown as done is done.
            on_done(task, result)
            monitor.progress(task.weight)


# A protocol: `workers.cluster` imports this folder, and stages need no cluster to be run or tested.
class Session(Protocol):
    """The services of a session that a stage uses; implemented by `workers.cluster.session.Session`."""

    @property
    def metrics(self) -> telemetry.Metrics:
        """Metrics of the driver."""

    @property
    def should_stop(self) -> Callable[[], bool]:
        """Tells if the run was asked to stop."""

    def interrupting(self) -> contextlib.AbstractContextManager[None]:
        """Lets a signal end work in this process at once, where it reads an input and calls no Ray."""

    def executor(self, stage: str, num_tasks: int | None = None, runs_model: bool = False) -> Executor:
        """Returns the executor for a stage of `num_tasks` tasks; None if their number is unknown.

        The workers of a stage that runs a model have GPUs if the run uses them.
        """
