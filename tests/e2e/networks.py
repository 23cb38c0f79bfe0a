"""A Ray cluster with a network namespace for each node: `python -m tests.e2e.networks FOLDER NUM_NODES`; needs root.

Each node but the head runs in a network namespace, connected by a virtual cable to a bridge, where the head listens.
Prints the addresses of the cluster as a line of JSON, and runs until SIGTERM or SIGINT.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from tests.e2e import driving, nodes
from workers.cluster import session as sessions

# Short keepalives: a process that does not answer is noticed within seconds.
ENVIRONMENT = {
    **nodes.ENVIRONMENT,
    "RAY_grpc_client_keepalive_time_ms": "5000",
    "RAY_grpc_client_keepalive_timeout_ms": "3000",
}
COUNT = """
import sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False)
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]):
    time.sleep(0.3)
"""


@dataclasses.dataclass(frozen=True)
class Nodes:
    """Handle of the cluster, for a test; `cables` are the network devices of all nodes but the head."""

    program: driving.Driver
    job_server: str
    cables: list[str]

    @classmethod
    def at(cls, program: driving.Driver) -> Self:
        """Waits for a cluster that is starting."""
        line = program.until(lambda: program.output().partition("\n")[0], "a cluster", 120)
        return cls(program, **json.loads(line))

    def cut(self, number: int) -> None:
        """Disconnects a node from the network; the head cannot be disconnected."""
        ip("link", "set", self.cables[number - 1], "down")

    def heal(self, number: int) -> None:
        """Reconnects a node."""
        ip("link", "set", self.cables[number - 1], "up")


def can_be_made() -> bool:
    """Returns whether network namespaces can be created on this machine."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        return False
    name = f"rc{os.getpid()}-try"
    is_created = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    if is_created:
        ip("netns", "del", name)
    return is_created


def ip(*words: str) -> None:
    """Runs `ip`."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextlib.contextmanager
def started(drive: driving.Drive, num_nodes: int) -> Iterator[Nodes]:
    """Starts a cluster; stops it and removes its network at the end."""
    folder = sessions.private_folder()
    program = drive(str(folder), str(num_nodes), program=(sys.executable, "-m", "tests.e2e.networks"))
    try:
        yield Nodes.at(program)
    finally:
        program.family()
        program.signal(signal.SIGTERM)
        try:
            program.end(60)
        finally:
            program.clean_up()
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def network(num_nodes: int) -> Iterator[tuple[list[str], list[str], str, str]]:
    """Creates a network; yields its namespaces, cables, bridge and address prefix. Address 1 is this machine's."""
    mark, subnet = f"rc{os.getpid()}", f"10.213.{os.getpid() % 250}"
    bridge = f"{mark}b"
    spaces = [f"{mark}-{number}" for number in range(1, num_nodes)]
    cables = [f"{mark}v{number}" for number in range(1, num_nodes)]
    with contextlib.ExitStack() as stack:
        ip("link", "add", bridge, "type", "bridge")
        stack.callback(ip, "link", "del", bridge)
        ip("addr", "add", f"{subnet}.1/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        for number, (space, cable) in enumerate(zip(spaces, cables, strict=True), 2):
            ip("netns", "add", space)
            stack.callback(ip, "netns", "del", space)
            ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
            ip("link", "set", cable, "master", bridge, "up")
            ip("-n", space, "addr", "add", f"{subnet}.{number}/24", "dev", "eth0")
            ip("-n", space, "link", "set", "eth0", "up")
            ip("-n", space, "link", "set", "lo", "up")
        yield spaces, cables, bridge, subnet


def main(folder: str, num_nodes: str) -> None:
    """Starts the cluster and waits for a signal."""
    # Jobs run `python`: it must be this interpreter.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ.update(ENVIRONMENT, PATH=path)
    stop = threading.Event()
    for stop_signal in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop_signal, lambda *_: stop.set())
    gcs_port, job_port, agent_port = nodes.free_ports(3)
    with network(int(num_nodes)) as (spaces, cables, bridge, subnet), contextlib.ExitStack() as running:
        gcs = f"{subnet}.1:{gcs_port}"

        def start(address: str, device: str, *words: str, within: Sequence[str] = ()) -> None:
            addresses = (f"--node-ip-address={address}", f"--temp-dir={folder}/{address.rpartition('.')[2]}")
            common = ("--block", "--num-cpus=1", "--object-store-memory=100000000")
            command = [*within, *nodes.RAY, "start", *common, *addresses, *words]
            # Gloo would find ranks by host name, which is the same in all namespaces: name the device instead.
            environment = {**os.environ, "GLOO_SOCKET_IFNAME": device}
            process = subprocess.Popen(command, stdout=sys.stderr, env=environment)
            running.callback(process.wait)
            running.callback(process.terminate)

        # The head runs on this machine's own ports, where other clusters may run too.
        ports = (f"--port={gcs_port}", f"--dashboard-port={job_port}", f"--dashboard-agent-listen-port={agent_port}")
        start(f"{subnet}.1", bridge, "--head", f"--dashboard-host={subnet}.1", *ports)
        subprocess.run(
            ["sh", "-c", f'until "$@" health-check --address={gcs}; do sleep 0.3; done', "sh", *nodes.RAY], check=True
        )
        for number, space in enumerate(spaces, 2):
            start(f"{subnet}.{number}", "eth0", f"--address={gcs}", within=("ip", "netns", "exec", space))
        subprocess.run([sys.executable, "-c", COUNT, gcs, num_nodes], check=True, stdout=sys.stderr)
        print(json.dumps({"job_server": f"http://{subnet}.1:{job_port}", "cables": cables}), flush=True)
        stop.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
