"""Cluster session: the Ray cluster of a run, joined or started on first use and left at the end.

`Session` owns Ray in the driver: the environment of its processes, the token, the signal handlers, the worker pool of
the current stage, and the metrics exporters on other nodes.
"""

import contextlib
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from core import errors
from core.config import schema
from core.storage import location, private_folders
from core.telemetry import metrics
from workers.cluster import addresses, authentication, nodes, signals, starting
from workers.fanout import executor as executors
from workers.fanout import pool as pools
from workers.fanout import process_environment, ray_actors
from workers.telemetry import prometheus, tensorboard

OBJECT_STORE_BYTES = 200 * 2**20  # only commit records and settings pass through it
RESOURCES_TIMEOUT_S = 300.0  # time for an autoscaling cluster to add nodes
REQUEST_INTERVAL_S = 10.0  # another driver of the cluster may have replaced a request
NEW_NODES_INTERVAL_S = 10.0  # between two looks for new nodes in a cluster that we joined

# Set before `ray` is imported, unless the user has set them.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Out of memory fails the attempt, and our own retries count it; by default Ray retries without limit.
    "RAY_task_oom_retries": "0",
    "RAY_DEDUP_LOGS": "0",
}
# For clusters that we start; a cluster that we join keeps its values.
OWN_CLUSTER = {
    # Our actors have an environment of their own, so that no worker which Ray starts in advance can serve one.
    "RAY_prestart_worker_first_driver": "0",
    # Detect an unreachable node within seconds; by default a call to it hangs for up to 300 + 120 s. All processes of
    # a cluster must agree: one that pings more often than its peers expect is disconnected ("too_many_pings") once a
    # call lasts longer than three pings.
    "RAY_grpc_client_keepalive_time_ms": "15000",
    "RAY_grpc_client_keepalive_timeout_ms": "10000",
}

_log = logging.getLogger(__name__)


class Session:
    """The connection of a run to its cluster, as a context manager. Starts nothing until it is needed.

    Args:
        cluster: settings of the cluster.
        shared: folders that must be the same files on every node.
        metrics_folder: folder of the run's metrics; None: none are written, nor served, unless they are pushed.
        export: settings of the metrics export.
        run: name of the run, a label of its scrape targets.
        verb: the verb that the driver does, a label of what it pushes.
    """

    def __init__(
        self,
        cluster: schema.ClusterConfig,
        shared: Sequence[location.Location] = (),
        metrics_folder: location.Location | None = None,
        export: schema.TelemetryConfig | None = None,
        run: str = "raycurrent",
        verb: str = "python",
    ) -> None:
        self.cluster = cluster
        self.should_stop = signals.StopFlag()
        self.ray_started = False
        self.folder = private_folders.temporary_folder()
        self._shared = tuple(shared)
        self._metrics_folder = metrics_folder
        self._export = export or schema.TelemetryConfig()
        self._run = run
        self._verb = verb
        self.joined = False
        self._owns_ray = False
        self._starter: starting.Starter | None = None
        self._pool: tuple[str, pools.Pool] | None = None
        self._exporters: prometheus.Exporters | None = None
        self._closed = threading.Event()
        self._watchers: list[threading.Thread] = []

    def __enter__(self) -> Self:
        if self.cluster.label_selector and addresses.resolve(self.cluster.address) == "local":
            raise errors.UsageError(
                "cluster.label_selector: the local cluster has one node without labels; name the address of another in "
                "cluster.address, or leave it out"
            )
        self.folder = private_folder()
        # Open until the end, so that no other run takes the folder for one that was left behind.
        self._open_folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        process_environment.apply(self.cluster.cpus_per_worker)  # stages may run in this process
        self.should_stop.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.release()
            self._closed.set()
            for watcher in self._watchers:
                watcher.join(timeout=5)
            if self._exporters:
                # While Ray is up: the exporters of other nodes are actors.
                self._exporters.close(linger=kind is None)
        finally:
            if self._owns_ray:
                nodes.ray().shutdown()  # ends a local cluster, disconnects from one that was joined
            if self._starter:
                self._starter.release()
            self.should_stop.restore()
            os.close(self._open_folder)
            shutil.rmtree(self.folder, ignore_errors=True)

    def interrupting(self) -> contextlib.AbstractContextManager[None]:
        """Lets SIGTERM and SIGINT end work that never calls Ray at once; see `signals.StopFlag.interrupting`."""
        return self.should_stop.interrupting()

    @property
    def signal(self) -> int | None:
        """Number of the signal that asked the run to stop, or None."""
        return self.should_stop.signal

    def start_metrics(self) -> None:
        """Starts the metrics export, once: from now on this driver owns the metrics files of the run.

        Call it only while holding the run lock: a driver that is refused must not touch the files of the holder.
        """
        wanted = self._metrics_folder is not None or self._export.pushgateway is not None
        if wanted and self._exporters is None:
            self._exporters = prometheus.Exporters(
                self.folder / "metrics",
                self._metrics_folder,
                self._export,
                self._run,
                self._verb,
                nodes.start_exporter,
            )

    @property
    def metrics(self) -> metrics.Metrics:
        """The metrics of the driver process."""
        self.start_metrics()
        return self._exporters.metrics if self._exporters else metrics.NullMetrics()

    def write_metrics(self) -> None:
        """Writes the current metrics to the run's folder, as the end of the session does."""
        if self._exporters:
            self._exporters.write_snapshots()

    @property
    def worker_env(self) -> dict[str, str]:
        """Environment variables of our workers. Ray's daemons must not have them: their series would appear as ours."""
        env = process_environment.thread_variables(self.cluster.cpus_per_worker)
        if self._exporters:
            env[prometheus.FOLDER_VARIABLE] = str(self._exporters.folder)
        return env

    def events(self, root: location.Location) -> tensorboard.EventFiles:
        """Returns the writer of TensorBoard event files, which writes nothing unless it is enabled."""
        return tensorboard.EventFiles(root, self._export)

    def targets(self) -> list[str]:
        """Returns the scrape targets of this run."""
        return self._exporters.targets() if self._exporters else []

    def uses_ray(self, num_tasks: int | None = None) -> bool:
        """Returns whether a stage of `num_tasks` tasks (None: unknown) runs on Ray."""
        # One task gains nothing from workers, and starting Ray costs about 8 CPU-seconds.
        if self.cluster.address == "none" or num_tasks in (0, 1):
            return False
        if self.ray_started:
            return True
        has_one_worker = self.cluster.workers.stop - 1 == 1 and not self.cluster.use_gpu
        return not (has_one_worker and addresses.resolve(self.cluster.address) == "local")

    def executor(self, stage: str, num_tasks: int | None = None, runs_model: bool = False) -> executors.Executor:
        """Returns the executor of a stage. Its pool is kept until another stage asks, or until `release`.

        Args:
            stage: name of the stage.
            num_tasks: number of its tasks; None: unknown.
            runs_model: whether each worker needs a GPU if the run uses them, and a node that `cluster.label_selector`
                selects.
        """
        if not self.uses_ray(num_tasks):
            return executors.InProcess(self.cluster.cpus_per_worker)
        self.start_ray()
        if self._pool is None or self._pool[0] != stage:
            self.release()
            use_gpu = self.cluster.use_gpu and runs_model
            label_selector = self.cluster.label_selector if runs_model else {}
            if use_gpu or label_selector:
                self.require(1)  # an error now, rather than workers that can never start
            pool = ray_actors.RayPool(
                num_workers=self.cluster.workers.stop - 1,
                cpus_per_worker=self.cluster.cpus_per_worker,
                use_gpu=use_gpu,
                max_failures=self.cluster.max_failures,
                part_timeout_s=self.cluster.part_timeout_s,
                env_vars=self.worker_env,
                label_selector=label_selector,
            )
            self._pool = (stage, pool)
        return self._pool[1]

    def release(self) -> None:
        """Ends the workers of the last stage, which frees their cores for the next."""
        if self._pool:
            self._pool[1].close()
            self._pool = None

    def start_ray(self) -> None:
        """Joins or starts the cluster, once.

        Raises:
            ClusterError: the cluster does not respond, or does not start.
            InterruptedRunError: a signal came while it started.
            UsageError: the cluster requires another token, or its nodes do not share the run's folders.
        """
        if self.ray_started:
            return
        self.start_metrics()
        address = addresses.resolve(self.cluster.address)
        # A Ray that the caller has initialized outlives this session.
        self._owns_ray = not ("ray" in sys.modules and nodes.ray().is_initialized())
        self.joined = address != "local"
        local = {} if self.joined else {**OWN_CLUSTER, **starting.limits(self.cluster.start_timeout_s)}
        for name, value in {**ENVIRONMENT, **local}.items():
            os.environ.setdefault(name, value)
        if self._owns_ray:
            # Before Ray is imported: it reads its environment once.
            authentication.prepare_token(self.joined, self.folder, address)
            self._starter = starting.Starter(lambda: self._init(address), self.folder, is_local=not self.joined)
            try:
                with _without(prometheus.FOLDER_VARIABLE):
                    self._starter.run(self.should_stop)
            except errors.InterruptedRunError:
                # In the middle of its start Ray cannot be shut down.
                self._owns_ray = False
                raise
        self.ray_started = True
        nodes.shorten_raylet_errors()
        self.should_stop.install()
        nodes.check_shared(self._shared)
        # A cluster of our own has one node, which nobody drains and which the driver exports for.
        if self.joined:
            self._watch(self._watch_departure)
            if self._exporters:
                self._watch(self._watch_nodes)

    def require(self, num_workers: int) -> None:
        """Waits until the cluster has the total resources for `num_workers` workers; an autoscaler is asked for them.

        Raises:
            ClusterError: it does not have them; the message compares required and available amounts.
            InterruptedRunError: the run was stopped while it waited.
        """
        worker = {"CPU": float(self.cluster.cpus_per_worker), **({"GPU": 1.0} if self.cluster.use_gpu else {})}
        required = {name: num_workers * amount for name, amount in worker.items()}
        if self._has(required):
            return
        try:
            self._wait_for(required, [worker] * num_workers)
        finally:
            if self.joined:
                # A request outlives its driver: what runs on the nodes keeps them, and a run that ends needs none.
                with contextlib.suppress(nodes.ray().exceptions.RayError):
                    nodes.request_resources([], {})

    def _wait_for(self, required: Mapping[str, float], workers: Sequence[Mapping[str, float]]) -> None:
        deadline_s = time.monotonic() + (RESOURCES_TIMEOUT_S if self.joined else 0)
        requested_s = float("-inf")
        while not self._has(required):
            if self.joined and time.monotonic() - requested_s > REQUEST_INTERVAL_S:
                requested_s = time.monotonic()
                nodes.request_resources(workers, self.cluster.label_selector)
            if self.should_stop():
                raise errors.InterruptedRunError("cluster: stopped while waiting for resources; run the command again")
            if time.monotonic() >= deadline_s:
                selector = self.cluster.label_selector
                available = nodes.resources(selector)
                where = f"the nodes with {selector} have" if selector else "the cluster has"
                needs = ", ".join(f"{amount:g} {name}" for name, amount in required.items())
                has = ", ".join(f"{available.get(name, 0.0):g} {name}" for name in required)
                raise errors.ClusterError(
                    f"cluster.num_workers: {len(workers)} workers need {needs}, {where} {has}; use "
                    "fewer workers, or less for each with cluster.cpus_per_worker and cluster.use_gpu"
                )
            time.sleep(0.3)

    def _has(self, required: Mapping[str, float]) -> bool:
        """Returns whether the nodes that may run workers have these resources in total."""
        available = nodes.resources(self.cluster.label_selector)
        return all(available.get(name, 0.0) >= amount for name, amount in required.items())

    def _init(self, address: str) -> None:
        if self.joined:
            _init(address, {})
            return
        with starting.patient(self.cluster.start_timeout_s):
            _init(address, self._local_settings())

    def _local_settings(self) -> dict[str, Any]:
        # Ray counts cores but does not reserve them: with more workers than cores they share the cores.
        num_cpus = max((self.cluster.workers.stop - 1) * self.cluster.cpus_per_worker, os.cpu_count() or 1)
        return {
            "num_cpus": num_cpus,
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_temp_dir": str(self.folder / "r"),
        }

    def _watch(self, function: Callable[[], None]) -> None:
        watcher = threading.Thread(target=function, name=function.__name__.strip("_"), daemon=True)
        self._watchers.append(watcher)
        watcher.start()

    def _watch_departure(self) -> None:
        """Requests the stop of the run when the driver's node, or the head, is drained.

        Otherwise the run would work until it is cut off, lose what it did since its last checkpoint, and keep the
        other nodes waiting.
        """
        own_node = nodes.ray().get_runtime_context().get_node_id()
        while not self._closed.wait(nodes.CHECK_INTERVAL_S):
            with contextlib.suppress(nodes.ray().exceptions.RayError):  # the head does not respond: try again
                if (gone_s := nodes.departure_s(own_node)) is not None:
                    left_s = gone_s - time.time()
                    in_time = f" in {max(left_s, 0):.0f} s" if left_s < float("inf") else ""
                    _log.warning("cluster: the driver's node or the head leaves%s; the run is saved and ends", in_time)
                    self.should_stop.request()
                    return

    def _watch_nodes(self) -> None:
        while not self._closed.wait(NEW_NODES_INTERVAL_S):
            self.export_from_all_nodes()

    def export_from_all_nodes(self) -> None:
        """Starts an exporter on each node that has none; the driver exports for its own node."""
        if self._exporters:
            own_node = nodes.ray().get_runtime_context().get_node_id()
            self._exporters.ensure_exporters(
                [(node, address) for node, address in nodes.alive().items() if node != own_node]
            )


def private_folder() -> Path:
    """Creates a private temporary folder for the processes of a run.

    Its path is short, because the path of a Unix socket has at most 107 characters; it is accessible to the user
    alone, because Ray's files in it are readable by everybody. Those that killed runs left are removed first.
    """
    shared = Path("/tmp")  # noqa: S108 (the folder is private)
    return private_folders.create(shared if os.access(shared, os.W_OK) else private_folders.temporary_folder())


@contextlib.contextmanager
def _without(name: str) -> Iterator[None]:
    """Hides an environment variable from processes that are started within the context."""
    value = os.environ.pop(name, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[name] = value


def _init(address: str, settings: Mapping[str, Any]) -> None:
    """Connects to Ray, or starts it; its errors become one-line messages."""
    try:
        nodes.ray().init(address=address, logging_level=logging.ERROR, log_to_driver=False, **settings)
    except nodes.ray().exceptions.AuthenticationError as error:
        raise errors.UsageError(
            f"cluster.address: {address} does not accept the token of this driver; point RAY_AUTH_TOKEN_PATH to the "
            "cluster's, or set RAY_AUTH_MODE=disabled for a cluster without authentication"
        ) from error
    except Exception as error:
        # Ray raises a bare Exception when a node does not start in time; no narrower class catches it.
        expected = (OSError, RuntimeError, ValueError, nodes.ray().exceptions.RayError)
        if type(error) is Exception or isinstance(error, expected):
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            if address != "local":
                raise errors.ClusterError(f"cluster.address: {address}: {reason}; is the cluster up?") from error
            raise errors.ClusterError(
                f"cluster.address: local: Ray did not start ({reason.rstrip('.')}); on a busy machine wait longer with "
                "cluster.start_timeout_s, or use cluster.address: none to run in this process"
            ) from error
        raise
