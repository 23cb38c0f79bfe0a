"""Sides that run a whole program in each round, as a user would: n-grams by our verbs and by KenLM's `lmplz`."""

import itertools
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import IO, NamedTuple

from tests.benchmarks.peers import sides

_ORDER = 5


class Cost(NamedTuple):
    """CPU-seconds of a program and its largest resident memory."""

    cpu_s: float
    peak_mb: float


def run_program(command: Sequence[str], stdin: IO[bytes] | None = None) -> Cost:
    """Runs a program to its end; what it prints goes to standard error.

    Raises:
        CalledProcessError: it failed.
    """
    process = subprocess.Popen(command, stdin=stdin, stdout=sys.stderr, cwd=sides.REPOSITORY)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def ngram_ours(settings: sides.Settings) -> sides.Run:
    """Prepares a text and trains an n-gram model of it by two commands; a round counts the tokens of the text."""
    text, folder = pathlib.Path(settings["corpus"]) / "train", pathlib.Path(settings["work_folder"])
    content = {
        "name": "ngram",
        "corpus": {"kind": "text", "train": {"text": [str(text)]}, "filters": {"min_length": 0}, "line_end": "eos"},
        "tokenizer": {"kind": "word"},
        "model": {"kind": "ngram", "order": _ORDER, "unit": "line"},
        "cluster": {"address": "none", "num_workers": 1},
    }
    num_tokens, numbers = _count_tokens(text), itertools.count()

    def run() -> sides.Round:
        root = folder / f"run-{next(numbers)}"
        file = folder / f"{root.name}.yaml"
        file.write_text(json.dumps({**content, "root": str(root)}), encoding="utf-8")
        costs = [run_program([sys.executable, "-m", "jobs", verb, str(file)]) for verb in ("prepare", "train")]
        shutil.rmtree(root)
        return _round(num_tokens, costs)

    return run


def ngram_kenlm(settings: sides.Settings) -> sides.Run:
    """Trains an n-gram model by `lmplz`, with 100 MB to sort in."""
    text, folder = pathlib.Path(settings["corpus"]) / "train", pathlib.Path(settings["work_folder"])
    # Its fallback discounts: of generated text too few n-grams occur three times to estimate them.
    options = ["-o", str(_ORDER), "-S", "100M", "-T", str(folder / "sorting"), "--discount_fallback"]
    num_tokens = _count_tokens(text)

    def run() -> sides.Round:
        with text.open("rb") as stdin:
            cost = run_program([settings["lmplz"], *options, "--arpa", str(folder / "model.arpa")], stdin)
        return _round(num_tokens, [cost])

    return run


def _round(num_tokens: int, costs: Sequence[Cost]) -> sides.Round:
    peak_mb = max(cost.peak_mb for cost in costs)
    return sides.Round(num_tokens, sum(cost.cpu_s for cost in costs), {"MB": peak_mb})


def _count_tokens(text: pathlib.Path) -> int:
    return sum(len(line.split()) + 1 for line in text.read_text(encoding="utf-8").split("\n")[:-1])


if __name__ == "__main__":
    sides.serve({"ngram_ours": ngram_ours, "ngram_kenlm": ngram_kenlm}, {"KenLM": "0.3.0"})
