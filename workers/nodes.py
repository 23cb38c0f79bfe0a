"""The nodes of a cluster: which are alive, whether they see the run's folders, and the exporter on each of them."""

import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from core import errors
from core.storage import location
from workers import telemetry

PROBE_S = 60.0


def ray() -> Any:
    """Ray, imported when it is needed: most commands run without."""
    import ray

    return ray


def alive() -> dict[str, str]:
    """The addresses of the nodes that are alive, by id."""
    return {node["NodeID"]: node["NodeManagerAddress"] for node in ray().nodes() if node["Alive"]}


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


def start_exporter(node: str, *arguments: Any) -> telemetry.RemoteExporter:
    """Starts an exporter on another node."""
    actor: Any = ray().remote(telemetry.NodeExporter)
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
            return ray().get(method.remote(*arguments), timeout=20)
        except ray().exceptions.RayError:
            return None  # an exporter that fails never disturbs the run
