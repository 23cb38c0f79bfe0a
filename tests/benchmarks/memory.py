"""What memory preparing, training, translating and scoring take, for a corpus and for one of a tenth of its size.

`python -m tests.benchmarks.memory [--bytes 1000000000]` runs the verbs as commands, with two workers each, and
reads the kernel's account of the driver and of every worker while they run. Shards are memory-mapped: their pages
count as resident although the kernel takes them back when somebody else wants them, so the law is about what is
anonymous.
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
from collections.abc import Sequence
from typing import Any, NamedTuple

from core.data.builtin import sentences

SEED = 1
PIECE_PAIRS = 100_000
SAMPLE_S = 0.2
LOOK_EVERY = 10  # samples between two looks for new processes
LARGEST_GROWTH = 1.15
TRANSLATED_SHARE, SCORED_SHARE = 0.002, 0.02
WORKERS = ("ray::_Host", "ray::RayTrainWorker")
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
    """The most that a process had at any time; bytes."""

    anonymous: int = 0
    proportional: int = 0
    resident: int = 0


class Watch(threading.Thread):
    """Looks at a process and the workers below it again and again, until told that they are gone."""

    def __init__(self, driver: int) -> None:
        super().__init__(daemon=True)
        self.peaks: dict[str, dict[int, Peak]] = defaultdict(dict)
        self._driver = driver
        self._done = threading.Event()

    def run(self) -> None:
        """Samples."""
        watched: dict[int, str] = {}
        for number in itertools.count():
            if self._done.wait(SAMPLE_S):
                return
            if number % LOOK_EVERY == 0:
                below = {pid: "driver" if pid == self._driver else _role(pid) for pid in _below(self._driver)}
                watched = {pid: role for pid, role in below.items() if role}
            for pid, role in watched.items():
                now = _measured(pid)
                if now is not None:
                    before = self.peaks[role].get(pid, Peak())
                    self.peaks[role][pid] = Peak(*map(max, before, now))

    def end(self) -> dict[str, Peak]:
        """Stops and returns the peaks of the driver and of the largest worker."""
        self._done.set()
        self.join()
        return {role: Peak(*map(max, *peaks.values(), Peak())) for role, peaks in self.peaks.items()}


def _below(pid: int) -> list[int]:
    """A process and all that descend from it."""
    children = defaultdict(list)
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children[int(status[1])].append(int(entry.name))
    found = [pid]
    for one in found:
        found += children[one]
    return found


def _role(pid: int) -> str:
    try:
        name = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""
    return "worker" if name.startswith(WORKERS) else ""


def _measured(pid: int) -> Peak | None:
    try:
        lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return None
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return Peak(sizes["Anonymous"], sizes["Pss"], sizes["Rss"]) if sizes else None


def write_corpus(path: pathlib.Path, size_bytes: int) -> int:
    """Writes pairs until they take so many bytes; returns how many pairs."""
    written = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        while file.tell() < size_bytes:
            pairs = sentences.pairs(SEED, written, PIECE_PAIRS)
            file.writelines(f"{english}\t{french}\n" for english, french in pairs)
            written += PIECE_PAIRS
    return written


def command(arguments: Sequence[str]) -> tuple[dict[str, Any], dict[str, Peak]]:
    """Runs a verb; returns its report and what it took."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "token"}
    command = [sys.executable, "-m", "jobs", *arguments]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
        watch = Watch(process.pid)
        watch.start()
        output, _ = process.communicate()
        peaks = watch.end()
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
        sentences.write_french(folder / f"{verb}.fr", SEED, 0, count)
    root = folder / "run"
    corpus = {**CONFIG["corpus"], "train": {"tsv": [str(folder / "pairs.tsv")]}}
    content = {**CONFIG, "name": "memory", "root": str(root), "corpus": corpus}
    settings = folder / "memory.yaml"
    settings.write_text(json.dumps(content))
    workers = ["--set", "cluster.address=local", "--set", "cluster.num_workers=2"]
    found = {}
    for verb in ("prepare", "train"):
        _, found[verb] = command([verb, str(settings), *workers])
        _say(verb, size_bytes, found[verb])
    used = ["--run", str(root), *workers, *_settings("decoding"), *_settings("scoring")]
    for verb, targets in (("translate", []), ("score", ["--targets", str(folder / "score.fr")])):
        places = ["--input", str(folder / f"{verb}.en"), *targets, "--output", str(folder / f"{verb}.jsonl")]
        report, found[verb] = command([verb, *used, *places])
        assert report["lines"] == inputs[verb]
        _say(verb, size_bytes, found[verb])
    return found


def _say(verb: str, size_bytes: int, peaks: dict[str, Peak]) -> None:
    """Tells what is known so far: the larger corpus takes a while."""
    shown = ", ".join(f"{role} {peak.anonymous >> 20} MiB anonymous" for role, peak in peaks.items())
    sys.stderr.write(f"{verb} of {size_bytes // 1_000_000} MB: {shown}\n")


def _settings(section: str) -> list[str]:
    return [word for name, value in CONFIG[section].items() for word in ("--set", f"{section}.{name}={value}")]


def main() -> int:
    """Measures both sizes and prints them side by side; 1 if what is anonymous grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, default=1_000_000_000, help="size of the larger corpus")
    larger = parser.parse_args().bytes
    found = []
    for size_bytes in (larger // 10, larger):
        with tempfile.TemporaryDirectory(prefix="rc-memory-", dir=os.environ.get("TMPDIR")) as folder:
            found.append(measure(pathlib.Path(folder), size_bytes))
    head = f"{larger // 10_000_000} MB → {larger // 1_000_000} MB"
    sys.stdout.write(
        f"| {head}, MiB | anonymous | growth | proportional | resident |\n| --- | --- | --- | --- | --- |\n"
    )
    worst = 0.0
    for verb, roles in found[1].items():
        for role, large in roles.items():
            small = found[0][verb][role]
            growth = large.anonymous / small.anonymous
            worst = max(worst, growth)
            columns = [f"{before >> 20} → {after >> 20}" for before, after in zip(small, large, strict=True)]
            sys.stdout.write(f"| {verb}, {role} | {columns[0]} | {growth:.2f} | {columns[1]} | {columns[2]} |\n")
    return int(worst > LARGEST_GROWTH)


if __name__ == "__main__":
    sys.exit(main())
