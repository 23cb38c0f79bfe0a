"""Translation from and to an object store beside local files: `python -m tests.scale.throughput [--lines N]`.

The same run, input and settings, by four workers of a local cluster, in turn over a bucket of Google's protocol
(fake-gcs-server, which keeps its objects on disk) and over local files. Prints the seconds of each round, without the
start of Python and Ray, and the ratio of the medians.
"""

import argparse
import json
import pathlib
import statistics
import tempfile
from typing import Any

from core.data.builtin import sentences
from core.storage import location
from tests import object_stores
from tests.benchmarks import commands
from tests.e2e import stored

ROUNDS = 3
NUM_WORKERS = 4
BUCKET = "throughput"
CONFIG: dict[str, Any] = {
    "name": "throughput",
    "tokenizer": {"kind": "word"},
    "model": {"kind": "seq2seq", "cell": "gru", "hidden_size": 256, "embedding_size": 256, "attention": "dot"},
    "training": {"batch_tokens": 4096, "max_steps": 300, "learning_rate": 4e-3},
    "cluster": {"address": "none"},
    "compute": {"precision": "fp32", "matmul": "default"},
}


def make_run(folder: pathlib.Path, num_lines: int) -> None:
    """Trains a model in `folder/run`, and writes `folder/input.txt`."""
    sentences.write_pairs(folder / "pairs.tsv", 1, 0, 10_000)
    sentences.write_english(folder / "input.txt", 1, 10_000, num_lines)
    corpus = {"kind": "pairs", "train": {"tsv": [str(folder / "pairs.tsv")]}, "split": {"valid": 0.01}}
    config = folder / "run.yaml"
    config.write_text(json.dumps({**CONFIG, "root": str(folder / "run"), "corpus": corpus}))
    commands.jobs("prepare", str(config))
    commands.jobs("train", str(config))


def translate(folder: str, number: int, num_lines: int) -> float:
    """Translates the input with the run of a folder; returns the seconds that it took."""
    files = ("--run", f"{folder}/run", "--input", f"{folder}/input.txt", "--output", f"{folder}/{number}.jsonl")
    cluster = ("--set", "cluster.address=local", "--set", f"cluster.num_workers={NUM_WORKERS}")
    report = json.loads(commands.jobs("translate", *files, *cluster))
    assert report["lines"] == num_lines
    return float(report["elapsed_s"])


def measure(local: pathlib.Path, num_lines: int) -> None:
    """Trains, copies the run into a bucket, translates in turn from both places, and prints what they took."""
    make_run(local, num_lines)
    bucket = location.Location.parse(f"gs://{BUCKET}")
    stored.upload(local, bucket)
    seconds: dict[str, list[float]] = {str(local): [], str(bucket): []}
    for number in range(ROUNDS):
        for folder, taken in seconds.items():
            taken.append(translate(folder, number, num_lines))
    for folder, taken in seconds.items():
        print(f"{folder}: {', '.join(f'{each:.1f}' for each in taken)} s")
    of_files, of_store = map(statistics.median, seconds.values())
    print(f"{num_lines} lines, {NUM_WORKERS} workers: {of_store / of_files:.2f} times as long over the store")


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=50_000, help="lines that are translated in each round")
    num_lines = parser.parse_args().lines
    with tempfile.TemporaryDirectory(prefix="rc-throughput-") as folder:
        objects, local = pathlib.Path(folder) / "objects", pathlib.Path(folder) / "local"
        objects.mkdir()
        local.mkdir()
        with object_stores.serving_gcs(BUCKET, "-backend=filesystem", f"-filesystem-root={objects}"):
            measure(local, num_lines)


if __name__ == "__main__":
    main()
