"""Launch of a training run: one rank in this process, or a group of ranks in workers of a cluster.

`actor_group` starts the group on the one node of a cluster of our own, `ray_train` anywhere else; both start it again
when a rank dies. Messages between ranks and driver (progress, a stop request, an error that no restart will help
against) go through an actor, `messages.MessageBoard`.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from core import errors
from core.storage import location
from core.training import callbacks
from workers.cluster import nodes
from workers.cluster import session as sessions
from workers.train import actor_group, messages, ranks, ray_train, restarts

if TYPE_CHECKING:  # torch is imported by ranks alone
    from core.training import progress, trainer

POLL_S = 0.3
STOP_S = 90.0  # a stop takes a step, or a validation, and a checkpoint; Kubernetes allows 120 s in our manifests
NOT_BEGUN_S = 5.0  # no rank has entered the loop: there is nothing to save
START_S = 300.0  # without a rank in the loop after this time, others must be holding the resources

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
    summary: Summary = _Watch(session, _group(session, root)).run(job, run_rank, on_progress)
    return summary


class Group(Protocol):
    """A group of ranks, which starts again when a rank dies."""

    def run(self, work: ranks.Work) -> Any:
        """Runs the ranks to their end and returns the result of rank 0; raises an error when they fail too often."""


def _group(session: sessions.Session, root: location.Location) -> Group:
    cluster = session.cluster
    has_fixed_size = len(cluster.workers) == 1
    if has_fixed_size and not session.joined and not cluster.use_gpu and len(nodes.alive()) == 1:
        return actor_group.ActorGroup(cluster, session.worker_env, session.folder)
    return ray_train.RayTrainGroup(cluster, session.worker_env, root, has_moving_nodes=session.joined)


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


class _Watch:
    """The driver's loop that watches a group of ranks."""

    def __init__(self, session: sessions.Session, group: Group) -> None:
        import ray

        self._ray: Any = ray
        self._session = session
        self._group = group
        beside = nodes.beside_driver()
        self._board: Any = ray.remote(messages.MessageBoard).options(num_cpus=0, scheduling_strategy=beside).remote()
        self._result: Any = None
        self._error: Exception | None = RuntimeError("the ranks ended without a result")

    def run(self, job: Job, run_rank: RunRank[Job, Summary], on_progress: Callable[[Any], None]) -> Any:
        """Starts the ranks and watches them until they end."""
        work = ranks.Work(job, run_rank, self._board, self._session.cluster.cpus_per_worker)
        # Not in the main thread, which handles signals: Ray Train's own handlers would end the run at once.
        thread = threading.Thread(target=self._run_group, args=(work,), name="ranks", daemon=True)
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

    def _run_group(self, work: ranks.Work) -> None:
        try:
            self._result = self._group.run(work)
        except (ranks.RanksFailedError, self._ray.exceptions.RayError, RuntimeError, OSError, ValueError) as error:
            self._error = error
        else:
            self._error = None

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
    failures = error.worker_failures if isinstance(error, ranks.RanksFailedError) else {}
    rank = min(failures, key=lambda rank: (_blame_order(failures[rank]), rank), default=None)
    line = _describe(error if rank is None else failures[rank])
    where = "train" if rank is None else f"train: rank {rank}"
    return errors.ClusterError(
        f"{where}: {line}; the worker group failed after at most {max_failures} restarts "
        f"(cluster.max_failures: {max_failures}); the newest checkpoint is kept, the same command resumes from it"
    )
