"""The passes that make a dataset: each is a fan-out of one kind of task over parts of lines.

Those over the lines of a corpus are done for one corpus after the other; all corpora share their tokenizers.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core import errors
from core.config import corpus_settings, loading
from core.data.dataset import dataset_index
from core.data.text import sources
from core.storage import commit, location
from workers.fanout import executor as executors
from workers.fanout import progress_display
from workers.prepare import corpus_passes, passes, sharding, vocabularies, word_statistics


@dataclass(frozen=True)
class Plan:
    """What is to be made, and of what.

    Attributes:
        folder: of the dataset.
        settings: those that decide the dataset, as JSON.
        groups: by corpus and split, the files of its source.
        files: by corpus and split, what the index says of them.
    """

    folder: location.Location
    settings: dict[str, Any]
    groups: dict[str, corpus_passes.Groups]
    files: dict[str, dict[str, list[list[dict[str, Any]]]]]


def content(settings: dict[str, Any]) -> dict[str, Any]:
    """What the parts of a dataset are committed for; of which text they are is noted once it was read."""
    return {"settings": settings}


class Passes:
    """The passes of one run, in order."""

    def __init__(
        self,
        planned: Plan,
        corpora: Mapping[str, corpus_settings.CorpusConfig],
        tokenizing: corpus_settings.TokenizerConfig,
        seed: int,
        session: executors.Session,
        reporter: progress_display.Reporter,
    ) -> None:
        self._plan = planned
        self._corpora = corpora
        self._tokenizing = tokenizing
        self._store = commit.PartStore(planned.folder, content(planned.settings))
        self._runner = passes.Runner(self._store, session, reporter)
        self._covered: dict[str, list[dict[str, float]]] = {}
        of_tasks = {task: one for task, one in corpora.items() if isinstance(one, corpus_settings.TaskCorpusConfig)}
        target_tokens = {task: one.target_token for task, one in of_tasks.items() if one.target_token is not None}
        every = tuple(dict.fromkeys(target_tokens.values()))
        recipes = {
            task: sharding.Recipe(
                corpus, tokenizing, seed, planned.folder, self._store.plan, task, target_tokens.get(task), every
            )
            for task, corpus in corpora.items()
        }
        # What is done to all corpora together asks the first only for what is the same for all.
        self._recipe = next(iter(recipes.values()))
        self._passes = {
            task: corpus_passes.CorpusPasses(planned.groups[task], recipe, self._runner, len(recipes))
            for task, recipe in recipes.items()
        }

    def run(self, settings: corpus_settings.ShardingConfig) -> dataset_index.DatasetIndex:
        """Does all passes and returns the index that is to be written."""
        read = self._read(settings)
        hashes = {task: one.hashes for task, one in read.items()}
        self._check_unchanged(hashes)
        counted = {task: one.count(read[task]) for task, one in self._passes.items()}
        tokenizers = self._make_tokenizers([file for one in counted.values() for file in one.files])
        files = {column: made.file for column, made in tokenizers.items()}
        records = {task: one.encode(counted[task], files) for task, one in self._passes.items()}
        index = self._index(records, tokenizers, hashes)
        if settings.statistics:
            recipe = dataclasses.replace(self._recipe, tokenizers=files)
            index = dataclasses.replace(index, statistics=self._statistics(recipe, index.splits["train"]))
        return index

    def read_again(self, settings: corpus_settings.ShardingConfig) -> dict[str, dict[str, str]]:
        """Returns the hash of the text of each source as it is now: what `run` would put into the index."""
        return {task: one.hashes for task, one in self._read(settings).items()}

    def _read(self, settings: corpus_settings.ShardingConfig) -> dict[str, corpus_passes.Read]:
        return {task: one.read(settings.part_size_bytes) for task, one in self._passes.items()}

    def _check_unchanged(self, hashes: Mapping[str, Mapping[str, str]]) -> None:
        """Makes sure that the parts that are done were made from the same text."""
        before = self._store.commit("sources", {"sha256": _flat(hashes)})["sha256"]
        for task, found in hashes.items():
            for split in found:
                if before[_name(task, split)] != found[split]:
                    raise errors.LockedError(
                        f"{self._passes[task].where}.{split}: has changed since the dataset in {self._plan.folder} "
                        "was begun; use another root"
                    )

    def _make_tokenizers(self, files: Sequence[str]) -> dict[str, dataset_index.TokenizerRecord]:
        """Makes the tokenizer of each column, or the one that they share."""
        recipe, columns = self._recipe, self._recipe.columns
        groups = [columns] if self._tokenizing.shared else [(column,) for column in columns]
        ready: list[location.Location | None] = [_ready(text) for text in self._tokenizing.load]
        tasks = [
            (vocabularies.VocabularyTask(f"tokenizer-{group[0]}", group, tuple(files), file), 1)
            for group, file in zip(groups, ready or [None] * len(groups), strict=True)
        ]
        records = self._runner.fan_out(
            "prepare: tokenizers", "tokenizers", tasks, corpus_passes.doing(vocabularies.make_tokenizer, recipe)
        )
        made: dict[str, dataset_index.TokenizerRecord] = {}
        for task, _ in tasks:
            record = records[task.name]
            file = commit.FileRecord.from_json(record["files"][0], task.name)
            one = dataset_index.TokenizerRecord(file, record["fingerprint"], record["vocabulary_size"])
            made |= dict.fromkeys(task.columns, one)
            for column in task.columns:
                self._covered[column] = record["coverage"]
        return made

    def _statistics(self, recipe: sharding.Recipe, shards: Sequence[dataset_index.ShardRecord]) -> commit.FileRecord:
        """Counts words and their n-grams in the training shards; returns the file of what was found."""
        with_ngrams = word_statistics.chosen(shards)
        tasks = [
            (word_statistics.CountTask(f"describe-{number:05d}", shard, counted), shard.rows)
            for number, (shard, counted) in enumerate(zip(shards, with_ngrams, strict=True))
        ]
        records = self._runner.fan_out(
            "prepare: statistics", "lines", tasks, corpus_passes.doing(word_statistics.count, recipe)
        )
        files = tuple(corpus_passes.file(records[task.name]) for task, _ in tasks)
        tokens = sum(max(task.shard.tokens.values()) for task, _ in tasks if task.with_ngrams)
        covered = {column: self._covered[column] for column in recipe.columns}
        last = word_statistics.SummaryTask("statistics", files, tokens, covered)
        summaries = self._runner.fan_out(
            "prepare: statistics", "files", [(last, 1)], corpus_passes.doing(word_statistics.summarize, recipe)
        )
        return commit.FileRecord.from_json(summaries[last.name]["files"][0], last.name)

    def _index(
        self,
        records: Mapping[str, Sequence[sharding.Record]],
        tokenizers: dict[str, dataset_index.TokenizerRecord],
        hashes: Mapping[str, Mapping[str, str]],
    ) -> dataset_index.DatasetIndex:
        splits: dict[str, list[dataset_index.ShardRecord]] = {name: [] for name in dataset_index.SPLITS}
        drops: collections.Counter[str] = collections.Counter()
        repairs: collections.Counter[str] = collections.Counter()
        for task, found in records.items():
            for split, written in self._shards(task, found).items():
                splits[split] += written
            for record in found:
                drops.update(record["drops"])
                repairs.update(record.get("repairs", {}))  # a dataset begun by an older release lacks them
        settings, first = self._plan.settings, self._recipe.corpus
        return dataset_index.DatasetIndex(
            kind=first.kind,
            splits={split: tuple(found) for split, found in splits.items() if found},
            lines_read=sum(record["lines"] for found in records.values() for record in found),
            drops=dict(sorted(drops.items())),
            repairs=dict(sorted(repairs.items())),
            sources=tuple(
                {"split": _name(task, split), "files": files, "sha256": hashes[task][split]}
                for task, found in self._plan.files.items()
                for split, files in found.items()
            ),
            tokenizers=tokenizers,
            line_end=first.line_end,
            cleaning=first.cleaning,
            settings=settings,
            fingerprint=loading.fingerprint({"settings": settings, "sources": _flat(hashes)}),
        )

    def _shards(self, task: str, records: Sequence[sharding.Record]) -> dict[str, list[dataset_index.ShardRecord]]:
        """The shards of a corpus by split, checked to be all that its settings ask for."""
        corpus, where = self._corpora[task], self._passes[task].where
        splits: dict[str, list[dataset_index.ShardRecord]] = {name: [] for name in dataset_index.SPLITS}
        drops: collections.Counter[str] = collections.Counter()
        for record in records:
            drops.update(record["drops"])
            for split, shard in record["shards"].items():
                splits[split].append(dataset_index.ShardRecord(**shard))
        num_lines = sum(record["lines"] for record in records)
        for split, found in splits.items():
            wanted = split in self._plan.groups[task] or getattr(corpus.split, split)
            if wanted and not found:
                counts = ", ".join(f"{reason} {number}" for reason, number in sorted(drops.items())) or "none dropped"
                raise errors.DataError(
                    f"{where}: 0 usable lines for {split}, of {num_lines} read ({counts}); "
                    f"check {where}.filters and {where}.split"
                )
        sources.check_share(where, num_lines, drops["invalid_utf8"])
        return splits


def _ready(text: str) -> location.Location:
    """The file of a ready tokenizer; a wildcard stands for the hash in the name of one that `prepare` made."""
    found = location.Location.parse(text, "tokenizer.load").glob()
    if not found:
        raise errors.DataError(f"tokenizer.load: {text!a} matches no file; check the path")
    if len(found) > 1:
        raise errors.UsageError(f"tokenizer.load: {text!a} names {len(found)} files; name one")
    return found[0]


def _name(task: str, split: str) -> str:
    return f"{task}.{split}" if task else split


def _flat(hashes: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    return {_name(task, split): value for task, found in hashes.items() for split, value in found.items()}
