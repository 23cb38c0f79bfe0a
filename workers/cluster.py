"""The cluster that a run works on: joined or started when the first stage needs it, left when the run ends.

`Session` is the one owner of Ray in the driver: the environment of its processes, the token, the signals, the
pool of a stage, the check that every node sees the same folders, and the exporters on other nodes.
"""

import contextlib
import logging
import os
import secrets
import shutil
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
from core.telemetry import recorder
from workers import access, environment, fanout, stopping, telemetry

OBJECT_STORE_BYTES = 200 * 2**20  # only commit records and settings pass through it
RESOURCES_S = 300.0  # an autoscaling cluster may grow for so long
PROBE_S = 60.0
NEW_NODES_S = 10.0  # how often a joined cluster is asked for new nodes

# Set before `ray` is imported, where the user did not.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # A node that is cut off is noticed after seconds: by default a call to it hangs for up to 300 + 120 s.
    "RAY_grpc_client_keepalive_time_ms": "15000",
    "RAY_grpc_client_keepalive_timeout_ms": "10000",
    # Memory that runs out ends the attempt, and is counted there; by default Ray tries again for ever.
    "RAY_task_oom_retries": "0",
    "RAY_DEDUP_LOGS": "0",
}


class Session:
    """A run's hold on a cluster; use it as a context manager. Starts nothing until it is needed.

    Args:
        cluster: where the work runs.
        shared: folders that every node must see as the driver does.
        metrics: folder of the run's metrics; None: nothing is measured.
        export: how metrics are exported.
        run: name of the run, a label of its scrape targets.
    """

    def __init__(
        self,
        cluster: schema.ClusterConfig,
        shared: Sequence[location.Location] = (),
        metrics: location.Location | None = None,
        export: schema.TelemetryConfig | None = None,
        run: str = "raycurrent",
    ) -> None:
        self.cluster = cluster
        self.should_stop = stopping.StopFlag()
        self.ray_started = False
        self.folder = Path(tempfile.gettempdir())
        self._shared = tuple(shared)
        self._metrics = metrics
        self._export = export or schema.TelemetryConfig()
        self._run = run
        self.joined = False
        self._owns_ray = False
        self._pool: tuple[str, fanout.Pool] | None = None
        self._exporters: telemetry.Exporters | None = None
        self._left = threading.Event()
        self._watcher: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.folder = private_folder()
        for name, value in environment.of_process(self.cluster.cpus_per_worker).items():
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
                _ray().shutdown()  # ends the daemons of a local cluster, only leaves one that was joined
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
        if self._metrics is not None and self._exporters is None:
            self._exporters = telemetry.Exporters(
                self.folder / "metrics", self._metrics, self._export, self._run, _start_exporter
            )

    @property
    def recorder(self) -> recorder.Recorder:
        """Measures what the driver does."""
        self.measure()
        return self._exporters.recorder if self._exporters else recorder.NullRecorder()

    @property
    def worker_env(self) -> dict[str, str]:
        """What a worker of ours finds in its environment; Ray's own processes must not (they would be measured)."""
        env = environment.of_process(self.cluster.cpus_per_worker)
        if self._exporters:
            env[telemetry.FOLDER_VARIABLE] = str(self._exporters.folder)
        return env

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

    def executor(self, stage: str, num_tasks: int | None = None) -> fanout.Executor:
        """What does the parts of a stage; the pool is kept until another stage asks, or `release`."""
        if not self.wants_ray(num_tasks):
            return fanout.InProcess(self.cluster.cpus_per_worker)
        self.start_ray()
        if self._pool is None or self._pool[0] != stage:
            self.release()
            self._check_gpus(1)
            pool = fanout.RayPool(
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
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)

        address = self._address()
        self._owns_ray = not ("ray" in sys.modules and _ray().is_initialized())
        self.joined = address != "local"
        if self._owns_ray:
            access.prepare_token(self.joined, self.folder)  # before Ray is imported, and reads its environment
            with _without(telemetry.FOLDER_VARIABLE):
                _init(address, {} if self.joined else self._local_settings())
        self.ray_started = True
        self.should_stop.install()
        self._probe()
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
            there: Mapping[str, float] = _ray().cluster_resources()
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

    def _probe(self) -> None:
        """Has each node read what the driver has just written into the shared folders."""
        local = [folder for folder in self._shared if folder.is_local]
        nodes = _nodes()
        if not local or len(nodes) < 2:
            return
        word = secrets.token_hex(16).encode()
        read = _ray().remote(_read_or_nothing)
        for folder in local:
            probe = folder.join(f".probe-{secrets.token_hex(8)}")
            probe.put_if_absent(word)
            try:
                seen = {
                    node: read.options(num_cpus=0, scheduling_strategy=_on_node(node)).remote(str(probe))
                    for node in nodes
                }
                _ray().wait(list(seen.values()), num_returns=len(seen), timeout=PROBE_S)
                for node, ticket in seen.items():
                    if _result_or_none(ticket) != word:
                        raise errors.UsageError(
                            f"{folder}: node {nodes[node]} does not see it; use a folder that all nodes share, "
                            "or an object store"
                        )
            finally:
                probe.remove()

    def _watch_nodes(self) -> None:
        while not self._left.wait(NEW_NODES_S):
            self.export_from_all_nodes()

    def export_from_all_nodes(self) -> None:
        """Starts an exporter on each node that has none; the driver serves its own node."""
        if self._exporters:
            here = _ray().get_runtime_context().get_node_id()
            self._exporters.cover([(node, address) for node, address in _nodes().items() if node != here])


def private_folder() -> Path:
    """Makes a folder for the processes of a run.

    It is short, because the path of a socket has at most 107 characters, and closed, because what Ray makes in it is
    open to all.
    """
    base = "/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir()  # noqa: S108 (mkdtemp makes it private)
    return Path(tempfile.mkdtemp(prefix="rc-", dir=base))


def _ray() -> Any:
    """Ray, imported when it is needed: most commands run without."""
    import ray

    return ray


def _nodes() -> dict[str, str]:
    """The addresses of the nodes that are alive, by id."""
    return {node["NodeID"]: node["NodeManagerAddress"] for node in _ray().nodes() if node["Alive"]}


def _on_node(node: str) -> Any:
    from ray.util import scheduling_strategies

    return scheduling_strategies.NodeAffinitySchedulingStrategy(node_id=node, soft=False)


def _read_or_nothing(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def _result_or_none(ticket: Any) -> Any:

    try:
        return _ray().get(ticket, timeout=0)
    except _ray().exceptions.RayError:
        return None


def _start_exporter(node: str, *arguments: Any) -> telemetry.RemoteExporter:
    """Starts an exporter on another node."""
    actor: Any = _ray().remote(telemetry.NodeExporter)
    handle = actor.options(num_cpus=0, max_restarts=1, scheduling_strategy=_on_node(node)).remote(*arguments)
    return _RayExporter(handle)


class _RayExporter:
    """An exporter in an actor."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def target(self) -> str | None:
        """See `telemetry.RemoteExporter`."""
        target: str | None = self._ask(self._handle.target)
        return target

    def snapshot(self) -> tuple[str, bytes] | None:
        """See `telemetry.RemoteExporter`."""
        snapshot: tuple[str, bytes] | None = self._ask(self._handle.snapshot)
        return snapshot

    def push(self, gateway: str, run: str) -> None:
        """See `telemetry.RemoteExporter`."""
        self._ask(self._handle.push, gateway, run)

    def close(self) -> None:
        """See `telemetry.RemoteExporter`."""
        self._ask(self._handle.close)

    def _ask(self, method: Any, *arguments: Any) -> Any:

        try:
            return _ray().get(method.remote(*arguments), timeout=20)
        except _ray().exceptions.RayError:
            return None  # an exporter that fails never disturbs the run


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

    try:
        _ray().init(address=address, logging_level=logging.ERROR, log_to_driver=False, **settings)
    except _ray().exceptions.AuthenticationError as error:
        raise errors.UsageError(
            f"cluster.address: {address} and this driver do not agree on a token; point RAY_AUTH_TOKEN_PATH to the "
            "cluster's, or set RAY_AUTH_MODE=disabled for a cluster that is open on purpose"
        ) from error
    except (ConnectionError, OSError, RuntimeError, ValueError, _ray().exceptions.RayError) as error:
        reason = str(error).strip().splitlines()
        raise errors.ClusterError(
            f"cluster.address: {address}: {reason[0] if reason else type(error).__name__}; is the cluster up?"
        ) from error
