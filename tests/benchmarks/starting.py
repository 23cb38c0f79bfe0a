"""Benchmark of the start of a training: what it costs from the command to its first step, with all its processes.

`python -m tests.benchmarks.starting [--rounds 3]` prepares a small corpus and trains it for one step, in turns in this
process, with two workers on a local cluster (plain actors), and with an elastic group of two (Ray Train). Linux only.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from tests.benchmarks import memory

PAIRS_BYTES = 200_000
SAMPLE_S = 0.2
GROUPS = {
    "one process, no Ray": ("cluster.address=none", "cluster.num_workers=1"),
    "two workers, local cluster": ("cluster.address=local", "cluster.num_workers=2"),
    "two workers, Ray Train (elastic group)": ("cluster.address=local", "cluster.num_workers={min: 1, max: 2}"),
}


class Cost(NamedTuple):
    """Cost of a command and all its processes: processor seconds, peak of their memory (PSS) in MiB, seconds."""

    cpu_s: float
    memory_mib: float
    elapsed_s: float


def main() -> None:
    """Prints a Markdown table of medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    costs: dict[str, list[Cost]] = {name: [] for name in GROUPS}
    with tempfile.TemporaryDirectory() as folder:
        config = _config(pathlib.Path(folder))
        for number in range(rounds):
            for name, settings in GROUPS.items():
                root = f"root={folder}/{number}-{len(costs[name])}-{list(GROUPS).index(name)}"
                _run("prepare", config, (root, "cluster.address=none"))
                costs[name].append(_run("train", config, (root, *settings)))
    sys.stdout.write("| command to first step | CPU-seconds | PSS, sum, MiB | seconds |\n| --- | --- | --- | --- |\n")
    for name, rows in costs.items():
        cpu_s, memory_mib, elapsed_s = (statistics.median(column) for column in zip(*rows, strict=True))
        sys.stdout.write(f"| {name} | {cpu_s:.1f} | {memory_mib:.0f} | {elapsed_s:.0f} |\n")


def _config(folder: pathlib.Path) -> pathlib.Path:
    memory.write_corpus(folder / "pairs.tsv", PAIRS_BYTES)
    corpus = {"kind": "pairs", "train": {"tsv": [str(folder / "pairs.tsv")]}, "split": {"valid": 0.01}}
    training = {"max_steps": 1, "batch_tokens": 4096}
    config = {**memory.CONFIG, "name": "start", "root": "run", "corpus": corpus, "training": training}
    path = folder / "run.yaml"
    path.write_text(json.dumps(config))
    return path


def _run(verb: str, config: pathlib.Path, settings: tuple[str, ...]) -> Cost:
    overrides = [part for setting in settings for part in ("--set", setting)]
    started_s = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs", verb, str(config), *overrides],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    used_s: dict[int, float] = {}
    peak = 0
    while process.poll() is None:
        pids = memory.family(process.pid)
        used_s |= {pid: seconds for pid in pids if (seconds := _cpu_s(pid)) is not None}
        peak = max(peak, sum(now.proportional for now in map(memory.sample, pids) if now is not None))
        time.sleep(SAMPLE_S)
    elapsed_s = time.monotonic() - started_s
    if process.returncode:
        raise SystemExit(process.communicate()[1])
    return Cost(sum(used_s.values()), peak / 2**20, elapsed_s)


def _cpu_s(pid: int) -> float | None:
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
