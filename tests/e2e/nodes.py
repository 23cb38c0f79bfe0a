"""A Ray cluster of several nodes on this machine: `python -m tests.e2e.nodes FOLDER NUM_NODES [HIDDEN_FOLDER]`.

Prints its addresses as a line of JSON, and runs until SIGTERM or SIGINT. Every node has one core. A hidden folder is an
empty filesystem for the last node, as if it were not shared with it.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Self

from tests.e2e import driving
from workers.cluster import session as sessions

RAY = (sys.executable, "-m", "ray.scripts.scripts")
# Short health checks: a dead node is noticed within seconds.
ENVIRONMENT = {
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
}


@dataclasses.dataclass(frozen=True)
class Nodes:
    """Handle of the cluster, for a test; `ids` and `raylets` (process ids) are of its nodes, the head first."""

    program: driving.Driver
    job_server: str
    gcs: str
    ids: list[str]
    raylets: list[int]

    @classmethod
    def at(cls, program: driving.Driver) -> Self:
        """Waits for a cluster that is starting."""
        line = program.until(lambda: program.output().partition("\n")[0], "a cluster", 120)
        return cls(program, **json.loads(line))

    def kill_node(self, number: int) -> None:
        """Kills a node's raylet; its workers end with it."""
        raylet = driving.Process.at(self.raylets[number])
        assert raylet is not None
        raylet[0].signal(signal.SIGKILL)

    def drain_node(self, number: int, seconds: int, drive: driving.Drive) -> None:
        """Announces that a node will be taken away after `seconds`, as clouds do."""
        reason = ("--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=reclaimed")
        words = (f"--address={self.gcs}", f"--node-id={self.ids[number]}", *reason)
        ended = drive("drain-node", *words, f"--deadline-remaining-seconds={seconds}", program=RAY).end(60)
        assert ended.code == 0, ended.log


@contextlib.contextmanager
def started(
    drive: driving.Drive, num_nodes: int, hidden: str = "", environment: Mapping[str, str] | None = None
) -> Iterator[Nodes]:
    """Starts a cluster, with additional variables in the environment of its nodes; stops it at the end."""
    variables = [f"{name}={value}" for name, value in (environment or {}).items()]
    folder = sessions.private_folder()
    arguments = (str(folder), str(num_nodes), *([hidden] if hidden else []))
    program = drive(*arguments, program=("env", *variables, sys.executable, "-m", "tests.e2e.nodes"))
    try:
        yield Nodes.at(program)
        program.family()
        program.signal(signal.SIGTERM)
        program.end(60)
    finally:
        program.clean_up()
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Returns ports that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        # All are bound before any is closed, so that they differ.
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def main(folder: str, num_nodes: str, hidden: str = "") -> None:
    """Starts the cluster and waits for a signal."""
    os.environ.update(ENVIRONMENT, RAY_TMPDIR=folder)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    from ray import cluster_utils

    job_port, *agent_ports = free_ports(int(num_nodes) + 1)
    common: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100_000_000}
    head = {"include_dashboard": True, "dashboard_port": job_port, "dashboard_host": "127.0.0.1"}
    # The default agent port is the same for all clusters of a machine.
    machines: Any = cluster_utils.Cluster(
        initialize_head=True, head_node_args={**common, **head, "dashboard_agent_listen_port": agent_ports[0]}
    )
    separate: list[subprocess.Popen[bytes]] = []
    try:
        ports = agent_ports[1:-1] if hidden else agent_ports[1:]
        # A temporary folder for each node: a node that ends empties its folder, and with it the code of others' jobs.
        nodes = [
            machines.add_node(wait=False, dashboard_agent_listen_port=port, temp_dir=f"{folder}/{number}", **common)
            for number, port in enumerate(ports, 1)
        ]
        machines.wait_for_nodes(timeout=90)
        if hidden:
            separate.append(start_separate_node(machines.address, hidden, agent_ports[-1], folder))
        all_nodes = (machines.head_node, *nodes)
        addresses = {
            "job_server": f"http://127.0.0.1:{job_port}",
            "gcs": machines.address,
            "ids": [node.node_id for node in all_nodes],
            "raylets": [node.all_processes["raylet"][0].process.pid for node in all_nodes],
        }
        print(json.dumps(addresses), flush=True)
        stop.wait()
    finally:
        for process in separate:
            process.terminate()
            process.wait()
        machines.shutdown()


def start_separate_node(address: str, hidden: str, agent_port: int, folder: str) -> "subprocess.Popen[bytes]":
    """Starts a node that has an empty filesystem in place of a folder; needs root."""
    start = [*RAY, "start", "--block", f"--address={address}", "--num-cpus=1", "--object-store-memory=100000000"]
    start += [f"--dashboard-agent-listen-port={agent_port}", f"--temp-dir={folder}/apart"]
    script = 'mount -t tmpfs none "$1" && shift && exec "$@"'
    return subprocess.Popen(["unshare", "--mount", "sh", "-c", script, "sh", hidden, *start], stdout=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
