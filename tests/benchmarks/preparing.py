"""Preparation benchmark: `prepare` against `encode_batch` of Hugging Face tokenizers on the same lines.

Ours also reads, cleans, splits and writes.
"""

import atexit
import itertools
import json
import pathlib
import shutil
import tempfile

import tokenizers

from core.config import loading
from core.data.builtin import sentences
from core.data.dataset import shards
from core.data.text import cleaning
from core.storage import location
from jobs import prepare
from tests import reporters
from tests.benchmarks import harness, workloads
from tests.jobs import datasets

NUM_PAIRS = 40_000
CLEANING = ("spaces", "lower", "punctuation")
BATCH_LINES = 4096


def variants(tokenizer: dict[str, object]) -> workloads.Variants:
    """Returns both variants for one corpus of pairs; work is counted in tokens of both sides."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="rc-bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    sentences.write_pairs(folder / "pairs.tsv", 1, 0, NUM_PAIRS)
    runs = itertools.count()

    def ours() -> harness.Done:
        root = folder / f"run-{next(runs)}"
        content = {
            "name": "bench",
            "root": str(root),
            "corpus": {
                "kind": "pairs",
                "train": {"tsv": [str(folder / "pairs.tsv")]},
                "split": {"valid": 0.02, "test": 0.02},
                "cleaning": CLEANING,
            },
            "tokenizer": tokenizer,
            "model": {"kind": "seq2seq"},
            "training": {"batch_tokens": 4096},
        }
        config = loading.parse(json.dumps(content), "bench", [])
        report = prepare.run(config, datasets.Session(), reporters.SilentReporter())
        return harness.Done(sum(sum(split["tokens"].values()) for split in report["splits"].values()))

    num_tokens = ours().amount
    dataset = shards.Dataset.open(location.Location.parse(str(folder / "run-0" / "dataset")))
    libraries = [tokenizers.Tokenizer.from_str(codec.tokenizer.to_json()) for codec in dataset.codecs.values()]
    rows = [line.split("\t") for line in (folder / "pairs.tsv").read_text().splitlines()]
    sides = [cleaning.clean_lines([row[side] for row in rows], CLEANING) for side in (0, 1)]

    def baseline() -> harness.Done:
        for library, lines in zip(libraries, sides, strict=True):
            for start in range(0, len(lines), BATCH_LINES):
                library.encode_batch(lines[start : start + BATCH_LINES])
        return harness.Done(num_tokens)

    return {"ours": ours, "baseline": baseline}
