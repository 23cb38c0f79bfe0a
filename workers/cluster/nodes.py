"""The nodes of a cluster: which are alive, whether they see the run's folders, and the exporter on each of them."""

import secrets
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from core import errors
from core.storage import location
from workers.telemetry import prometheus

PROBE_S = 60.0
LOOK_S = 1.0  # how often a run that trains looks after the nodes
LAST_SAVE_S = 10.0  # before a node goes: time for a step and a checkpoint


def ray() -> Any:
    """Ray, imported when it is needed: most commands run without."""
    import ray

    return ray


def alive() -> dict[str, str]:
    """The addresses of the nodes that are alive, by id."""
    return {node["NodeID"]: node["NodeManagerAddress"] for node in ray().nodes() if node["Alive"]}


def draining() -> dict[str, float]:
    """When the nodes that are about to go will be gone, by id: seconds since 1970, infinity where nobody says."""
    from ray._private import state

    found: dict[str, int] = state.state.get_draining_nodes()
    return {node: deadline_ms / 1000 or float("inf") for node, deadline_ms in found.items()}


def recount() -> None:
    """Has Ray Train's helper count anew what the nodes have, if it is there.

    By itself it does so every 20 s, and until then an elastic group is started with ranks for a node that is gone.
    """
    name = "AutoscalingCoordinator"
    try:
        ray().get_actor(name, namespace=name).get_reserved_resources.remote("", recompute=True)
    except (ValueError, AttributeError):
        return  # no elastic group has asked for anything yet, or another version of Ray does without it


class Departures:
    """Nodes that go while ranks train: which are gone, and which are about to go."""

    def __init__(self) -> None:
        self._alive = frozenset(alive())
        self._looked_s = float("-inf")
        self._called: set[tuple[str, bool]] = set()

    def call_for_a_save(self, used: frozenset[str]) -> bool:
        """Looks at the nodes once in a while; returns whether ranks on these had better save now."""
        if time.monotonic() - self._looked_s < LOOK_S:
            return False
        self._looked_s = time.monotonic()
        there = frozenset(alive())
        if there != self._alive:
            self._alive = there
            recount()
        return self.is_due({node: gone_s for node, gone_s in draining().items() if node in used}, time.time())

    def is_due(self, leaving: Mapping[str, float], now_s: float) -> bool:
        """Whether to save, given when nodes will be gone: as soon as that is known, and once more just before."""
        calls = {
            (node, is_last) for node, gone_s in leaving.items() for is_last in {False, gone_s - now_s < LAST_SAVE_S}
        }
        is_new = not calls <= self._called
        self._called |= calls
        return is_new


def _on_node(node: str) -> Any:
    from ray.util import scheduling_strategies

    return scheduling_strategies.NodeAffinitySchedulingStrategy(node_id=node, soft=False)


def beside_driver() -> Any:
    """Keeps an actor on the node of the driver: it lives as long as the driver does, whatever other nodes do."""
    return _on_node(ray().get_runtime_context().get_node_id())


def check_shared(folders: Iterable[location.Location]) -> None:
    """Has each node read what the driver has just written into the shared folders.

    Raises:
        UsageError: a node does not see a folder.
    """
    local = [folder for folder in folders if folder.is_local]
    nodes = alive()
    if not local or len(nodes) < 2:
        return
    word = secrets.token_hex(16).encode()
    read = ray().remote(_read_or_nothing)
    for folder in local:
        probe = folder.join(f".probe-{secrets.token_hex(8)}")
        probe.put_if_absent(word)
        try:
            seen = {
                node: read.options(num_cpus=0, scheduling_strategy=_on_node(node)).remote(str(probe)) for node in nodes
            }
            ray().wait(list(seen.values()), num_returns=len(seen), timeout=PROBE_S)
            for node, ticket in seen.items():
                if _result_or_none(ticket) != word:
                    raise errors.UsageError(
                        f"{folder}: node {nodes[node]} does not see it; use a folder that all nodes share, "
                        "or an object store"
                    )
        finally:
            probe.remove()


def _read_or_nothing(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def _result_or_none(ticket: Any) -> Any:

    try:
        return ray().get(ticket, timeout=0)
    except ray().exceptions.RayError:
        return None


def start_exporter(node: str, *arguments: Any) -> prometheus.RemoteExporter:
    """Starts an exporter on another node."""
    actor: Any = ray().remote(prometheus.NodeExporter)
    handle = actor.options(num_cpus=0, max_restarts=1, scheduling_strategy=_on_node(node)).remote(*arguments)
    return _RayExporter(handle)


class _RayExporter:
    """An exporter in an actor."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def target(self) -> str | None:
        """See `prometheus.RemoteExporter`."""
        target: str | None = self._ask(self._handle.target)
        return target

    def snapshot(self) -> tuple[str, bytes] | None:
        """See `prometheus.RemoteExporter`."""
        snapshot: tuple[str, bytes] | None = self._ask(self._handle.snapshot)
        return snapshot

    def push(self, gateway: str, run: str) -> None:
        """See `prometheus.RemoteExporter`."""
        self._ask(self._handle.push, gateway, run)

    def close(self) -> None:
        """See `prometheus.RemoteExporter`."""
        self._ask(self._handle.close)

    def _ask(self, method: Any, *arguments: Any) -> Any:

        try:
            return ray().get(method.remote(*arguments), timeout=20)
        except ray().exceptions.RayError:
            return None  # an exporter that fails never disturbs the run
