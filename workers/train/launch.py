"""Starts the ranks of a training run: in this process, or as a group of Ray Train workers.

Ray Train starts the group, and starts it again when a rank dies. It keeps nothing for us: checkpoints are ours,
and nothing is reported to it (a report blocks for a poll). What a rank and the driver tell each other (progress,
a stop, an error that no restart can mend) goes over a small actor, the `messages.Board`.
"""

import contextlib
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
from workers.cluster import nodes
from workers.cluster import session as sessions
from workers.train import messages

if TYPE_CHECKING:  # torch is imported by ranks alone
    from core.training import progress, trainer

POLL_S = 0.3
PROGRESS_S = 0.5  # a rank tells the driver how far it is at most so often
ASK_S = 0.2  # and asks so often what it wants
STOP_S = 90.0  # a stop takes a step, or a validation, and a checkpoint; Kubernetes allows 120 s in our manifests
NOT_BEGUN_S = 5.0  # nobody entered the loop: there is nothing to save
START_S = 300.0  # without a rank in the loop for so long, others must be holding the resources
RESIZE_S = 300.0  # how often an elastic group looks whether it could be larger: each look may cost a restart

# Of the time from the command to the first step on two cores, about 6 s are `ray.init`, and most of the rest is
# processes that import torch and ray.train: the ranks, and Ray Train's helpers. What can be left out is.
TRAIN_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    # A dead rank is noticed at the next poll; 2 s by default.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # Survivors of a dead rank hang in a collective and will not take part in an orderly end (30 s by default).
    "TRAIN_TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",
    # Ours are exported; these would go to Ray's agent.
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
# After a node is lost, Ray Train asks for the old size of an elastic group first, and waits so long for its resources
# before it counts again what is there (60 s by default); see `nodes.Departures`, too.
ELASTIC_ENVIRONMENT = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10"}
# What a rank raises when our code is wrong: as wrong at the next start of the group.
BUGS = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, TypeError, ValueError)

# What torch's backends say in a rank whose peer is gone.
PEER_WORDS = ("gloo", "NCCL", "Connection reset", "Connection closed")

Job = TypeVar("Job")
Summary = TypeVar("Summary")


RunRank = Callable[[Job, messages.Place, messages.Hooks], Summary]


def run_training(
    job: "trainer.TrainingJob",
    session: sessions.Session,
    on_progress: Callable[["progress.Progress"], None],
) -> "trainer.TrainingSummary":
    """Trains to the end of the job, or to the signal that the session received.

    Raises:
        RaycurrentError: what a rank raised; no restart would mend it.
        ClusterError: ranks died more often than `sessions.max_failures` allows.
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
    """Has every rank call `run_rank`, a function that can be pickled, and returns what rank 0 returned.

    See `run_training` for what it raises.
    """
    session.release()
    session.measure()
    if not session.wants_ray():
        device = "cuda:0" if session.cluster.use_gpu else "cpu"
        place = messages.Place(0, 1, device, session.cluster.cpus_per_worker)
        return run_rank(job, place, _LocalHooks(on_progress, session.should_stop))
    session.start_ray()
    session.require(session.cluster.workers.start)
    with _scratch(root) as storage:
        group = _Group(session, storage)
        summary: Summary = group.run(job, run_rank, on_progress)
        return summary


class _LocalHooks:
    def __init__(self, on_progress: Callable[[Any], None], should_stop: Callable[[], bool]) -> None:
        self.progress = on_progress
        self.should_stop = should_stop

    def should_save(self) -> bool:
        """See `messages.Hooks`: the process has one machine, and when that goes it is told to stop."""
        return False


def _innocence(failure: BaseException) -> int:
    """Of several ranks the one that died counts before one that raised, and that before those that lost a peer."""
    if type(failure).__module__.startswith("ray."):
        return 0
    lost_peer = isinstance(failure, errors.ClusterError) or any(word in str(failure) for word in PEER_WORDS)
    return 2 if lost_peer else 1


def _line(failure: BaseException) -> str:
    """The failure in a line, with the process where a death tells it."""
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()] or [""]
    found = dict(line.split(": ", 1) for line in lines if line.startswith(("pid: ", "ip: ")))
    place = f" (process {found['pid']} on {found['ip']})" if len(found) == 2 else ""
    return f"{type(failure).__name__}: {lines[0]}{place}"


@contextlib.contextmanager
def _scratch(root: location.Location) -> Iterator[str]:
    """A place for the notes of Ray Train, which every node can reach; empty again at the end."""
    if not root.is_local:
        yield str(root.join(".ray"))
        return
    folder = root.path / ".ray"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield str(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Group:
    """A group of ranks under Ray Train."""

    def __init__(self, session: sessions.Session, storage: str) -> None:
        import ray

        self._ray: Any = ray
        self._session = session
        self._storage = storage
        beside = nodes.beside_driver()
        self._board: Any = ray.remote(messages.Board).options(num_cpus=0, scheduling_strategy=beside).remote()
        self._result: Any = None
        self._error: Exception | None = RuntimeError("Ray Train ended without a result")

    def run(self, job: Job, run_rank: RunRank[Job, Summary], on_progress: Callable[[Any], None]) -> Any:
        """Starts the ranks and watches over them."""
        trainer = self._trainer({"job": job, "run_rank": run_rank, "board": self._board})
        # Not in the main thread, which handles signals and must be free to: Ray Train would end the run at once.
        thread = threading.Thread(target=self._fit, args=(trainer,), name="ray-train", daemon=True)
        thread.start()
        departures = nodes.Departures() if self._session.joined else None  # nobody drains a cluster of our own
        started_s, stop_asked_s = time.monotonic(), float("inf")
        while thread.is_alive():
            thread.join(POLL_S)
            look = self._look()
            if look.progress is not None:
                on_progress(look.progress)
            now_s = time.monotonic()
            if departures is not None and departures.needs_checkpoint(look.nodes):
                self._board.save.remote()
            if stop_asked_s > now_s and self._session.should_stop():
                stop_asked_s = now_s
                self._board.stop.remote()
            if thread.is_alive():
                _check_clocks(look.entered, now_s - started_s, now_s - stop_asked_s)
        look = self._look()
        if look.progress is not None:
            on_progress(look.progress)
        if look.fatal is not None:
            raise look.fatal
        if self._error is not None:
            raise _explained(self._error, self._session.cluster.max_failures) from self._error
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

        train: Any = train_module  # its types are those of version 1
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
                name=f"group-{secrets.token_hex(8)}",  # Ray Train silently goes on with a run whose name it knows
                storage_path=self._storage,
                failure_config=train.FailureConfig(max_failures=settings.max_failures),
                worker_runtime_env={"env_vars": self._session.worker_env},
            ),
        )

    def _look(self) -> messages.Look:
        try:
            look: messages.Look = self._ray.get(self._board.look.remote(), timeout=30)
        except self._ray.exceptions.RayError as error:
            raise errors.ClusterError(
                f"cluster: the driver cannot reach its helper ({type(error).__name__}); is the cluster alive?"
            ) from error
        return look


def _check_clocks(entered: bool, running_s: float, stopping_s: float) -> None:
    """Ends the wait for ranks that do not start, or do not stop."""
    limit_s = STOP_S if entered else NOT_BEGUN_S
    if stopping_s > limit_s:
        raise errors.InterruptedRunError(
            f"train: stopped; the ranks did not end within {limit_s:.0f} s, the last checkpoint stays"
        )
    if not entered and running_s > START_S:
        raise errors.ClusterError(
            f"train: no rank started within {START_S:.0f} s; free resources of the cluster, or lower "
            "cluster.num_workers or cluster.cpus_per_worker"
        )


def _explained(error: Exception, max_failures: int) -> Exception:
    """One line that names the rank whose failure ended the run."""
    failures: dict[int, BaseException] = dict(getattr(error, "worker_failures", {}))
    inner = {rank: getattr(failure, "_base_exc", failure) for rank, failure in failures.items()}
    rank = min(inner, key=lambda rank: (_innocence(inner[rank]), rank), default=None)
    line = _line(error if rank is None else inner[rank])
    where = "train" if rank is None else f"train: rank {rank}"
    return errors.ClusterError(
        f"{where}: {line}; the group was started {max_failures + 1} times at most (cluster.max_failures: "
        f"{max_failures}); the newest checkpoint stays, the same command goes on from it"
    )


class _RankHooks:
    """Hooks of a rank in a worker; no call waits for an answer."""

    def __init__(self, board: Any, rank: int) -> None:
        import ray

        self._ray: Any = ray
        self._board = board
        self._rank = rank
        self._posted_s = float("-inf")
        self._asked_s = float("-inf")
        self._question: Any = None
        self._wishes = messages.Wishes(stop=False, save=False)

    def progress(self, now: Any) -> None:
        """See `messages.Hooks`."""
        now_s = time.monotonic()
        if self._rank == 0 and now_s - self._posted_s >= PROGRESS_S:
            self._posted_s = now_s
            self._board.post.remote(now)

    def should_stop(self) -> bool:
        """See `messages.Hooks`."""
        self._ask()
        return self._wishes.stop

    def should_save(self) -> bool:
        """See `messages.Hooks`."""
        wish, self._wishes = self._wishes.save, self._wishes._replace(save=False)
        return wish

    def _ask(self) -> None:
        now_s = time.monotonic()
        if self._wishes.stop or self._rank != 0 or now_s - self._asked_s < ASK_S:
            return
        self._asked_s = now_s
        if self._question is not None and self._ray.wait([self._question], timeout=0)[0]:
            answer = self._ray.get(self._question)
            self._wishes = messages.Wishes(answer.stop, answer.save or self._wishes.save)
            self._question = None
        if self._question is None:
            self._question = self._board.wishes.remote()


def _train_rank(config: dict[str, Any]) -> Any:
    """What Ray Train calls in each worker."""
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
    place = messages.Place(rank, context.get_world_size(), str(train_torch.get_device()), config["threads"])
    had_group = distributed.is_initialized()
    fatal: BaseException
    try:
        return config["run_rank"](config["job"], place, _RankHooks(board, rank))
    except errors.ClusterError:
        if ray.get(board.failed.remote()):
            return None
        raise
    except errors.RaycurrentError as error:
        fatal = error
    except BUGS as error:
        # To end a group (its node goes, its size changes), Ray Train destroys the process group below the loop.
        if had_group and not distributed.is_initialized():
            raise
        fatal = RuntimeError(f"rank {rank} on {socket.gethostname()}:\n{traceback.format_exc()}")
        fatal.__cause__ = error
    except RuntimeError:  # also what torch raises when the peers are gone
        if ray.get(board.failed.remote()):
            return None
        raise
    # Ray Train would start the group again. So the error goes over the board, the rank ends as if all were well,
    # and its peers, which wait for it in a collective, are let go.
    ray.get(board.fail.remote(rank, worker, fatal))
    if distributed.is_initialized():
        distributed.destroy_process_group()
    return None
