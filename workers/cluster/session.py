"""The cluster that a run works on: joined or started when the first stage needs it, left when the run ends.

`Session` is the one owner of Ray in the driver: the environment of its processes, the token, the signals, the
pool of a stage, and the exporters on other nodes.
"""

import contextlib
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from core import errors
from core.config import schema
from core.storage import location
from core.telemetry import metrics
from workers.cluster import authentication, nodes, signals
from workers.fanout import executor as executors
from workers.fanout import pool as pools
from workers.fanout import process_environment, ray_actors
from workers.telemetry import prometheus, tensorboard

OBJECT_STORE_BYTES = 200 * 2**20  # only commit records and settings pass through it
RESOURCES_S = 300.0  # an autoscaling cluster may grow for so long
NEW_NODES_S = 10.0  # how often a joined cluster is asked for new nodes

# Set before `ray` is imported, where the user did not.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Memory that runs out ends the attempt, and is counted there; by default Ray tries again for ever.
    "RAY_task_oom_retries": "0",
    "RAY_DEDUP_LOGS": "0",
}
# Of a cluster that we start. A node that is cut off is noticed after seconds: by default a call to it hangs for up to
# 300 + 120 s. All its processes must agree: one that pings more often than the others expect is cut off by them as
# soon as a call takes longer than three pings ("too_many_pings"). So in a cluster that we join, its own values count.
KEEPALIVE = {
    "RAY_grpc_client_keepalive_time_ms": "15000",
    "RAY_grpc_client_keepalive_timeout_ms": "10000",
}


class Session:
    """A run's hold on a cluster; use it as a context manager. Starts nothing until it is needed.

    Args:
        cluster: where the work runs.
        shared: folders that every node must see as the driver does.
        metrics_folder: folder of the run's metrics; None: nothing is measured.
        export: how metrics are exported.
        run: name of the run, a label of its scrape targets.
    """

    def __init__(
        self,
        cluster: schema.ClusterConfig,
        shared: Sequence[location.Location] = (),
        metrics_folder: location.Location | None = None,
        export: schema.TelemetryConfig | None = None,
        run: str = "raycurrent",
    ) -> None:
        self.cluster = cluster
        self.should_stop = signals.StopFlag()
        self.ray_started = False
        self.folder = Path(tempfile.gettempdir())
        self._shared = tuple(shared)
        self._metrics_folder = metrics_folder
        self._export = export or schema.TelemetryConfig()
        self._run = run
        self.joined = False
        self._owns_ray = False
        self._pool: tuple[str, pools.Pool] | None = None
        self._exporters: prometheus.Exporters | None = None
        self._left = threading.Event()
        self._watcher: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.folder = private_folder()
        for name, value in process_environment.of_process(self.cluster.cpus_per_worker).items():
            os.environ.setdefault(name, value)  # for stages that run in this process
        self.should_stop.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.release()
            self._left.set()
            if self._watcher:
                self._watcher.join(timeout=5)
            if self._exporters:
                self._exporters.close(linger=kind is None)
        finally:
            if self._owns_ray:
                nodes.ray().shutdown()  # ends the daemons of a local cluster, only leaves one that was joined
            self.should_stop.restore()
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def signal(self) -> int | None:
        """The signal that asked the run to stop, if one did."""
        return self.should_stop.signal

    def measure(self) -> None:
        """Begins to measure, unless it has: from now on the run's files of metrics are those of this driver.

        Only who holds the lock of the run may call it, or work in any other way: a driver that is refused leaves the
        files of the one that is there alone.
        """
        if self._metrics_folder is not None and self._exporters is None:
            self._exporters = prometheus.Exporters(
                self.folder / "metrics", self._metrics_folder, self._export, self._run, nodes.start_exporter
            )

    @property
    def metrics(self) -> metrics.Metrics:
        """Measures what the driver does."""
        self.measure()
        return self._exporters.metrics if self._exporters else metrics.NullMetrics()

    def keep_metrics(self) -> None:
        """Writes what was measured so far to the run's folder, as the end of the session will."""
        if self._exporters:
            self._exporters.keep()

    @property
    def worker_env(self) -> dict[str, str]:
        """What a worker of ours finds in its environment; Ray's own processes must not (they would be measured)."""
        env = process_environment.of_process(self.cluster.cpus_per_worker)
        if self._exporters:
            env[prometheus.FOLDER_VARIABLE] = str(self._exporters.folder)
        return env

    def events(self, root: location.Location) -> tensorboard.EventFiles:
        """What writes the record of a run for TensorBoard, if its settings ask for it."""
        return tensorboard.EventFiles(root, self._export)

    def targets(self) -> list[str]:
        """Where Prometheus finds the metrics of this run."""
        return self._exporters.targets() if self._exporters else []

    def wants_ray(self, num_tasks: int | None = None) -> bool:
        """Would a stage of so many tasks (None: unknown) run on Ray?"""
        if self.cluster.address == "none" or num_tasks in (0, 1):
            return False
        if self.ray_started:
            return True
        alone = self.cluster.workers.stop - 1 == 1 and not self.cluster.use_gpu
        return not (alone and self._address() == "local")

    def executor(self, stage: str, num_tasks: int | None = None) -> executors.Executor:
        """What does the parts of a stage; the pool is kept until another stage asks, or `release`."""
        if not self.wants_ray(num_tasks):
            return executors.InProcess(self.cluster.cpus_per_worker)
        self.start_ray()
        if self._pool is None or self._pool[0] != stage:
            self.release()
            self._check_gpus(1)
            pool = ray_actors.RayPool(
                num_workers=self.cluster.workers.stop - 1,
                cpus_per_worker=self.cluster.cpus_per_worker,
                use_gpu=self.cluster.use_gpu,
                max_failures=self.cluster.max_failures,
                part_timeout_s=self.cluster.part_timeout_s,
                env_vars=self.worker_env,
            )
            self._pool = (stage, pool)
        return self._pool[1]

    def release(self) -> None:
        """Ends the workers of the last stage, so that the next has their cores."""
        if self._pool:
            self._pool[1].close()
            self._pool = None

    def start_ray(self) -> None:
        """Joins or starts the cluster, once.

        Raises:
            ClusterError: it does not answer or does not start.
            UsageError: it wants a token that we do not have, or its nodes do not share the run's folders.
        """
        if self.ray_started:
            return
        self.measure()
        address = self._address()
        self._owns_ray = not ("ray" in sys.modules and nodes.ray().is_initialized())
        self.joined = address != "local"
        for name, value in {**ENVIRONMENT, **({} if self.joined else KEEPALIVE)}.items():
            os.environ.setdefault(name, value)
        if self._owns_ray:
            authentication.prepare_token(self.joined, self.folder)  # before Ray is imported, and reads its environment
            try:
                with _without(prometheus.FOLDER_VARIABLE):
                    _init(address, {} if self.joined else self._local_settings())
                self.should_stop.install()
            except SystemExit:
                # Meanwhile a handler of Ray's was in the place of ours: it exits.
                nodes.ray().shutdown()
                self.should_stop.signal = signal.SIGTERM
                raise errors.InterruptedRunError("cluster: stopped while Ray started; run it again") from None
        self.ray_started = True
        self.should_stop.install()
        nodes.check_shared(self._shared)
        if self.joined and self._exporters:
            self._watcher = threading.Thread(target=self._watch_nodes, name="new-nodes", daemon=True)
            self._watcher.start()

    def require(self, num_workers: int) -> None:
        """Waits until the cluster has the resources of so many workers, all else aside.

        Raises:
            ClusterError: it has not, and will not; says what was asked for and what is there.
            InterruptedRunError: the run was stopped while it waited.
        """
        asked = {"CPU": float(num_workers * self.cluster.cpus_per_worker)}
        if self.cluster.use_gpu:
            asked["GPU"] = float(num_workers)
        deadline_s = time.monotonic() + (RESOURCES_S if self.joined else 0)
        while True:
            there: Mapping[str, float] = nodes.ray().cluster_resources()
            if all(there.get(name, 0.0) >= amount for name, amount in asked.items()):
                return
            if self.should_stop():
                raise errors.InterruptedRunError("cluster: stopped while it waited for resources; run it again")
            if time.monotonic() >= deadline_s:
                wanted = ", ".join(f"{amount:g} {name}" for name, amount in asked.items())
                found = ", ".join(f"{there.get(name, 0.0):g} {name}" for name in asked)
                raise errors.ClusterError(
                    f"cluster.num_workers: {num_workers} workers need {wanted}, the cluster has {found}; ask "
                    "for fewer, or for less with cluster.cpus_per_worker and cluster.use_gpu"
                )
            time.sleep(0.3)

    def _check_gpus(self, num_workers: int) -> None:
        if self.cluster.use_gpu:
            self.require(num_workers)

    def _address(self) -> str:
        if self.cluster.address != "auto":
            return self.cluster.address
        inside_a_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
        return os.environ.get("RAY_ADDRESS") or ("auto" if inside_a_job else "local")

    def _local_settings(self) -> dict[str, Any]:
        # Cores are counted, not reserved: on a small machine more workers than cores take turns.
        num_cpus = max((self.cluster.workers.stop - 1) * self.cluster.cpus_per_worker, os.cpu_count() or 1)
        return {
            "num_cpus": num_cpus,
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_temp_dir": str(self.folder / "r"),
        }

    def _watch_nodes(self) -> None:
        while not self._left.wait(NEW_NODES_S):
            self.export_from_all_nodes()

    def export_from_all_nodes(self) -> None:
        """Starts an exporter on each node that has none; the driver serves its own node."""
        if self._exporters:
            here = nodes.ray().get_runtime_context().get_node_id()
            self._exporters.cover([(node, address) for node, address in nodes.alive().items() if node != here])


def private_folder() -> Path:
    """Makes a folder for the processes of a run.

    It is short, because the path of a socket has at most 107 characters, and closed, because what Ray makes in it is
    open to all.
    """
    base = "/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir()  # noqa: S108 (mkdtemp makes it private)
    return Path(tempfile.mkdtemp(prefix="rc-", dir=base))


@contextlib.contextmanager
def _without(name: str) -> Iterator[None]:
    """Hides a variable from the processes that are started meanwhile."""
    value = os.environ.pop(name, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[name] = value


def _init(address: str, settings: Mapping[str, Any]) -> None:
    """Connects to Ray, or starts it; what it says when it cannot becomes one line."""
    try:
        nodes.ray().init(address=address, logging_level=logging.ERROR, log_to_driver=False, **settings)
    except nodes.ray().exceptions.AuthenticationError as error:
        raise errors.UsageError(
            f"cluster.address: {address} and this driver do not agree on a token; point RAY_AUTH_TOKEN_PATH to the "
            "cluster's, or set RAY_AUTH_MODE=disabled for a cluster that is open on purpose"
        ) from error
    except Exception as error:
        # Of a node that does not come up in time Ray tells by a bare Exception, which nothing narrower catches.
        expected = (OSError, RuntimeError, ValueError, nodes.ray().exceptions.RayError)
        if type(error) is Exception or isinstance(error, expected):
            reason = str(error).strip().splitlines()
            raise errors.ClusterError(
                f"cluster.address: {address}: {reason[0] if reason else type(error).__name__}; is the cluster up?"
            ) from error
        raise
