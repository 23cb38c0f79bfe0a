"""Launch of a training run: one rank in this process, or a group of Ray Train workers.

Ray Train starts the worker group, and starts it again when a rank dies. It stores nothing for us: checkpoints are
ours, and nothing is reported to it, since a report blocks until the next poll (2 s). Messages between ranks and driver
(progress, a stop request, an error that no restart will help against) go through an actor, `messages.MessageBoard`.
"""

import contextlib
import logging
import os
import secrets
import shutil
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from core import errors
from core.storage import location
from core.training import callbacks
from workers.cluster import nodes
from workers.cluster import session as sessions
from workers.train import messages, restarts

if TYPE_CHECKING:  # torch is imported by ranks alone
    from core.training import progress, trainer

POLL_S = 0.3
PROGRESS_S = 0.5  # least interval between rank 0's posts of progress
REQUESTS_S = 0.2  # least interval between rank 0's polls of the driver's requests
STOP_S = 90.0  # a stop takes a step, or a validation, and a checkpoint; Kubernetes allows 120 s in our manifests
NOT_BEGUN_S = 5.0  # no rank has entered the loop: there is nothing to save
START_S = 300.0  # without a rank in the loop after this time, others must be holding the resources
RESIZE_S = 300.0  # interval at which an elastic group tries to grow: each time may cost a restart

# Of the time from the command to the first step on two cores, about 6 s are `ray.init`, and most of the rest is
# processes that import torch and ray.train: the ranks, and Ray Train's helpers. Helpers that we do not need are off.
TRAIN_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    # A dead rank is noticed at the next health check; 2 s by default.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # Survivors of a dead rank hang in a collective operation and cannot shut down in order (30 s by default).
    "TRAIN_TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",
    # We export our own metrics; these would go to Ray's agent.
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
# After a node is lost, Ray Train requests the old size of an elastic group first, and waits this long for the resources
# before it looks at those that are left (60 s by default); see `nodes.NodeMonitor`, too.
ELASTIC_ENVIRONMENT = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10"}
# Errors that mean a bug in our code, which would be raised again at the next start of the group.
BUGS = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, TypeError, ValueError)

# Words in the errors that torch's backends raise in a rank whose peer is gone.
PEER_WORDS = ("gloo", "NCCL", "Connection reset", "Connection closed")

_log = logging.getLogger(__name__)

Job = TypeVar("Job")
Summary = TypeVar("Summary")


RunRank = Callable[[Job, messages.RankContext, callbacks.Callbacks], Summary]


def run_training(
    job: "trainer.TrainingJob",
    session: sessions.Session,
    on_progress: Callable[["progress.Progress"], None],
) -> "trainer.TrainingSummary":
    """Trains to the end of the job, or until the session receives a signal.

    Raises:
        RaycurrentError: a rank raised it; no restart would help.
        ClusterError: ranks died more often than `cluster.max_failures` allows.
        InterruptedRunError: the run was stopped.
    """
    from workers.train import rank_process

    events = session.events(job.root)

    def show(now: "progress.Progress") -> None:
        on_progress(now)
        events.follow()

    try:
        summary: trainer.TrainingSummary = launch(job, rank_process.run_rank, job.root, session, show)
    finally:
        events.follow(at_once=True)
    return summary


def launch(
    job: Job,
    run_rank: RunRank[Job, Summary],
    root: location.Location,
    session: sessions.Session,
    on_progress: Callable[[Any], None],
) -> Summary:
    """Has every rank call `run_rank`, a function that can be pickled, and returns the result of rank 0.

    Raises the errors of `run_training`.
    """
    session.release()
    session.start_metrics()
    if not session.uses_ray():
        device = "cuda:0" if session.cluster.use_gpu else "cpu"
        context = messages.RankContext(0, 1, device, session.cluster.cpus_per_worker)
        return run_rank(job, context, _LocalCallbacks(on_progress, session.should_stop))
    session.start_ray()
    session.require(session.cluster.workers.start)
    with _scratch_folder(root) as storage:
        group = _WorkerGroup(session, storage)
        summary: Summary = group.run(job, run_rank, on_progress)
        return summary


class _LocalCallbacks:
    """Callbacks of the only rank, in the driver's own process."""

    def __init__(self, on_progress: Callable[[Any], None], should_stop: Callable[[], bool]) -> None:
        self.on_progress = on_progress
        self.should_stop = should_stop

    def should_save(self) -> bool:
        """See `Callbacks`: never; the process runs on one machine, and gets a signal when that is shut down."""
        return False


def _blame_order(failure: BaseException) -> int:
    """Returns 0 for a rank that died, 1 for one that raised, 2 for one that lost its peer: the lowest is the cause."""
    if type(failure).__module__.startswith("ray."):
        return 0
    lost_peer = isinstance(failure, errors.ClusterError) or any(word in str(failure) for word in PEER_WORDS)
    return 2 if lost_peer else 1


def _describe(failure: BaseException) -> str:
    """Returns the failure in one line, with the process if it is that of an actor that died."""
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()] or [""]
    process = dict(line.split(": ", 1) for line in lines if line.startswith(("pid: ", "ip: ")))
    where = f" (process {process['pid']} on {process['ip']})" if len(process) == 2 else ""
    return f"{type(failure).__name__}: {lines[0]}{where}"


@contextlib.contextmanager
def _scratch_folder(root: location.Location) -> Iterator[str]:
    """Yields a folder for the files of Ray Train, which every node can reach; removes a local one at the end."""
    if not root.is_local:
        yield str(root.join(".ray"))
        return
    folder = root.path / ".ray"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield str(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _WorkerGroup:
    """A group of ranks under Ray Train, and the driver's loop that watches it."""

    def __init__(self, session: sessions.Session, storage: str) -> None:
        import ray

        self._ray: Any = ray
        self._session = session
        self._storage = storage
        beside = nodes.beside_driver()
        self._board: Any = ray.remote(messages.MessageBoard).options(num_cpus=0, scheduling_strategy=beside).remote()
        self._result: Any = None
        self._error: Exception | None = RuntimeError("Ray Train ended without a result")

    def run(self, job: Job, run_rank: RunRank[Job, Summary], on_progress: Callable[[Any], None]) -> Any:
        """Starts the ranks and watches them until they end."""
        trainer = self._trainer({"job": job, "run_rank": run_rank, "board": self._board})
        # Not in the main thread, which handles signals: Ray Train's own handlers would end the run at once.
        thread = threading.Thread(target=self._fit, args=(trainer,), name="ray-train", daemon=True)
        thread.start()
        node_monitor = nodes.NodeMonitor() if self._session.joined else None  # nobody drains a cluster of our own
        restart_monitor = restarts.RestartMonitor(nodes.alive)
        started_s, stop_asked_s = time.monotonic(), float("inf")
        while thread.is_alive():
            thread.join(POLL_S)
            status = self._status()
            if (restarted := restart_monitor.describe(status)) is not None:
                _log.warning("%s", restarted)
            if status.progress is not None:
                on_progress(status.progress)
            now_s = time.monotonic()
            if node_monitor is not None and node_monitor.needs_checkpoint(status.nodes):
                self._board.request_save.remote()
            if stop_asked_s > now_s and self._session.should_stop():
                stop_asked_s = now_s
                self._board.request_stop.remote()
            if thread.is_alive():
                _check_deadlines(status.has_entered, now_s - started_s, now_s - stop_asked_s)
        status = self._status()
        if status.progress is not None:
            on_progress(status.progress)
        if status.fatal is not None:
            raise status.fatal
        if self._error is not None:
            raise _explain(self._error, self._session.cluster.max_failures) from self._error
        return self._result

    def _fit(self, trainer: Any) -> None:
        from ray import train

        try:
            self._result = trainer.fit().return_value
        except (train.TrainingFailedError, self._ray.exceptions.RayError, RuntimeError, OSError, ValueError) as error:
            self._error = error
        else:
            self._error = None

    def _trainer(self, config: dict[str, Any]) -> Any:
        elastic = len(self._session.cluster.workers) > 1
        for name, value in {**TRAIN_ENVIRONMENT, **(ELASTIC_ENVIRONMENT if elastic else {})}.items():
            os.environ.setdefault(name, value)
        if not self._session.joined:  # nothing drains a cluster of our own
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        from ray import train as train_module
        from ray.train import torch as train_torch

        train: Any = train_module  # typed as version 1 of Ray Train, but used as version 2
        settings = self._session.cluster
        sizes = settings.workers
        resources = {"CPU": float(settings.cpus_per_worker), **({"GPU": 1.0} if settings.use_gpu else {})}
        return train_torch.TorchTrainer(
            _train_rank,
            train_loop_config={**config, "threads": settings.cpus_per_worker},
            torch_config=train_torch.TorchConfig(
                backend="nccl" if settings.use_gpu else "gloo", timeout_s=int(settings.collective_timeout_s)
            ),
            scaling_config=train.ScalingConfig(
                num_workers=(sizes.start, sizes.stop - 1) if elastic else sizes.start,
                use_gpu=settings.use_gpu,
                resources_per_worker=resources,
                elastic_resize_monitor_interval_s=RESIZE_S,
            ),
            run_config=train.RunConfig(
                name=f"group-{secrets.token_hex(8)}",  # Ray Train silently continues a run whose name it knows
                storage_path=self._storage,
                failure_config=train.FailureConfig(max_failures=settings.max_failures),
                worker_runtime_env={"env_vars": self._session.worker_env},
            ),
        )

    def _status(self) -> messages.GroupStatus:
        try:
            status: messages.GroupStatus = self._ray.get(self._board.status.remote(), timeout=30)
        except self._ray.exceptions.RayError as error:
            raise errors.ClusterError(
                f"cluster: the message actor does not respond ({type(error).__name__}); check the cluster"
            ) from error
        return status


def _check_deadlines(has_entered: bool, running_s: float, stopping_s: float) -> None:
    """Raises if the ranks do not start, or do not stop, in time."""
    limit_s = STOP_S if has_entered else NOT_BEGUN_S
    if stopping_s > limit_s:
        raise errors.InterruptedRunError(
            f"train: stopped; the ranks did not end within {limit_s:.0f} s, the last checkpoint is kept"
        )
    if not has_entered and running_s > START_S:
        raise errors.ClusterError(
            f"train: no rank started within {START_S:.0f} s; free resources of the cluster, or lower "
            "cluster.num_workers or cluster.cpus_per_worker"
        )


def _explain(error: Exception, max_failures: int) -> Exception:
    """Returns an error of one line that names the rank whose failure ended the run."""
    failures: dict[int, BaseException] = dict(getattr(error, "worker_failures", {}))
    inner = {rank: getattr(failure, "_base_exc", failure) for rank, failure in failures.items()}
    rank = min(inner, key=lambda rank: (_blame_order(inner[rank]), rank), default=None)
    line = _describe(error if rank is None else inner[rank])
    where = "train" if rank is None else f"train: rank {rank}"
    return errors.ClusterError(
        f"{where}: {line}; the worker group failed after at most {max_failures} restarts "
        f"(cluster.max_failures: {max_failures}); the newest checkpoint is kept, the same command resumes from it"
    )


class _RankCallbacks:
    """Callbacks of a rank in a worker, through the message board; no call waits for a reply."""

    def __init__(self, board: Any, rank: int) -> None:
        import ray

        self._ray: Any = ray
        self._board = board
        self._rank = rank
        self._posted_s = float("-inf")
        self._polled_s = float("-inf")
        self._reply: Any = None  # a future of the board's reply to the last poll
        self._requests = messages.PendingRequests(stop=False, save=False)

    def on_progress(self, now: Any) -> None:
        """See `Callbacks`."""
        now_s = time.monotonic()
        if self._rank == 0 and now_s - self._posted_s >= PROGRESS_S:
            self._posted_s = now_s
            self._board.post_progress.remote(now)

    def should_stop(self) -> bool:
        """See `Callbacks`."""
        self._poll()
        return self._requests.stop

    def should_save(self) -> bool:
        """See `Callbacks`; a request for a checkpoint is served once."""
        save, self._requests = self._requests.save, self._requests._replace(save=False)
        return save

    def _poll(self) -> None:
        """Reads the reply of the last poll if it has arrived, and sends the next."""
        now_s = time.monotonic()
        if self._requests.stop or self._rank != 0 or now_s - self._polled_s < REQUESTS_S:
            return
        self._polled_s = now_s
        if self._reply is not None and self._ray.wait([self._reply], timeout=0)[0]:
            reply = self._ray.get(self._reply)
            self._requests = messages.PendingRequests(reply.stop, reply.save or self._requests.save)
            self._reply = None
        if self._reply is None:
            self._reply = self._board.take_requests.remote()


def _train_rank(config: dict[str, Any]) -> Any:
    """Runs a rank in a worker of Ray Train, which calls it."""
    import ray
    from ray import train
    from ray.train import torch as train_torch
    from torch import distributed

    context = train.get_context()
    board, rank = config["board"], context.get_world_rank()
    worker = secrets.token_hex(8)
    node = ray.get_runtime_context().get_node_id()
    if not ray.get(board.enter.remote(rank, context.get_world_size(), worker, node)):
        return None
    device = str(train_torch.get_device())
    rank_context = messages.RankContext(rank, context.get_world_size(), device, config["threads"])
    had_group = distributed.is_initialized()
    fatal: BaseException
    try:
        return config["run_rank"](config["job"], rank_context, _RankCallbacks(board, rank))
    except errors.ClusterError:
        if ray.get(board.has_failed.remote()):
            return None
        raise
    except errors.RaycurrentError as error:
        fatal = error
    except BUGS as error:
        # To end a group (its node is lost, its size changes), Ray Train destroys the process group under the loop,
        # which then fails in ways that look like bugs: the next start of the group has to go on.
        if had_group and not distributed.is_initialized():
            raise
        fatal = RuntimeError(f"rank {rank} on {socket.gethostname()}:\n{traceback.format_exc()}")
        fatal.__cause__ = error
    except RuntimeError:  # also what torch raises when the peers are gone
        if ray.get(board.has_failed.remote()):
            return None
        raise
    # If the rank raised, Ray Train would start the group again. So the error goes to the board, and the rank returns;
    # destroying the process group releases its peers, which wait for it in a collective operation.
    ray.get(board.report_failure.remote(rank, worker, fatal))
    if distributed.is_initialized():
        distributed.destroy_process_group()
    return None
