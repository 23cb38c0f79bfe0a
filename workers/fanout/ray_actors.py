"""Ray actors: the workers of a pool as Ray actors, one process each."""

import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from core import errors
from workers.fanout import executor, pool, process_environment, retries


class _Host:
    """The Ray actor: builds the work of a run once and applies it to one payload after the other."""

    def __init__(self) -> None:
        self._run = -1
        self._work: executor.Work[Any] | None = None

    def ping(self) -> str:
        """Returns process id and host name in words, as a sign that the worker is up."""
        return f"{os.getpid()} on {socket.gethostname()}"

    def work(self, run: int, factory: executor.Factory[Any], payload: Any) -> Any:
        """Applies the work to a payload; calls the factory for the first payload of a run."""
        if run != self._run or self._work is None:
            self._work = None  # frees the model of the last run before the next is loaded
            self._work, self._run = factory(), run
        return self._work(payload)


class RayActors:
    """A pool backend of Ray actors. Imports `ray` when it is created, not before.

    Args:
        cpus_per_worker: CPUs that Ray reserves for each actor.
        use_gpu: reserves a GPU for each actor, too.
        env_vars: environment variables of the actors' processes.
        label_selector: labels of the nodes that may run them.
    """

    def __init__(
        self, cpus_per_worker: int, use_gpu: bool, env_vars: Mapping[str, str], label_selector: Mapping[str, str]
    ) -> None:
        import ray

        self._ray: Any = ray
        # The pool restarts and retries, not Ray: an actor that Ray restarts has lost its state, and an attempt that
        # Ray repeats is not counted.
        self._actor: Any = self._ray.remote(_Host).options(
            num_cpus=cpus_per_worker,
            num_gpus=1 if use_gpu else 0,
            max_restarts=0,
            max_task_retries=0,
            # By default Ray fills one node after the other, whose memory the workers would share.
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": dict(env_vars)},
            label_selector=dict(label_selector),
        )
        self._factory: tuple[int, Any] = (-1, None)  # run number and object reference: stored once for all actors

    def start(self) -> tuple[Any, Any]:
        """See `retries.Backend`."""
        handle = self._actor.remote()
        return handle, handle.ping.remote()

    def submit(self, handle: Any, run: int, factory: executor.Factory[Any], payload: Any) -> Any:
        """See `retries.Backend`."""
        if self._factory[0] != run:
            self._factory = (run, self._ray.put(factory))
        return handle.work.remote(run, self._factory[1], payload)

    def wait(self, futures: list[Any], timeout_s: float) -> list[Any]:
        """See `retries.Backend`."""
        if not futures:
            time.sleep(timeout_s)  # `ray.wait` refuses an empty list
            return []
        # One at a time: a worker whose attempt is done gets its next task without waiting for others.
        done: list[Any] = self._ray.wait(futures, num_returns=1, timeout=timeout_s)[0]
        return done

    def outcome(self, future: Any) -> retries.Outcome:
        """See `retries.Backend`."""
        exceptions = self._ray.exceptions
        try:
            return retries.Done(self._ray.get(future))
        except exceptions.RayTaskError as error:
            cause = error.cause
            # The text of a RayTaskError has the worker's traceback.
            return retries.Failed(cause) if isinstance(cause, errors.RaycurrentError) else retries.Bug(str(error))
        except exceptions.RayError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
            return retries.Lost(reason, memory=isinstance(error, exceptions.OutOfMemoryError))

    def kill(self, handle: Any) -> None:
        """See `retries.Backend`."""
        self._ray.kill(handle, no_restart=True)


class RayPool(pool.Pool):
    """A pool of Ray actors; Ray must be initialized.

    Args:
        num_workers: number of actors.
        cpus_per_worker: CPUs of each, and the threads of its operations.
        use_gpu: whether each has a GPU.
        max_failures: retries of a task, and failed starts in a row, before the run fails.
        part_timeout_s: longest time of one attempt.
        env_vars: further environment variables of the actors' processes.
        label_selector: labels of the nodes that may run them; none: all nodes.
    """

    def __init__(
        self,
        num_workers: int,
        cpus_per_worker: int = 1,
        use_gpu: bool = False,
        max_failures: int = 3,
        part_timeout_s: float = 3600.0,
        env_vars: Mapping[str, str] | None = None,
        label_selector: Mapping[str, str] | None = None,
    ) -> None:
        own = process_environment.thread_variables(cpus_per_worker)
        backend = RayActors(cpus_per_worker, use_gpu, {**own, **(env_vars or {})}, label_selector or {})
        super().__init__(backend, num_workers, max_failures, part_timeout_s)
