"""Cluster nodes: liveness and draining, shared-folder checks, and a metrics exporter on each node."""

import collections
import functools
import re
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from core import errors
from core.config import node_labels
from core.storage import location
from workers.telemetry import prometheus

PROBE_TIMEOUT_S = 60.0
CHECK_INTERVAL_S = 1.0  # between two checks of the nodes while a run trains
HEAD_RESOURCE = "node:__internal_head__"  # Ray gives it to the head alone
RAYLET_LOG = re.compile(r"Last \d+ lines of the Raylet logs:")
DEAD_WORKER = re.compile(
    r"(A worker died or was killed.*?)\. To troubleshoot.*?Worker IP address: (\S+).*?Worker PID: (\d+).*", re.DOTALL
)
LAST_SAVE_S = 10.0  # before a node is drained: time for a step and a checkpoint


def ray() -> Any:
    """Returns the module `ray`, imported on first use: most commands run without it."""
    import ray

    return ray


def alive() -> dict[str, str]:
    """Returns the addresses of live nodes, by node id."""
    return {node["NodeID"]: node["NodeManagerAddress"] for node in ray().nodes() if node["Alive"]}


def draining() -> dict[str, float]:
    """Returns the deadlines of draining nodes by node id, in seconds since 1970; infinity where there is none."""
    from ray._private import state

    deadlines_ms: dict[str, int] = state.state.get_draining_nodes()
    # Ray has 0 where there is no deadline.
    return {node: deadline_ms / 1000 or float("inf") for node, deadline_ms in deadlines_ms.items()}


def departure_s(own: str) -> float | None:
    """Returns when the driver's node or the head leaves, in seconds since 1970; None if neither is being drained.

    With the node the driver ends, and with the head the cluster.

    Args:
        own: id of the driver's node.
    """
    leaving = draining()
    heads = (node["NodeID"] for node in ray().nodes() if HEAD_RESOURCE in node["Resources"]) if leaving else ()
    return min((leaving[node] for node in {own, *heads} if node in leaving), default=None)


@functools.cache
def shorten_raylet_errors() -> None:
    """Cuts what Ray prints on a lost node, with the last lines of its log, and in a paragraph on a worker that died."""
    from ray._private import worker

    module: Any = worker
    show = module.print_to_stdstream

    def show_shortened(data: Mapping[str, Any], ignore_prefix: bool) -> None:
        if data.get("pid") == "raylet":
            lines = [RAYLET_LOG.split(line)[0].rstrip() for line in data["lines"]]
            data = {**data, "lines": [DEAD_WORKER.sub(r"\1 (process \3 on \2)", line) for line in lines]}
        show(data, ignore_prefix)

    module.print_to_stdstream = show_shortened


def recount() -> None:
    """Makes Ray Train's autoscaling coordinator recount the cluster's resources, if it runs.

    By itself it does so every 20 s; until then an elastic group would be started with ranks for a lost node.
    """
    name = "AutoscalingCoordinator"
    try:
        ray().get_actor(name, namespace=name).get_reserved_resources.remote("", recompute=True)
    except (ValueError, AttributeError):
        return  # no elastic group has requested resources yet, or this version of Ray has no coordinator


def resources(selector: Mapping[str, str]) -> Mapping[str, float]:
    """Returns the resources of all live nodes whose labels match, in total."""
    if not selector:
        total: Mapping[str, float] = ray().cluster_resources()
        return total
    counted: collections.Counter[str] = collections.Counter()
    for node in ray().nodes():
        if node["Alive"] and node_labels.matches(selector, node["Labels"]):
            counted.update(node["Resources"])
    return counted


def request_resources(bundles: Sequence[Mapping[str, float]], selector: Mapping[str, str]) -> None:
    """Asks Ray's autoscaler, if the cluster has one, for room for all bundles at once, in place of earlier requests.

    Args:
        bundles: resources of each worker; none: withdraws the request.
        selector: labels of their nodes.
    """
    from ray.autoscaler import sdk

    selectors = [dict(selector)] * len(bundles) if selector else None
    sdk.request_resources(bundles=[dict(bundle) for bundle in bundles], bundle_label_selectors=selectors)


class NodeMonitor:
    """Watches the nodes during training, for nodes that are lost and nodes that are being drained."""

    def __init__(self) -> None:
        self._alive = frozenset(alive())
        self._checked_s = float("-inf")
        self._requested: set[tuple[str, bool]] = set()

    def needs_checkpoint(self, used: frozenset[str]) -> bool:
        """Checks the nodes periodically; returns whether ranks on the given nodes should save a checkpoint now."""
        if time.monotonic() - self._checked_s < CHECK_INTERVAL_S:
            return False
        self._checked_s = time.monotonic()
        nodes = frozenset(alive())
        if nodes != self._alive:
            self._alive = nodes
            recount()
        return self.is_due({node: gone_s for node, gone_s in draining().items() if node in used}, time.time())

    def is_due(self, leaving: Mapping[str, float], now_s: float) -> bool:
        """Returns whether a checkpoint is due: when the deadline of a node becomes known, and shortly before it."""
        requests = {
            (node, is_last) for node, gone_s in leaving.items() for is_last in {False, gone_s - now_s < LAST_SAVE_S}
        }
        is_new = not requests <= self._requested
        self._requested |= requests
        return is_new


def _on_node(node: str) -> Any:
    from ray.util import scheduling_strategies

    # Not soft: what runs on another node proves nothing about this one.
    return scheduling_strategies.NodeAffinitySchedulingStrategy(node_id=node, soft=False)


def beside_driver() -> Any:
    """Returns the scheduling strategy of actors that must live on the driver's node, and so as long as the driver."""
    return _on_node(ray().get_runtime_context().get_node_id())


def check_shared(folders: Iterable[location.Location]) -> None:
    """Checks that each node can read a file that the driver writes to each shared folder.

    Raises:
        UsageError: a node does not see a folder.
    """
    local = [folder for folder in folders if folder.is_local]
    nodes = alive()
    if not local or len(nodes) < 2:
        return
    # Random: a file of an earlier check proves nothing.
    word = secrets.token_hex(16).encode()
    read = ray().remote(_read_or_nothing)
    for folder in local:
        probe = folder.join(f".probe-{secrets.token_hex(8)}")
        probe.put_if_absent(word)
        try:
            # Without a CPU, so that a busy node is checked too.
            seen = {
                node: read.options(num_cpus=0, scheduling_strategy=_on_node(node)).remote(str(probe)) for node in nodes
            }
            ray().wait(list(seen.values()), num_returns=len(seen), timeout=PROBE_TIMEOUT_S)
            for node, reference in seen.items():
                # A node that has not answered by now counts as one that does not see the folder.
                if _result_or_none(reference) != word:
                    raise errors.UsageError(
                        f"{folder}: node {nodes[node]} does not see this folder; use one that all nodes share, "
                        "or an object store"
                    )
        finally:
            probe.remove()


def _read_or_nothing(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def _result_or_none(reference: Any) -> Any:
    try:
        return ray().get(reference, timeout=0)
    except ray().exceptions.RayError:
        return None


def start_exporter(node: str, *arguments: Any) -> prometheus.RemoteExporter:
    """Starts a metrics exporter on another node."""
    actor: Any = ray().remote(prometheus.NodeExporter)
    # Its restart loses nothing: the values are in the files of the node.
    handle = actor.options(num_cpus=0, max_restarts=1, scheduling_strategy=_on_node(node)).remote(*arguments)
    return _RayExporter(handle)


class _RayExporter:
    """A metrics exporter that runs in an actor."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def target(self) -> str | None:
        """See `prometheus.RemoteExporter`."""
        target: str | None = self._call(self._handle.target)
        return target

    def snapshot(self) -> tuple[str, bytes] | None:
        """See `prometheus.RemoteExporter`."""
        snapshot: tuple[str, bytes] | None = self._call(self._handle.snapshot)
        return snapshot

    def close(self) -> None:
        """See `prometheus.RemoteExporter`."""
        self._call(self._handle.close)

    def _call(self, method: Any, *arguments: Any) -> Any:
        try:
            return ray().get(method.remote(*arguments), timeout=20)
        except ray().exceptions.RayError:
            return None  # a failing exporter must not disturb the run
