"""What tests of prepare share: a session, executors, small corpora, and what a dataset says."""

import json
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from core import errors
from core.config import loading, schema
from core.data.dataset import shards
from core.storage import location
from core.telemetry import metrics
from jobs import console, prepare
from workers.fanout import executor as executors

Result = TypeVar("Result")
WORDS = [
    "the",
    "a",
    "red",
    "green",
    "old",
    "small",
    "dog",
    "cat",
    "house",
    "runs",
    "sleeps",
    "sees",
    "and",
    "or",
    "not",
]


class Shuffling:
    """Does tasks in an order of its own, some of them twice, as a pool with stragglers may; stops after some."""

    def __init__(self, seed: int, num_workers: int = 1, stop_after: int | None = None) -> None:
        self.num_workers = num_workers
        self.chance = random.Random(seed)
        self.left = stop_after

    def run(
        self,
        stage: str,
        tasks: Iterable[executors.Task],
        factory: Callable[[], Callable[[Any], Result]],
        on_done: Callable[[executors.Task, Result], None],
        monitor: executors.Monitor = executors.UNMONITORED,
    ) -> None:
        mixed = list(tasks)
        self.chance.shuffle(mixed)
        workers = [factory() for _ in range(self.num_workers)]
        for number, task in enumerate(mixed):
            if self.left is not None:
                self.left -= 1
                if self.left < 0:
                    raise errors.InterruptedRunError("prepare: stopped")
            result = workers[number % self.num_workers](task.payload)
            if self.chance.random() < 0.2:
                workers[-1](task.payload)
            on_done(task, result)
            monitor.progress(task.weight)


class Session:
    """A session of one executor, which remembers what was measured."""

    def __init__(self, executor: executors.Executor | None = None) -> None:
        self.metrics = metrics.InMemoryMetrics()
        self.should_stop: Callable[[], bool] = executors.never
        self.used = executor or executors.InProcess()
        self.asked: list[int | None] = []

    def executor(self, stage: str, num_tasks: int | None = None) -> executors.Executor:
        self.asked.append(num_tasks)
        return self.used


def config(
    root: Path | str, corpus: dict[str, Any], tokenizer: dict[str, Any] | None = None, **more: Any
) -> schema.RunConfig:
    is_text = corpus["kind"] == "text"
    content = {
        "name": "test",
        "root": str(root),
        "corpus": corpus,
        "tokenizer": tokenizer or {"kind": "word"},
        "sharding": {"part_size_bytes": 2048},
        "model": {"kind": "language_model" if is_text else "seq2seq"},
        "training": {} if is_text else {"batch_tokens": 100},
        **more,
    }
    return loading.parse(json.dumps(content), "test", [])


def run(settings: schema.RunConfig, executor: executors.Executor | None = None) -> dict[str, Any]:
    return prepare.run(settings, Session(executor), console.SilentReporter())


def opened(settings: schema.RunConfig) -> shards.Dataset:
    return shards.Dataset.open(location.Location.parse(settings.root).join("dataset"))


def texts(dataset: shards.Dataset, split: str) -> list[tuple[str, ...]]:
    """The lines of a split, decoded."""
    found = dataset.split(split)
    if found is None:
        return []
    columns = [
        [codec.decode(row.tolist()) for row in found.rows(range_of(found.num_lines), column)]
        for column, codec in dataset.codecs.items()
    ]
    return list(zip(*columns, strict=True))


def range_of(number: int) -> shards.Array:
    return np.arange(number)


def sentences(number: int, seed: int = 0) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.randint(1, 9))) for _ in range(number)]


def write(path: Path, lines: Sequence[str]) -> str:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    return str(path)


def pairs(folder: Path) -> dict[str, Any]:
    """A corpus with one line for every reason to drop one, in several parts."""
    sources, targets = sentences(300), sentences(300, seed=1)
    rows = [f"{source}\t{target}" for source, target in zip(sources, targets, strict=True)]
    rows[10] = rows[3]
    rows[20] = "no target"
    rows[30] = "\tempty source"
    rows[40] = " ".join(WORDS) + "\tlong source"
    file = write(folder / "pairs.tsv", rows)
    return {
        "kind": "pairs",
        "train": {"tsv": [file]},
        "split": {"valid": 0.1, "test": 0.1},
        "filters": {"max_length": 12, "max_ratio": 4, "duplicates": "drop"},
    }


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a dataset but the plan of the run that made it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
