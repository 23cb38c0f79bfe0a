"""Memory benchmark: preparation, training, translation and scoring of a corpus, and of one a tenth of its size.

`python -m tests.benchmarks.memory [--bytes 1000000000]` runs the verbs as commands, with two workers each, and
samples the memory of the driver and of every worker while they run. Shards are memory-mapped: their pages count as
resident although the kernel can reclaim them at any time, so the limit is on anonymous memory. It may grow by 15 %.
"""

import argparse
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from core.data.builtin import sentences

SEED = 1
PAIRS_PER_WRITE = 100_000
SAMPLE_S = 0.2
SAMPLES_PER_SCAN = 10  # samples between two scans for new processes
MAX_GROWTH = 1.15
TRANSLATED_SHARE, SCORED_SHARE = 0.002, 0.02
WORKERS = ("ray::_Host", "ray::TrainingRank", "ray::RayTrainWorker")
CONFIG: dict[str, dict[str, Any]] = {
    "corpus": {"kind": "pairs", "split": {"valid": 0.0005}},
    "tokenizer": {"kind": "word", "max_size": 20_000},
    "model": {"kind": "seq2seq", "cell": "gru", "hidden_size": 32, "embedding_size": 32, "attention": "dot"},
    "training": {"batch_tokens": 4096, "max_steps": 60},
    "decoding": {"beam_size": 1, "max_length": 20, "part_lines": 32},
    "scoring": {"part_lines": 128},
    "compute": {"precision": "fp32", "matmul": "default"},
}


class Peak(NamedTuple):
    """Peak memory of a process, in bytes."""

    anonymous: int = 0
    proportional: int = 0
    resident: int = 0


class MemorySampler(threading.Thread):
    """Samples the memory of a driver and of its workers until `end` is called.

    Args:
        driver: process id.
        role: returns what a process is counted as, given its id; empty if it is not watched.
        nodes: processes outside of the driver's family, whose descendants are watched, too.
    """

    def __init__(self, driver: int, role: Callable[[int], str] | None = None, nodes: Sequence[int] = ()) -> None:
        super().__init__(daemon=True)
        self.peaks: dict[str, dict[int, Peak]] = defaultdict(dict)
        self._driver, self._role, self._nodes = driver, role or _role, nodes
        self._done = threading.Event()

    def run(self) -> None:
        """Takes samples."""
        watched: dict[int, str] = {}
        for number in itertools.count():
            if self._done.wait(SAMPLE_S):
                return
            if number % SAMPLES_PER_SCAN == 0:
                pids = [pid for root in (self._driver, *self._nodes) for pid in family(root)]
                roles = {pid: "driver" if pid == self._driver else self._role(pid) for pid in pids}
                watched = {pid: role for pid, role in roles.items() if role}
            for pid, role in watched.items():
                now = sample(pid)
                if now is not None:
                    before = self.peaks[role].get(pid, Peak())
                    self.peaks[role][pid] = Peak(*map(max, before, now))

    def end(self) -> dict[str, Peak]:
        """Stops and returns the peaks of the driver and of the largest worker."""
        self._done.set()
        self.join()
        return {role: Peak(*map(max, *peaks.values(), Peak())) for role, peaks in self.peaks.items()}


def family(pid: int) -> list[int]:
    """Returns a process and all its descendants."""
    children = defaultdict(list)
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children[int(status[1])].append(int(entry.name))
    family = [pid]
    for member in family:  # grows while it is walked
        family += children[member]
    return family


def _role(pid: int) -> str:
    try:
        name = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""
    return "worker" if name.startswith(WORKERS) else ""


def sample(pid: int) -> Peak | None:
    """Returns the memory of a process now; None if it is gone."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return None
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return Peak(sizes["Anonymous"], sizes["Pss"], sizes["Rss"]) if sizes else None


def write_corpus(path: pathlib.Path, size_bytes: int) -> int:
    """Writes pairs until the file has `size_bytes`; returns their number."""
    written = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        while file.tell() < size_bytes:
            pairs = sentences.pairs(SEED, written, PAIRS_PER_WRITE)
            file.writelines(f"{english}\t{french}\n" for english, french in pairs)
            written += PAIRS_PER_WRITE
    return written


def command(arguments: Sequence[str]) -> tuple[dict[str, Any], dict[str, Peak]]:
    """Runs a verb; returns its report and its peak memory by role."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "token"}
    command = [sys.executable, "-m", "jobs", *arguments]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
        sampler = MemorySampler(process.pid)
        sampler.start()
        output, _ = process.communicate()
        peaks = sampler.end()
        if process.returncode:
            log.seek(0)
            raise SystemExit(f"{' '.join(command)}\n{log.read()}")
    return json.loads(output), peaks


def measure(folder: pathlib.Path, size_bytes: int) -> dict[str, dict[str, Peak]]:
    """Prepares, trains, translates and scores; returns the peaks by verb and role."""
    num_pairs = write_corpus(folder / "pairs.tsv", size_bytes)
    inputs = {"translate": int(num_pairs * TRANSLATED_SHARE), "score": int(num_pairs * SCORED_SHARE)}
    for verb, count in inputs.items():
        sentences.write_english(folder / f"{verb}.en", SEED, 0, count)
        french = (f"{target}\n" for _, target in sentences.pairs(SEED, 0, count))
        with (folder / f"{verb}.fr").open("w", encoding="utf-8") as file:
            file.writelines(french)
    root = folder / "run"
    corpus = {**CONFIG["corpus"], "train": {"tsv": [str(folder / "pairs.tsv")]}}
    content = {**CONFIG, "name": "memory", "root": str(root), "corpus": corpus}
    settings = folder / "memory.yaml"
    settings.write_text(json.dumps(content))
    workers = ["--set", "cluster.address=local", "--set", "cluster.num_workers=2"]
    peaks = {}
    for verb in ("prepare", "train"):
        _, peaks[verb] = command([verb, str(settings), *workers])
        _report(verb, size_bytes, peaks[verb])
    used = ["--run", str(root), *workers, *_settings("decoding"), *_settings("scoring")]
    for verb, targets in (("translate", []), ("score", ["--targets", str(folder / "score.fr")])):
        files = ["--input", str(folder / f"{verb}.en"), *targets, "--output", str(folder / f"{verb}.jsonl")]
        report, peaks[verb] = command([verb, *used, *files])
        assert report["lines"] == inputs[verb]
        _report(verb, size_bytes, peaks[verb])
    return peaks


def _report(verb: str, size_bytes: int, peaks: dict[str, Peak]) -> None:
    """Reports progress: the larger corpus takes a while."""
    shown = ", ".join(f"{role} {peak.anonymous >> 20} MiB anonymous" for role, peak in peaks.items())
    sys.stderr.write(f"{verb} of {size_bytes // 1_000_000} MB: {shown}\n")


def _settings(section: str) -> list[str]:
    return [word for name, value in CONFIG[section].items() for word in ("--set", f"{section}.{name}={value}")]


def main() -> int:
    """Measures both sizes and prints a Markdown table; returns 1 if anonymous memory grew by more than allowed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, default=1_000_000_000, help="size of the larger corpus")
    larger = parser.parse_args().bytes
    peaks_by_size = []
    for size_bytes in (larger // 10, larger):
        with tempfile.TemporaryDirectory(prefix="rc-memory-", dir=os.environ.get("TMPDIR")) as folder:
            peaks_by_size.append(measure(pathlib.Path(folder), size_bytes))
    sizes = f"{larger // 10_000_000} MB → {larger // 1_000_000} MB"
    sys.stdout.write(
        f"| {sizes}, MiB | anonymous | growth | proportional | resident |\n| --- | --- | --- | --- | --- |\n"
    )
    worst = 0.0
    for verb, roles in peaks_by_size[1].items():
        for role, large in roles.items():
            small = peaks_by_size[0][verb][role]
            growth = large.anonymous / small.anonymous
            worst = max(worst, growth)
            columns = [f"{before >> 20} → {after >> 20}" for before, after in zip(small, large, strict=True)]
            sys.stdout.write(f"| {verb}, {role} | {columns[0]} | {growth:.2f} | {columns[1]} | {columns[2]} |\n")
    return int(worst > MAX_GROWTH)


if __name__ == "__main__":
    sys.exit(main())
