"""Helpers of tests of prepare: a session, an executor, small corpora, and the content of datasets."""

import contextlib
import json
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pytest

from core import errors
from core.config import loading, schema
from core.data.dataset import shards
from core.storage import location
from core.telemetry import metrics
from jobs import prepare
from tests import reporters
from workers.fanout import executor as executors
from workers.prepare import line_tasks

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


class ShufflingExecutor:
    """Runs tasks in random order, and a fifth of them twice, as a pool with stragglers may; can stop early."""

    def __init__(self, seed: int, num_workers: int = 1, stop_after: int | None = None) -> None:
        self.num_workers = num_workers
        self.rng = random.Random(seed)
        self.remaining = stop_after

    def run(
        self,
        stage: str,
        tasks: Iterable[executors.Task],
        factory: Callable[[], Callable[[Any], Result]],
        on_done: Callable[[executors.Task, Result], None],
        monitor: executors.Monitor = executors.UNMONITORED,
    ) -> None:
        shuffled = list(tasks)
        self.rng.shuffle(shuffled)
        workers = [factory() for _ in range(self.num_workers)]
        for number, task in enumerate(shuffled):
            if self.remaining is not None:
                self.remaining -= 1
                if self.remaining < 0:
                    raise errors.InterruptedRunError("prepare: stopped")
            result = workers[number % self.num_workers](task.payload)
            if self.rng.random() < 0.2:
                workers[-1](task.payload)
            on_done(task, result)
            monitor.progress(task.weight)


class Session:
    """A session of one executor; records the metrics, and the numbers of tasks that executors were requested for."""

    def __init__(self, executor: executors.Executor | None = None) -> None:
        self.metrics = metrics.InMemoryMetrics()
        self.should_stop: Callable[[], bool] = executors.never
        self._executor = executor or executors.InProcess()
        self.requested: list[int | None] = []

    def interrupting(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def executor(self, stage: str, num_tasks: int | None = None, runs_model: bool = False) -> executors.Executor:
        self.requested.append(num_tasks)
        return self._executor


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
    return prepare.run(settings, Session(executor), reporters.SilentReporter())


def open_dataset(settings: schema.RunConfig) -> shards.Dataset:
    return shards.Dataset.open(location.Location.parse(settings.root).join("dataset"))


def split(dataset: shards.Dataset, name: str, corpus_name: str = "") -> shards.Split:
    """A split that must exist."""
    existing = dataset.split(name, corpus_name)
    assert existing is not None, name
    return existing


def rows(of_split: shards.Split, column: str) -> list[npt.NDArray[Any]]:
    """The token ids of all lines on one side."""
    return of_split.rows(np.arange(of_split.num_lines), column)


def line_numbers(dataset: shards.Dataset, name: str) -> list[int]:
    """The numbers of the lines of a split in their source."""
    of_split, num_shards = split(dataset, name), len(dataset.index.splits[name])
    return [line for number in range(num_shards) for line in of_split.shard(number).lines.tolist()]


def texts(dataset: shards.Dataset, name: str) -> list[tuple[str, ...]]:
    """The decoded lines of a split; none if there is no such split."""
    if dataset.split(name) is None:
        return []
    columns = [
        [codec.decode(row.tolist()) for row in rows(split(dataset, name), column)]
        for column, codec in dataset.codecs.items()
    ]
    return list(zip(*columns, strict=True))


def sentences(number: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 9))) for _ in range(number)]


def write(path: Path, lines: Sequence[str]) -> str:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    return str(path)


def pairs(folder: Path) -> dict[str, Any]:
    """The settings of a corpus of several parts, with one line for each reason to drop a line."""
    sources, targets = sentences(300), sentences(300, seed=1)
    lines = [f"{source}\t{target}" for source, target in zip(sources, targets, strict=True)]
    lines[10] = lines[3]
    lines[20] = "no target"
    lines[30] = "\tempty source"
    lines[40] = " ".join(WORDS) + "\tlong source"
    file = write(folder / "pairs.tsv", lines)
    return {
        "kind": "pairs",
        "train": {"tsv": [file]},
        "split": {"valid": 0.1, "test": 0.1},
        "filters": {"max_length": 12, "max_ratio": 4, "duplicates": "drop"},
    }


def read_files(folder: Path) -> dict[str, bytes]:
    """The content of every file in a folder, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def note_files(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Returns a set that receives the name of each task that commits a file for a later pass."""
    names: set[str] = set()
    commit_file = line_tasks.commit_file

    def commit_and_note(recipe: line_tasks.Recipe, name: str, *more: Any) -> line_tasks.Record:
        names.add(name)
        return commit_file(recipe, name, *more)

    monkeypatch.setattr(line_tasks, "commit_file", commit_and_note)
    return names
