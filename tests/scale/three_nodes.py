"""A large corpus in an object store, on three nodes: `python -m tests.scale.three_nodes [--bytes N] [--folder DIR]`.

Pairs are generated into a bucket of Google's protocol (fake-gcs-server, which keeps it on disk), prepared, trained on
for 100 steps, and some of them translated and scored in thousands of parts. The nodes share this machine, but each has
a `/tmp` of its own, a file system in memory of 2 GiB. Prints what each verb took, and the most memory and disk that it
used, as a Markdown table. Needs root, to mount, and free space of about twice the bytes; the folder and this program
must not lie below `/tmp`. What was done is kept in the folder: a call that was ended goes on with the same command.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from core.data.builtin import sentences
from core.storage import location
from tests import conftest, object_stores
from tests.benchmarks import memory
from tests.e2e import driving, nodes

NUM_NODES = 3
TMP_BYTES = 2 << 30
START_TIMEOUT_S = 120.0
BUCKET = "large"
FILE_BYTES = 500_000_000
NUM_SENTENCES = 200_000
LINES_AT_ONCE = 500_000
PART_LINES = 17  # 5,883 parts of 100,000 lines
CONFIG: dict[str, Any] = {
    "name": "three-nodes",
    "corpus": {"kind": "pairs", "split": {"valid": 0.0001}},
    "tokenizer": {"kind": "word", "max_size": 20_000},
    "sharding": {"part_size_bytes": 64 << 20},
    "model": {"kind": "seq2seq", "cell": "gru", "hidden_size": 64, "embedding_size": 64, "attention": "dot"},
    "training": {"batch_tokens": 4096, "max_steps": 100, "checkpoint_every_steps": 50},
    "decoding": {"beam_size": 1, "max_length": 40, "part_lines": PART_LINES},
    "scoring": {"part_lines": PART_LINES},
    "cluster": {"num_workers": NUM_NODES, "cache_size_bytes": 1 << 30},
    "compute": {"precision": "fp32", "matmul": "default"},
}


class Texts:
    """Pairs of two sentences a side, of which there are 40 billion."""

    def __init__(self) -> None:
        pairs = [(english.encode(), french.encode()) for english, french in sentences.pairs(1, 0, NUM_SENTENCES)]
        parts = [
            [english + b" " for english, _ in pairs],
            [english + b"\t" for english, _ in pairs],
            [french + b" " for _, french in pairs],
            [french + b"\n" for _, french in pairs],
        ]
        self._columns = [np.array(part, dtype=object) for part in parts]

    def lines(self, rng: np.random.Generator, count: int) -> bytes:
        """Returns pairs that are drawn, as tab-separated lines."""
        first, second = rng.integers(0, NUM_SENTENCES, (2, count))
        rows = np.stack([column[chosen] for column, chosen in zip(self._columns, (first, second) * 2, strict=True)], 1)
        return b"".join(rows.reshape(-1).tolist())


def write_corpus(texts: Texts, folder: location.Location, size_bytes: int, scratch: pathlib.Path) -> None:
    """Writes files of pairs until they have `size_bytes`; those that are there are taken as they are."""
    for number in range(-(-size_bytes // FILE_BYTES)):
        path, stored = scratch / "pairs.tsv", folder.join(f"{number:04d}.tsv")
        if stored.exists():
            continue
        rng = np.random.default_rng(number)
        with path.open("wb") as file:
            while file.tell() < min(FILE_BYTES, size_bytes - number * FILE_BYTES):
                file.write(texts.lines(rng, LINES_AT_ONCE))
        assert stored.put_file_if_absent(path)
        path.unlink()


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Nodes that run; `address` is that of the head, whose process is the first."""

    address: str
    processes: list["subprocess.Popen[bytes]"]

    def tmp_bytes(self) -> int:
        """Returns how much of its `/tmp` the fullest node has used."""
        return max(shutil.disk_usage(f"/proc/{process.pid}/root/tmp").used for process in self.processes)


@contextlib.contextmanager
def cluster(folder: pathlib.Path) -> Iterator[Cluster]:
    """Starts nodes of one core, each with a `/tmp` of its own; their logs go to a folder."""
    port, *agents = nodes.free_ports(1 + NUM_NODES)
    address = f"127.0.0.1:{port}"
    script = f'mount -t tmpfs -o size={TMP_BYTES} none /tmp && exec "$@"'
    apart = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
    common = [*nodes.RAY, "start", "--block", "--num-cpus=1", "--object-store-memory=100000000"]
    environment = {**os.environ, "RAY_raylet_start_wait_time_s": f"{START_TIMEOUT_S:.0f}"}
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for number, agent in enumerate(agents):
            where = [f"--address={address}"] if number else ["--head", f"--port={port}", "--include-dashboard=false"]
            command = [*apart, *common, *where, f"--dashboard-agent-listen-port={agent}"]
            log = folder / f"node-{number}.log"
            with log.open("wb") as output:
                processes.append(subprocess.Popen(command, env=environment, stdout=output, stderr=output))
            _wait_until_started(processes[-1], log)
        yield Cluster(address, processes)
    finally:
        daemons = [pid for process in processes for pid in memory.family(process.pid)]
        for process in reversed(processes):
            process.terminate()
            process.wait()
        for pid in daemons:
            # Of this family alone: a process whose id was given away since has another parent.
            if (current := driving.Process.at(pid)) is not None and current[1] == 1:
                current[0].signal(signal.SIGKILL)


def _wait_until_started(node: "subprocess.Popen[bytes]", log: pathlib.Path) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while "Ray runtime started" not in log.read_text(errors="replace"):
        is_late = node.poll() is not None or time.monotonic() > deadline_s
        assert not is_late, log.read_text(errors="replace")
        time.sleep(0.2)


class DiskSampler(threading.Thread):
    """Samples how full the fullest `/tmp` of a cluster is, until `end` is called."""

    def __init__(self, machines: Cluster) -> None:
        super().__init__(daemon=True)
        self.peak_bytes = 0
        self._machines, self._done = machines, threading.Event()

    def run(self) -> None:
        """Takes samples."""
        while not self._done.wait(memory.SAMPLE_S):
            self.peak_bytes = max(self.peak_bytes, self._machines.tmp_bytes())

    def end(self) -> int:
        """Stops, and returns the peak."""
        self._done.set()
        self.join()
        return self.peak_bytes


def role(pid: int) -> str:
    """Returns the name of a process: the title of a Ray worker, or its program."""
    try:
        words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    title = words[0].partition(".")[0]
    if title.startswith("ray::"):
        return title
    name = pathlib.Path(words[0]).name
    return name if name in ("raylet", "gcs_server") else "other processes of Ray"


def run(machines: Cluster, arguments: Sequence[str]) -> tuple[dict[str, Any], str]:
    """Runs a verb on the head; returns its report and a row of the table."""
    inside = ["nsenter", f"--mount=/proc/{machines.processes[0].pid}/ns/mnt", f"--wd={conftest.REPOSITORY}"]
    command = [*inside, sys.executable, "-m", "jobs", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    used = memory.MemorySampler(process.pid, role, [node.pid for node in machines.processes])
    disk = DiskSampler(machines)
    started_s = time.monotonic()
    used.start()
    disk.start()
    try:
        output, _ = process.communicate()
    finally:
        process.terminate()  # where this program was interrupted; else it has ended
        elapsed_s, peaks, disk_bytes = time.monotonic() - started_s, used.end(), disk.end()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: ended with {process.returncode}")
    by_role = ", ".join(f"{name} {peak.proportional >> 20}" for name, peak in sorted(peaks.items()))
    return json.loads(output), f"| {arguments[0]} | {elapsed_s:.0f} | {by_role} | {disk_bytes >> 20} |\n"


def measure(folder: pathlib.Path, size_bytes: int, num_lines: int) -> None:
    """Does everything, and prints the table."""
    texts = Texts()
    os.environ |= {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    if not (folder / "token").exists():
        (folder / "token").touch(mode=0o600)
        (folder / "token").write_text(secrets.token_hex(32))
    (folder / "objects").mkdir(exist_ok=True)
    server = object_stores.serving_gcs(BUCKET, "-backend=filesystem", f"-filesystem-root={folder / 'objects'}")
    with server, cluster(folder) as machines:
        bucket = location.Location.parse(f"gs://{BUCKET}")
        write_corpus(texts, bucket.join("corpus"), size_bytes, folder)
        pairs = [line.split(b"\t") for line in texts.lines(np.random.default_rng(1 << 20), num_lines).splitlines()]
        for side, name in enumerate(("input", "targets")):
            bucket.join(f"{name}.txt").put_if_absent(b"".join(pair[side] + b"\n" for pair in pairs))
        settings = folder / "run.yaml"
        corpus = {**CONFIG["corpus"], "train": {"tsv": [f"{bucket}/corpus"]}}
        address = {**CONFIG["cluster"], "address": machines.address}
        settings.write_text(json.dumps({**CONFIG, "root": f"{bucket}/run", "corpus": corpus, "cluster": address}))
        # A root knows the address of the call before.
        own = ["--run", f"{bucket}/run", "--set", f"cluster.address={machines.address}"]
        files = [*own, "--input", f"{bucket}/input.txt"]
        rows = []
        for arguments in (
            ["prepare", str(settings)],
            ["train", str(settings)],
            ["translate", *files, "--output", f"{bucket}/translations.jsonl"],
            ["score", *files, "--targets", f"{bucket}/targets.txt", "--output", f"{bucket}/scores.parquet"],
        ):
            report, row = run(machines, arguments)
            sys.stderr.write(f"{json.dumps(report)}\n{row}")
            rows.append(row)
    header = "| verb | seconds | most memory (PSS) of a process, MiB | most of a node's /tmp, MiB |"
    sys.stdout.write(header + "\n| --- | --- | --- | --- |\n" + "".join(rows))


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, default=20_000_000_000, help="size of the corpus")
    parser.add_argument("--lines", type=int, default=100_000, help="pairs that are translated and scored")
    parser.add_argument("--folder", type=pathlib.Path, default="/var/tmp/three-nodes", help="not below /tmp")
    arguments = parser.parse_args()
    arguments.folder.mkdir(exist_ok=True)
    measure(arguments.folder.resolve(), arguments.bytes, arguments.lines)


if __name__ == "__main__":
    main()
