"""A pool of workers: pulls tasks, retries failed ones, and starts a second attempt of stragglers.

The number of tasks in flight is bounded by the number of workers; the death of a worker costs its task one attempt of
`max_failures`. Two attempts of a task may run at the same time (a straggler, or a worker that only seemed dead). That
is safe because a task's output is committed by put-if-absent (`core.storage.commit`): the first commit wins.

Ranks of a training run are not workers of a pool: when one dies, the whole group restarts from the newest
checkpoint (`workers.train.launch`).
"""

import collections
import dataclasses
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

from core import errors
from workers.fanout import executor, part_metrics, retries

_log = logging.getLogger(__name__)

POLL_S = 0.2  # longest delay until a stop, a timeout or a straggler is noticed
START_TIMEOUT_S = 300.0  # a run without a single ready worker for this long fails


# Compared by identity: `list.remove` must find this worker, not an equal one.
@dataclasses.dataclass(eq=False)
class _Worker:
    handle: Any
    future: Any  # of its start, or of the attempt that it is busy with; None: idle
    since_s: float
    task: executor.Task | None = None
    is_ready: bool = False
    where: str = ""  # its process and node, once it is ready


class Pool:
    """Runs tasks on the workers of a backend; keeps the workers from run to run, until `close`.

    Args:
        backend: starts and kills workers and submits payloads.
        num_workers: most workers at a time.
        max_failures: retries of a task, and failed starts in a row, before the run fails.
        part_timeout_s: longest time of one attempt; then its worker is killed.
        clock: monotonic clock, in seconds.
    """

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
        self._run_numbers = itertools.count()

    def run(
        self,
        stage: str,
        tasks: Iterable[executor.Task],
        factory: executor.Factory[executor.Result],
        on_done: Callable[[executor.Task, executor.Result], None],
        monitor: executor.Monitor = executor.UNMONITORED,
    ) -> None:
        """See `executor.Executor`."""
        meter = part_metrics.PartMetrics(monitor.metrics, stage)
        run = _Run(self, stage, tasks, factory, meter, next(self._run_numbers))
        has_begun = False
        try:
            while run.is_unfinished():
                if monitor.should_stop():
                    raise errors.InterruptedRunError(
                        f"{stage}: stopped; run it again to resume from the committed tasks"
                    )
                run.hand_out()
                if not has_begun and any(worker.is_ready for worker in self.workers):
                    has_begun = True
                    monitor.progress(0)
                for task, value in run.collect():
                    on_done(task, value)
                    monitor.progress(task.weight)
                run.check_timeouts()
        finally:
            # After an error or a stop, and with the slower of two attempts, workers are still busy. They are killed so
            # that the next run need not wait for them.
            for worker in [worker for worker in self.workers if worker.task]:
                self.discard(worker)

    def start_worker(self) -> None:
        """Requests one more worker."""
        handle, future = self.backend.start()
        self.workers.append(_Worker(handle, future, self.clock()))

    def discard(self, worker: _Worker) -> None:
        """Kills a worker and removes it from the pool."""
        _log.debug("a worker is killed%s", f", busy with {worker.task.name}" if worker.task else "")
        self.workers.remove(worker)
        self.backend.kill(worker.handle)

    def close(self) -> None:
        """Kills all workers, which releases their CPUs and GPUs."""
        for worker in list(self.workers):
            self.discard(worker)


class _Run:
    """The state of one call of `Pool.run`: tasks that wait, and tasks that are not done."""

    def __init__(
        self,
        pool: Pool,
        stage: str,
        tasks: Iterable[executor.Task],
        factory: executor.Factory[Any],
        meter: part_metrics.PartMetrics,
        number: int,
    ) -> None:
        self._pool = pool
        self._stage = stage
        self._source: Iterator[executor.Task] = iter(tasks)
        self._num_left = len(tasks) if isinstance(tasks, Sized) else None
        self._factory = factory
        self._meter = meter
        self._number = number
        self._is_exhausted = False
        self._waiting: collections.deque[executor.Task] = collections.deque()  # new, or to be retried
        self._open: dict[str, executor.Task] = {}  # taken from the source and not done
        self._policy = retries.RetryPolicy(pool.max_failures)
        self._last_ready_s = pool.clock()

    def is_unfinished(self) -> bool:
        """Returns if tasks are left, open or in the source."""
        return bool(self._open) or self._take()

    def _take(self) -> bool:
        """Takes a task from the source if none is waiting; returns if one is."""
        if not self._waiting and not self._is_exhausted:
            task = next(self._source, None)
            if task is None:
                self._is_exhausted = True
            else:
                self._waiting.append(task)
                self._open[task.name] = task
        return bool(self._waiting)

    def hand_out(self) -> None:
        """Gives each idle worker a task, and starts more workers while tasks are waiting."""
        pool = self._pool
        for worker in [worker for worker in pool.workers if worker.is_ready and worker.task is None]:
            task = self._waiting.popleft() if self._take() else self._straggler()
            if task is None:
                return
            worker.task, worker.since_s = task, pool.clock()
            _log.debug(
                "%s: %s handed to worker %d of %d",
                self._stage,
                task.name,
                pool.workers.index(worker) + 1,
                len(pool.workers),
            )
            worker.future = pool.backend.submit(worker.handle, self._number, self._factory, task.payload)
        num_starting = sum(not worker.is_ready for worker in pool.workers)
        while self._take() and len(pool.workers) < pool.num_workers:
            # The workers that are starting will take what is left.
            if self._num_left is not None and num_starting >= self._num_left:
                return
            pool.start_worker()
            num_starting += 1

    def _straggler(self) -> executor.Task | None:
        """Returns a task whose only attempt takes much longer than the others did, for a speculative second one."""
        busy = [(worker, worker.task) for worker in self._pool.workers if worker.task]
        attempts_of = collections.Counter(task.name for _, task in busy)
        limit_s = self._policy.straggler_s
        for worker, task in busy:
            is_late = self._pool.clock() - worker.since_s > limit_s
            if is_late and task.name in self._open and attempts_of[task.name] == 1:
                return task
        return None

    def collect(self) -> Iterator[tuple[executor.Task, Any]]:
        """Waits up to `POLL_S` for results and yields those that came; of two attempts, the first result."""
        pool = self._pool
        busy = {worker.future: worker for worker in pool.workers if worker.future is not None}
        for future in pool.backend.wait(list(busy), POLL_S):
            worker, outcome = busy[future], pool.backend.outcome(future)
            task, worker.task, worker.future = worker.task, None, None
            if isinstance(outcome, retries.Lost):
                pool.discard(worker)
                self._meter.died()
            if task is None:  # the future was that of the worker's start
                self._policy.started(outcome)
                worker.is_ready = True
                worker.where = str(outcome.value) if isinstance(outcome, retries.Done) else ""
            # A task that is no longer open was done by its other attempt, whose result has been yielded.
            elif task.name in self._open and isinstance(outcome, retries.Done):
                self._close(task, pool.clock() - worker.since_s)
                yield task, outcome.value
            elif task.name in self._open:
                self._failed(task, outcome, worker)

    def _close(self, task: executor.Task, elapsed_s: float) -> None:
        _log.debug("%s: %s done in %.3f s", self._stage, task.name, elapsed_s)
        del self._open[task.name]
        self._policy.done(task.name, elapsed_s)
        self._num_left = None if self._num_left is None else self._num_left - 1
        self._meter.done(elapsed_s, len(self._open) if self._num_left is None else self._num_left)

    def _failed(self, task: executor.Task, outcome: retries.Outcome, worker: _Worker) -> None:
        """Puts a task at the front of the queue, unless another attempt of it is running.

        Raises:
            Exception: see `retries.RetryPolicy.failed`.
        """
        try:
            self._policy.failed(task.name, outcome)
        except (errors.RaycurrentError, RuntimeError):
            self._meter.failed(is_retried=False)
            raise
        self._meter.failed(is_retried=True)
        # Formatted here: the console shows equal templates once a minute, and every death deserves its line.
        why = outcome.reason if isinstance(outcome, retries.Lost) else str(getattr(outcome, "error", outcome))
        num_left = len(self._pool.workers)
        left = "1 worker is left" if num_left == 1 else f"{num_left} workers are left"
        _log.warning(f"{self._stage}: worker {worker.where}: {why}; {task.name} is tried again, {left}")
        if not any(worker.task is task for worker in self._pool.workers):
            # First in line, so that a task that cannot be done fails the run early.
            self._waiting.appendleft(task)

    def check_timeouts(self) -> None:
        """Kills workers whose attempt exceeds `part_timeout_s`, and retries their tasks.

        Raises:
            ClusterError: no worker was ready for `START_TIMEOUT_S`, or a task failed too often.
        """
        pool, now_s = self._pool, self._pool.clock()
        for worker in list(pool.workers):
            if worker.task and now_s - worker.since_s > pool.part_timeout_s:
                # Before `_failed`, which does not queue a task that a worker of the pool still has.
                pool.discard(worker)
                self._meter.died()
                if worker.task.name in self._open:
                    reason = f"no result within cluster.part_timeout_s ({pool.part_timeout_s:g} s)"
                    self._failed(worker.task, retries.Lost(reason), worker)
        if any(worker.is_ready for worker in pool.workers):
            self._last_ready_s = now_s
        elif now_s - self._last_ready_s > START_TIMEOUT_S:
            raise errors.ClusterError(
                f"{self._stage}: none of {pool.num_workers} workers started within {START_TIMEOUT_S:.0f} s; free "
                "resources of the cluster, or lower cluster.num_workers or cluster.cpus_per_worker"
            )
