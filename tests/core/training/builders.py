"""Small datasets, jobs and groups of ranks for the tests of training."""

import dataclasses
import hashlib
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from core.config import model_settings, schema, training_settings
from core.data.dataset import dataset_index, shard_table, shards
from core.data.tokens import tokenizer, vocabulary
from core.reporting import training_history
from core.storage import commit, location
from core.telemetry import metrics
from core.training import collective, progress, trainer

TEXT = model_settings.LanguageModelConfig(kind="language_model", cell="lstm", hidden_size=12, embedding_size=8)
FEEDFORWARD = model_settings.LanguageModelConfig(
    kind="language_model", cell="feedforward", context=4, hidden_size=12, embedding_size=8
)
PAIRS = model_settings.Seq2SeqConfig(
    kind="seq2seq", cell="gru", hidden_size=8, embedding_size=8, bidirectional=True, attention="additive"
)
FP32 = schema.ComputeConfig(precision="fp32", matmul="default")


def location_of(path: Path) -> location.Location:
    return location.Location.parse(str(path))


def text_dataset(folder: Path, num_train: int = 400, num_valid: int = 90, order: int = 1) -> location.Location:
    """Writes a stream of characters in which each has a likely successor, so that there is something to learn.

    With `order` -1 each split is written from its end to its beginning.
    """
    chance = random.Random(7)
    letters = "abcdefgh"
    text = ["a"]
    while len(text) < num_train + num_valid:
        following = letters[(letters.index(text[-1]) * 3 + 1) % len(letters)]
        text.append(following if chance.random() < 0.8 else chance.choice(letters))
    counts = vocabulary.Counts()
    counts.add(letters)
    made = tokenizer.from_counts("char", counts, 1, None, ("<unk>",))
    lines = {"train": "".join(text[:num_train])[::order], "valid": "".join(text[num_train:])[::order]}
    rows = {
        split: {"text": [made.encode(line[start : start + 50]) for start in range(0, len(line), 50)]}
        for split, line in lines.items()
    }
    return write_dataset(folder, "text", rows, {"text": made}, "none")


def pairs_dataset(folder: Path, num_train: int = 60, num_valid: int = 12) -> location.Location:
    """Writes pairs in which the target of a word is its neighbour in the vocabulary."""
    chance = random.Random(3)
    words = [f"w{number}" for number in range(9)]
    counts = vocabulary.Counts()
    counts.add(words)
    made = tokenizer.from_counts("word", counts, 1, None, vocabulary.RESERVED)
    rows: dict[str, dict[str, list[list[int]]]] = {}
    for split, count in (("train", num_train), ("valid", num_valid)):
        picked = [[chance.randrange(9) for _ in range(chance.randint(1, 7))] for _ in range(count)]
        rows[split] = {
            side: [[*(4 + (word + shift) % 9 for word in line), 3] for line in picked]
            for side, shift in (("source", 0), ("target", 1))
        }
    return write_dataset(folder, "pairs", rows, {"source": made, "target": made}, "eos")


def subwords_dataset(folder: Path, num_train: int = 60) -> location.Location:
    """Writes pairs in BPE tokens, of words that have some letters in common."""
    chance = random.Random(5)
    words = [first + last for first in ("travel", "time", "mach") for last in ("led", "ler", "ine", "s")]
    lines = [" ".join(chance.choices(words, k=chance.randint(1, 7))) for _ in range(num_train)]
    made = tokenizer.train_subwords("bpe", iter(lines), 300, vocabulary.RESERVED)
    rows = [[*ids, made.eos_id or 0] for ids in made.encode_lines(lines)]
    sides = {"source": rows, "target": rows[::-1]}
    return write_dataset(folder, "pairs", {"train": sides}, dict.fromkeys(sides, made), "eos")


def several(folder: Path, **corpora: location.Location) -> location.Location:
    """Joins several datasets with the same tokenizers into one of several corpora."""
    root = location_of(folder)
    splits: dict[str, list[shard_table.ShardRecord]] = {}
    indices = {name: shards.Dataset.open(dataset).index for name, dataset in corpora.items()}
    for name, index in indices.items():
        for split, records in index.splits.items():
            for record in records:
                data = corpora[name].join(record.name).read_bytes()
                copied = commit.put_content(root, f"{split}/{name}", ".arrow", data)
                own = dataclasses.replace(record, name=copied.name, corpus=name)
                splits.setdefault(split, []).append(own)
    for made in index.tokenizers.values():
        commit.put_content(root, "tokenizer", ".json", corpora[name].join(made.file.name).read_bytes())
    lines_read = sum(index.lines_read for index in indices.values())
    fingerprint = hashlib.sha256("".join(index.fingerprint for index in indices.values()).encode()).hexdigest()
    tables = {split: shard_table.ShardTable.of(own, index.tokenizers) for split, own in splits.items()}
    joined = dataclasses.replace(index, splits=tables, lines_read=lines_read, fingerprint=fingerprint)
    commit.write_manifest(root, dataset_index.NAME, joined.write_table(root))
    return root


def write_dataset(
    folder: Path,
    kind: str,
    rows: dict[str, dict[str, list[list[int]]]],
    tokenizers: dict[str, tokenizer.Tokenizer],
    line_end: str,
) -> location.Location:
    """Writes rows of token ids by split and column as a dataset of one shard for each split."""
    root = location_of(folder)
    sizes = {column: made.vocabulary_size for column, made in tokenizers.items()}
    splits: dict[str, shard_table.ShardTable] = {}
    for split, columns in rows.items():
        num_rows = len(next(iter(columns.values())))
        data = shards.encode_shard(columns, range(num_rows), sizes)
        record = commit.put_content(root, f"{split}/part-00000", ".arrow", data)
        tokens = {column: sum(map(len, lines)) for column, lines in columns.items()}
        shard = shard_table.ShardRecord(record.name, num_rows, tokens, record.size_bytes, record.sha256)
        splits[split] = shard_table.ShardTable.of([shard], tuple(columns))
    records = {}
    for column, made in tokenizers.items():
        file = commit.put_content(root, "tokenizer", ".json", made.to_json().encode())
        records[column] = dataset_index.TokenizerRecord(file, made.fingerprint, made.vocabulary_size)
    lines_read = sum(len(next(iter(columns.values()))) for columns in rows.values())
    fingerprint = hashlib.sha256(repr(rows).encode()).hexdigest()
    index = dataset_index.DatasetIndex(
        kind, splits, lines_read, {}, (), records, line_end, (), {"of": kind}, fingerprint
    )
    commit.write_manifest(root, dataset_index.NAME, index.write_table(root))
    return root


def job(
    root: Path, dataset: location.Location, model: model_settings.NetworkConfig = TEXT, seed: int = 1, **training: Any
) -> trainer.TrainingJob:
    defaults: dict[str, Any] = {"num_lanes": 6, "window": 5} if model.kind == "language_model" else {"batch_tokens": 40}
    settings = {**defaults, "epochs": 2, "learning_rate": 0.01, "checkpoint_every_steps": 10_000, **training}
    return trainer.TrainingJob(
        root=location_of(root),
        name="test",
        seed=seed,
        model=model,
        training=training_settings.TrainingConfig(**settings),
        compute=FP32,
        dataset=dataset,
    )


class Watch:
    """Callbacks that ask to stop after a number of steps of this start, and to save after others."""

    def __init__(self, stop_after: int | None = None, save_after: Sequence[int] = ()) -> None:
        self._left = stop_after
        self._save_after = save_after
        self._steps = 0
        self.seen: list[progress.Progress] = []

    def on_progress(self, now: progress.Progress) -> None:
        self.seen.append(now)

    def should_stop(self) -> bool:
        if self._left is None:
            return False
        self._left -= 1
        return self._left <= 0

    def should_save(self) -> bool:
        self._steps += 1
        return self._steps in self._save_after


def train(job: trainer.TrainingJob, stop_after: int | None = None) -> trainer.TrainingSummary:
    return trainer.train(job, collective.SingleProcess(), metrics.NullMetrics(), Watch(stop_after))


def digest(root: Path) -> dict[str, str]:
    """Returns the SHA-256 of weights, optimizer and lane state of the newest checkpoint, by file."""
    folders = sorted((root / "checkpoints").iterdir())
    files = location_of(folders[-1]).join("MANIFEST.json").read_json()["files"]
    return {file["name"]: file["sha256"] for file in files if file["name"].endswith(".safetensors")}


def on_ranks(world_size: int, folder: Path, call: Callable[..., None], *arguments: Any) -> None:
    """Runs a function as `call(rank, group, *arguments)` on ranks that are processes of their own."""
    meeting = folder / f"meeting-{random.randrange(1 << 60):x}"
    spawn(_rank, args=(world_size, str(meeting), call, arguments), nprocs=world_size, join=True)  # type: ignore[no-untyped-call]


def _rank(rank: int, world_size: int, meeting: str, call: Callable[..., None], arguments: Sequence[Any]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size)
    try:
        call(rank, collective.TorchDistributed(), *arguments)
    finally:
        dist.destroy_process_group()


def train_rank(rank: int, group: collective.Collective, runs: Sequence[tuple[trainer.TrainingJob, int | None]]) -> None:
    """Trains several runs one after the other; each is stopped after a number of steps."""
    for job, stop_after in runs:
        trainer.train(job, group, metrics.NullMetrics(), Watch(stop_after))


def steps(root: Path) -> list[dict[str, Any]]:
    """Returns the rows of training steps of a run log, in order."""
    return [dict(row) for row in training_history.read(location_of(root)) if row["kind"] == "step"]
