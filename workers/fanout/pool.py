"""Spreads parts of a job over workers: bounded in flight, retried, each reported once.

A part is a `Task`; what is done to it is a plain callable that a picklable factory builds once in each worker.
`InProcess` does the parts one after the other here, `RayPool` on a pool of Ray actors. Both keep the same
promises: `on_done` runs in the caller, once for each task, in order of completion; an error of the user's
making ends the run at once, as what it is; a worker's death is survived as often as `max_failures` allows.

A second attempt of a part may run beside the first (a straggler, or a worker that only seemed dead). That is
safe because what a part writes is committed by put-if-absent (`core.storage.commit`).
"""

import collections
import dataclasses
import itertools
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any, Protocol, TypeVar

from core import errors
from core.telemetry import metrics
from workers.fanout import part_metrics, process_environment, retries

POLL_S = 0.2  # how late a stop, a timeout or a straggler may be noticed
START_TIMEOUT_S = 300.0  # without a single worker for so long, a run ends

Result = TypeVar("Result")
Work = Callable[[Any], Result]
Factory = Callable[[], Work[Result]]

_NOBODY = metrics.NullMetrics()


@dataclasses.dataclass(frozen=True)
class Task:
    """One part: its name, what the worker is given, and how much it counts in the progress."""

    name: str
    payload: Any
    weight: int = 1


def never() -> bool:
    """The `should_stop` of a caller that never stops."""
    return False


def unseen(weight: int) -> None:
    """The `progress` of a caller that shows none."""


class Executor(Protocol):
    """Does tasks, here or elsewhere."""

    num_workers: int

    def run(
        self,
        stage: str,
        tasks: Iterable[Task],
        factory: Factory[Result],
        on_done: Callable[[Task, Result], None],
        metrics: metrics.Metrics = _NOBODY,
        progress: Callable[[int], None] = unseen,
        should_stop: Callable[[], bool] = never,
    ) -> None:
        """Does every task once and tells `on_done` its result and `progress` its weight.

        Tasks are drawn from the iterable when a worker is free for them; their names differ.

        Raises:
            RaycurrentError: what a worker raised, unretried; but a ClusterError is retried first.
            InterruptedRunError: `should_stop` said so; what was not reported yet is left undone.
        """


class InProcess:
    """Does tasks one after the other in this process; the work itself keeps to so many threads."""

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads
        self.num_workers = 1

    def run(
        self,
        stage: str,
        tasks: Iterable[Task],
        factory: Factory[Result],
        on_done: Callable[[Task, Result], None],
        metrics: metrics.Metrics = _NOBODY,
        progress: Callable[[int], None] = unseen,
        should_stop: Callable[[], bool] = never,
    ) -> None:
        """See `Executor`."""
        work: Work[Result] | None = None
        meter = part_metrics.PartMetrics(metrics, stage)
        for num_done, task in enumerate(tasks, 1):
            if should_stop():
                raise errors.InterruptedRunError(f"{stage}: stopped before part {task.name}; run it again to go on")
            work = work or factory()
            started_s = time.monotonic()
            result = work(task.payload)
            num_pending = len(tasks) - num_done if isinstance(tasks, Sized) else 0
            meter.done(time.monotonic() - started_s, num_pending)
            on_done(task, result)
            progress(task.weight)


@dataclasses.dataclass(eq=False)
class _Worker:
    handle: Any
    ticket: Any  # of its start, or of the attempt that it is busy with; None: idle
    since_s: float
    task: Task | None = None
    ready: bool = False


class Pool:
    """Does tasks on the workers of a backend; keeps the workers from run to run, until `close`."""

    def __init__(
        self,
        backend: retries.Backend,
        num_workers: int,
        max_failures: int,
        part_timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.num_workers = num_workers
        self.max_failures = max_failures
        self.part_timeout_s = part_timeout_s
        self.clock = clock
        self.backend = backend
        self.workers: list[_Worker] = []  # oldest first
        self._numbers = itertools.count()

    def run(
        self,
        stage: str,
        tasks: Iterable[Task],
        factory: Factory[Result],
        on_done: Callable[[Task, Result], None],
        metrics: metrics.Metrics = _NOBODY,
        progress: Callable[[int], None] = unseen,
        should_stop: Callable[[], bool] = never,
    ) -> None:
        """See `Executor`."""
        run = _Run(self, stage, tasks, factory, metrics, next(self._numbers))
        try:
            while run.unfinished():
                if should_stop():
                    raise errors.InterruptedRunError(f"{stage}: stopped; run it again to go on from what is committed")
                run.hand_out()
                for task, value in run.collect():
                    on_done(task, value)
                    progress(task.weight)
                run.check_clocks()
        finally:
            # After an error or a stop somebody may be busy, and so may be the slower of two attempts: neither may
            # keep the next run waiting.
            for worker in [worker for worker in self.workers if worker.task]:
                self.discard(worker)

    def start_worker(self) -> None:
        """Asks for one more worker."""
        handle, ticket = self.backend.start()
        self.workers.append(_Worker(handle, ticket, self.clock()))

    def discard(self, worker: _Worker) -> None:
        """Ends a worker and forgets it."""
        self.workers.remove(worker)
        self.backend.kill(worker.handle)

    def close(self) -> None:
        """Ends every worker, so that others may have the cores."""
        for worker in list(self.workers):
            self.discard(worker)


class _Run:
    """One call of `Pool.run`: which tasks are waiting and which are open."""

    def __init__(
        self,
        pool: Pool,
        stage: str,
        tasks: Iterable[Task],
        factory: Factory[Any],
        metrics: metrics.Metrics,
        number: int,
    ) -> None:
        self._pool = pool
        self._stage = stage
        self._source: Iterator[Task] = iter(tasks)
        self._num_left = len(tasks) if isinstance(tasks, Sized) else None
        self._factory = factory
        self._meter = part_metrics.PartMetrics(metrics, stage)
        self._number = number
        self._exhausted = False
        self._waiting: collections.deque[Task] = collections.deque()  # taken from the source, or to be done again
        self._open: dict[str, Task] = {}  # taken from the source and not done
        self._history = retries.History(pool.max_failures)
        self._last_alive_s = pool.clock()

    def unfinished(self) -> bool:
        """Is there anything left to do?"""
        return bool(self._open) or self._take()

    def _take(self) -> bool:
        """Has a task wait, if there is one; says whether one does."""
        if not self._waiting and not self._exhausted:
            task = next(self._source, None)
            if task is None:
                self._exhausted = True
            else:
                self._waiting.append(task)
                self._open[task.name] = task
        return bool(self._waiting)

    def hand_out(self) -> None:
        """Gives idle workers a task each, and asks for more workers while there may be tasks for them."""
        pool = self._pool
        for worker in [worker for worker in pool.workers if worker.ready and worker.task is None]:
            task = self._waiting.popleft() if self._take() else self._straggler()
            if task is None:
                return
            worker.task, worker.since_s = task, pool.clock()
            worker.ticket = pool.backend.submit(worker.handle, self._number, self._factory, task.payload)
        num_starting = sum(not worker.ready for worker in pool.workers)
        while self._take() and len(pool.workers) < pool.num_workers:
            if self._num_left is not None and num_starting >= self._num_left:
                return
            pool.start_worker()
            num_starting += 1

    def _straggler(self) -> Task | None:
        """A task that takes so much longer than the others that it is worth a second attempt."""
        busy = [(worker, worker.task) for worker in self._pool.workers if worker.task]
        attempts_of = collections.Counter(task.name for _, task in busy)
        limit_s = self._history.straggler_s
        for worker, task in busy:
            late = self._pool.clock() - worker.since_s > limit_s
            if late and task.name in self._open and attempts_of[task.name] == 1:
                return task
        return None

    def collect(self) -> Iterator[tuple[Task, Any]]:
        """Waits a moment for results and yields those that came, the first of each task."""
        pool = self._pool
        busy = {worker.ticket: worker for worker in pool.workers if worker.ticket is not None}
        for ticket in pool.backend.wait(list(busy), POLL_S):
            worker, outcome = busy[ticket], pool.backend.outcome(ticket)
            task, worker.task, worker.ticket = worker.task, None, None
            if isinstance(outcome, retries.Lost):
                pool.discard(worker)
                self._meter.died()
            if task is None:
                self._history.started(outcome)
                worker.ready = True
            elif task.name in self._open and isinstance(outcome, retries.Done):
                self._close(task, pool.clock() - worker.since_s)
                yield task, outcome.value
            elif task.name in self._open:
                self._failed(task, outcome)

    def _close(self, task: Task, elapsed_s: float) -> None:
        del self._open[task.name]
        self._history.done(task.name, elapsed_s)
        self._num_left = None if self._num_left is None else self._num_left - 1
        self._meter.done(elapsed_s, len(self._open) if self._num_left is None else self._num_left)

    def _failed(self, task: Task, outcome: retries.Outcome) -> None:
        """Queues a task again, in front, unless its other attempt is still running; raises what no retry helps."""
        try:
            self._history.failed(task.name, outcome)
        except (errors.RaycurrentError, RuntimeError):
            self._meter.failed(is_retried=False)
            raise
        self._meter.failed(is_retried=True)
        if not any(worker.task is task for worker in self._pool.workers):
            self._waiting.appendleft(task)

    def check_clocks(self) -> None:
        """Takes parts from workers that are silent for too long, and ends a run that has no workers at all."""
        pool, now_s = self._pool, self._pool.clock()
        for worker in list(pool.workers):
            if worker.task and now_s - worker.since_s > pool.part_timeout_s:
                pool.discard(worker)
                if worker.task.name in self._open:
                    reason = f"no result within cluster.part_timeout_s ({pool.part_timeout_s:g} s)"
                    self._failed(worker.task, retries.Lost(reason))
        if any(worker.ready for worker in pool.workers):
            self._last_alive_s = now_s
        elif now_s - self._last_alive_s > START_TIMEOUT_S:
            raise errors.ClusterError(
                f"{self._stage}: none of {pool.num_workers} workers started within {START_TIMEOUT_S:.0f} s; free "
                "resources of the cluster, or lower cluster.num_workers or cluster.cpus_per_worker"
            )


class _Host:
    """Lives in a Ray actor: builds the work of a run once and does payload after payload."""

    def __init__(self) -> None:
        self._run = -1
        self._work: Work[Any] | None = None

    def hello(self) -> tuple[str, int]:
        """Says that the worker is up."""
        return socket.gethostname(), os.getpid()

    def work(self, run: int, factory: Factory[Any], payload: Any) -> Any:
        """Does a payload; the factory is called for the first payload of a run."""
        if run != self._run or self._work is None:
            self._work = None  # what the last run held is freed before the next is built
            self._work, self._run = factory(), run
        return self._work(payload)


class RayActors:
    """A backend of Ray actors, a process each. Imports `ray` when it is made, not before."""

    def __init__(self, cpus_per_worker: int, use_gpu: bool, env_vars: Mapping[str, str]) -> None:
        import ray

        self._ray: Any = ray
        # Restarts and retries are the pool's business: an actor that Ray restarts has lost its state, and a task
        # that Ray repeats is not counted.
        self._actor: Any = self._ray.remote(_Host).options(
            num_cpus=cpus_per_worker,
            num_gpus=1 if use_gpu else 0,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": dict(env_vars)},
        )
        self._factory: tuple[int, Any] = (-1, None)  # that of the newest run, stored once for all workers

    def start(self) -> tuple[Any, Any]:
        """See `retries.Backend`."""
        handle = self._actor.remote()
        return handle, handle.hello.remote()

    def submit(self, handle: Any, run: int, factory: Factory[Any], payload: Any) -> Any:
        """See `retries.Backend`."""
        if self._factory[0] != run:
            self._factory = (run, self._ray.put(factory))
        return handle.work.remote(run, self._factory[1], payload)

    def wait(self, tickets: list[Any], timeout_s: float) -> list[Any]:
        """See `retries.Backend`."""
        if not tickets:
            time.sleep(timeout_s)
            return []
        done: list[Any] = self._ray.wait(tickets, num_returns=1, timeout=timeout_s)[0]
        return done

    def outcome(self, ticket: Any) -> retries.Outcome:
        """See `retries.Backend`."""
        exceptions = self._ray.exceptions
        try:
            return retries.Done(self._ray.get(ticket))
        except exceptions.RayTaskError as error:
            cause = error.cause
            return retries.Refused(cause) if isinstance(cause, errors.RaycurrentError) else retries.Bug(str(error))
        except exceptions.RayError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
            return retries.Lost(reason, memory=isinstance(error, exceptions.OutOfMemoryError))

    def kill(self, handle: Any) -> None:
        """See `retries.Backend`."""
        self._ray.kill(handle, no_restart=True)


class RayPool(Pool):
    """A pool of Ray actors; Ray must be up."""

    def __init__(
        self,
        num_workers: int,
        cpus_per_worker: int = 1,
        use_gpu: bool = False,
        max_failures: int = 3,
        part_timeout_s: float = 3600.0,
        env_vars: Mapping[str, str] | None = None,
    ) -> None:
        backend = RayActors(
            cpus_per_worker, use_gpu, {**process_environment.of_process(cpus_per_worker), **(env_vars or {})}
        )
        super().__init__(backend, num_workers, max_failures, part_timeout_s)
