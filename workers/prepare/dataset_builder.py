"""Dataset builder: runs the passes over each corpus, then makes tokenizers, statistics and the index of the dataset.

`corpus_passes` has the passes over lines, done for one corpus after the other; all corpora share the tokenizers.
"""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core import errors
from core.config import corpus_settings, loading
from core.data.dataset import dataset_index, shard_table, word_counts
from core.data.text import scripts, sources, tables
from core.data.tokens import tokenizer_file
from core.storage import commit, location
from workers.fanout import executor as executors
from workers.fanout import progress_display
from workers.prepare import (
    corpus_passes,
    line_tasks,
    part_groups,
    pass_runner,
    tokenizer_fit,
    vocabularies,
    word_merge,
    word_statistics,
)


@dataclass(frozen=True)
class Plan:
    """The dataset to make, and its sources.

    Attributes:
        folder: of the dataset.
        settings: those that determine the dataset, as JSON.
        corpora: settings of the corpora by name; the name of a single one is empty.
        tokenizer: settings of the tokenizer.
        seed: of splits and samples.
        groups: files of the sources, by corpus and split.
        files: descriptions of these files for the index, by corpus and split.
    """

    folder: location.Location
    settings: dict[str, Any]
    corpora: Mapping[str, corpus_settings.CorpusConfig]
    tokenizer: corpus_settings.TokenizerConfig
    seed: int
    groups: dict[str, corpus_passes.Groups]
    files: dict[str, dict[str, list[list[dict[str, Any]]]]]


def content(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of the plan of a dataset's part store.

    The hashes of the text are not in it, because they are known only when the text has been read; they are committed
    as the record `sources`.
    """
    return {"settings": settings}


class DatasetBuilder:
    """Builds the dataset of a run; committed tasks are not repeated.

    Args:
        plan: the dataset to make.
        session: provides the executor, metrics and the stop request.
        reporter: shows progress.
        is_new: whether the plan of the dataset was just written, so that no task is committed yet.

    Attributes:
        warnings: after `run`, sentences on a tokenizer that does not fit the text.
        scripts: after `run`, by corpus and column the writing system of text without spaces, else None.
    """

    def __init__(
        self, plan: Plan, session: executors.Session, reporter: progress_display.Reporter, is_new: bool = False
    ) -> None:
        self._plan = plan
        self._store = commit.PartStore(plan.folder, content(plan.settings))
        self._runner = pass_runner.PassRunner(self._store, session, reporter, is_new)
        self._coverage: dict[str, list[dict[str, float]]] = {}
        self.warnings: list[str] = []
        self.scripts: dict[str, Mapping[str, scripts.Script | None]] = {}
        target_tokens = {
            name: corpus.target_token
            for name, corpus in plan.corpora.items()
            if isinstance(corpus, corpus_settings.WeightedCorpusConfig) and corpus.target_token is not None
        }
        recipes = {
            name: line_tasks.Recipe(
                corpus=corpus,
                tokenizer=plan.tokenizer,
                seed=plan.seed,
                dataset=plan.folder,
                plan=self._store.plan,
                corpus_name=name,
                corpus_number=number,
                target_token=target_tokens.get(name),
                target_tokens=tuple(dict.fromkeys(target_tokens.values())),
            )
            for number, (name, corpus) in enumerate(plan.corpora.items())
        }
        # The schema requires all corpora to agree on what the passes over the whole dataset read from the recipe.
        self._recipe = next(iter(recipes.values()))
        self._passes = {
            name: corpus_passes.CorpusPasses(plan.groups[name], recipe, self._runner, len(recipes))
            for name, recipe in recipes.items()
        }

    def run(self, settings: corpus_settings.ShardingConfig) -> dataset_index.DatasetIndex:
        """Runs all passes and returns the index to write."""
        # The text is read even if all parts are committed: only so is a changed source noticed.
        scanned = self._scan(settings)
        hashes = {name: corpus.hashes for name, corpus in scanned.items()}
        self._check_unchanged(hashes)
        # All corpora before the tokenizers, which are made from the words of all.
        num_partitions = self._num_word_partitions(scanned.values())
        plans = {name: corpus.plan(scanned[name], num_partitions) for name, corpus in self._passes.items()}
        vocabulary_files = [file for plan in plans.values() for file in plan.vocabulary_files]
        tokenizers = self._make_tokenizers(vocabulary_files, num_partitions)
        files = {column: record.file for column, record in tokenizers.items()}
        records = {name: corpus.encode(plans[name], files) for name, corpus in self._passes.items()}
        index = self._index(records, tokenizers, hashes)
        for name, corpus in self._passes.items():
            self.warnings += tokenizer_fit.warnings(
                self._plan.tokenizer, corpus.setting, corpus.scripts, records[name], self._recipe.num_eos
            )
            self.scripts[name] = corpus.scripts
        tokenizer_fit.log_sizes(self._plan.tokenizer, tokenizers)
        return self._read_shards(index, files, settings)

    def hash_sources(self, settings: corpus_settings.ShardingConfig) -> dict[str, dict[str, str]]:
        """Returns the current hash of the text of each source, by corpus and split, as `run` puts it into the index."""
        return {name: corpus.hashes for name, corpus in self._scan(settings).items()}

    def _scan(self, settings: corpus_settings.ShardingConfig) -> dict[str, corpus_passes.ScannedSources]:
        return {name: corpus.scan(settings.part_size_bytes) for name, corpus in self._passes.items()}

    def _check_unchanged(self, hashes: Mapping[str, Mapping[str, str]]) -> None:
        """Checks that committed parts were made from the same text.

        Raises:
            LockedError: a source has changed since the dataset was begun.
        """
        # The first start commits the hashes; later ones get those back, whatever they found.
        committed = self._store.commit("sources", {"sha256": _flatten(hashes)})["sha256"]
        for name, hashes_of_corpus in hashes.items():
            for split, sha256 in hashes_of_corpus.items():
                if committed[_source_name(name, split)] != sha256:
                    raise errors.LockedError(
                        f"{self._passes[name].setting}.{split}: has changed since the dataset in {self._plan.folder} "
                        "was begun; use another root"
                    )

    def _num_word_partitions(self, scanned: Iterable[corpus_passes.ScannedSources]) -> int:
        """Returns the number of partitions of the words of all corpora."""
        if self._plan.tokenizer.load or self._plan.tokenizer.kind != "word":
            return 1
        groups = itertools.chain.from_iterable(corpus.counts["train"] for corpus in scanned)
        blocks = itertools.chain.from_iterable(itertools.chain.from_iterable(groups))
        return word_counts.num_partitions(sum(block.stop - block.start for block in blocks))

    def _make_tokenizers(
        self, files: Sequence[str], num_word_partitions: int
    ) -> dict[str, dataset_index.TokenizerRecord]:
        """Makes the tokenizer of each column, or the one that they share."""
        columns = self._recipe.columns
        kept: dict[str, word_merge.Kept] = {}
        if num_word_partitions > 1:
            files, kept = word_merge.merge(files, num_word_partitions, self._run_pass)
        # A task for each tokenizer: those of source and target are trained at the same time.
        groups = [columns] if self._plan.tokenizer.shared else [(column,) for column in columns]
        pretrained: list[location.Location | None] = [tokenizer_file.find(text) for text in self._plan.tokenizer.load]
        tasks = [
            vocabularies.VocabularyTask(f"tokenizer-{group[0]}", group, tuple(files), file, kept.get(group[0], ()))
            for group, file in zip(groups, pretrained or [None] * len(groups), strict=True)
        ]
        records = self._run_pass("tokenizers", "tokenizers", tasks, vocabularies.make_tokenizer)
        tokenizers: dict[str, dataset_index.TokenizerRecord] = {}
        for task in tasks:
            record = records[task.name]
            file = commit.FileRecord.from_json(record["files"][0], task.name)
            tokenizer = dataset_index.TokenizerRecord(file, record["fingerprint"], record["vocabulary_size"])
            # From the committed record: a tokenizer that training does not reproduce is made once.
            tokenizers |= dict.fromkeys(task.columns, tokenizer)
            coverage: list[dict[str, float]] = record["coverage"]
            self._coverage |= dict.fromkeys(task.columns, coverage)
        return tokenizers

    def _run_pass(
        self,
        action: str,
        unit: str,
        tasks: Sequence[pass_runner.PassTask],
        function: line_tasks.Function,
    ) -> pass_runner.Records:
        """Runs a pass over the words of all corpora."""
        return self._runner.fan_out(
            f"prepare: {action}", unit, tasks, corpus_passes.worker_factory(function, self._recipe)
        )

    def _read_shards(
        self,
        index: dataset_index.DatasetIndex,
        tokenizers: Mapping[str, commit.FileRecord],
        settings: corpus_settings.ShardingConfig,
    ) -> dataset_index.DatasetIndex:
        """Reads the shards once more, and returns the index with the lengths of pairs and the statistics file."""
        recipe = dataclasses.replace(self._recipe, tokenizers=tokenizers)
        tasks = self._shards_tasks(index, settings)
        read_shards = functools.partial(word_statistics.make_reader, recipe)
        all_tasks = [task for tasks_of_split in tasks.values() for task, _ in tasks_of_split]
        records = self._runner.fan_out("prepare: read shards", "lines", all_tasks, read_shards)
        lengths = {
            split: tuple(
                dataset_index.LengthsRecord(
                    commit.FileRecord.from_json(records[task.name]["lengths"], task.name), task.weight, corpus
                )
                for task, corpus in tasks_of_split
                if task.lengths
            )
            for split, tasks_of_split in tasks.items()
        }
        index = dataclasses.replace(index, lengths={split: files for split, files in lengths.items() if files})
        if not settings.statistics:
            return index
        counted = [task for task in all_tasks if task.counts_ngrams]
        files = tuple(str(records[task.name]["counts"]["name"]) for task in counted)
        coverage = {column: self._coverage[column] for column in recipe.columns}
        num_tokens = sum(task.ngram_tokens for task in counted)
        summary = word_statistics.SummaryTask("statistics", files, num_tokens, coverage)
        summarize = corpus_passes.worker_factory(word_statistics.summarize, recipe)
        summaries = self._runner.fan_out("prepare: statistics", "files", [summary], summarize)
        file = commit.FileRecord.from_json(summaries[summary.name]["files"][0], summary.name)
        return dataclasses.replace(index, statistics=file)

    def _shards_tasks(
        self, index: dataset_index.DatasetIndex, settings: corpus_settings.ShardingConfig
    ) -> dict[str, list[tuple[word_statistics.ShardsTask, str]]]:
        """Returns by split the tasks that read its shards, each with the name of its corpus."""
        tasks: dict[str, list[tuple[word_statistics.ShardsTask, str]]] = {}
        for split, table in index.splits.items():
            # Words are those of the training text, and pairs are planned by length in every split.
            is_counted = settings.statistics and split == "train"
            if not is_counted and index.kind != "pairs":
                continue
            ngrams = iter(word_statistics.choose_ngram_shards(table))
            tasks[split] = []
            for corpus in table.named_corpora:
                prefix = f"{corpus}." if corpus else ""
                for number, group in enumerate(
                    part_groups.of_shards(table.of_corpus(corpus), settings.part_size_bytes)
                ):
                    flags = tuple(itertools.islice(ngrams, len(group)))
                    stem = f"{split}/{prefix}lengths-{number:05d}" if index.kind == "pairs" else ""
                    name = f"shards-{prefix}{split}-{number:05d}"
                    task = word_statistics.ShardsTask(name, group, flags if is_counted else (), stem)
                    tasks[split].append((task, corpus))
        return tasks

    def _index(
        self,
        records: Mapping[str, Sequence[line_tasks.Record]],
        tokenizers: dict[str, dataset_index.TokenizerRecord],
        hashes: Mapping[str, Mapping[str, str]],
    ) -> dataset_index.DatasetIndex:
        splits: dict[str, list[shard_table.ShardRecord]] = {name: [] for name in dataset_index.SPLITS}
        drops: collections.Counter[str] = collections.Counter()
        repairs: collections.Counter[str] = collections.Counter()
        # In the order of settings and parts, not of completion: equal datasets have equal indexes.
        for name, records_of_corpus in records.items():
            for split, shards in self._shards(name, records_of_corpus).items():
                splits[split] += shards
            for record in records_of_corpus:
                drops.update(record["drops"])
                repairs.update(record.get("repairs", {}))  # absent from datasets that an older release began
        settings, first = self._plan.settings, self._recipe.corpus
        return dataset_index.DatasetIndex(
            kind=first.kind,
            splits={
                split: shard_table.ShardTable.of(shards, self._recipe.columns)
                for split, shards in splits.items()
                if shards
            },
            lines_read=sum(record["lines"] for records_of_corpus in records.values() for record in records_of_corpus),
            drops=dict(sorted(drops.items())),
            repairs=dict(sorted(repairs.items())),
            sources=tuple(
                {"split": _source_name(name, split), "files": files, "sha256": hashes[name][split]}
                for name, files_of_corpus in self._plan.files.items()
                for split, files in files_of_corpus.items()
            ),
            tokenizers=tokenizers,
            line_end=first.line_end,
            cleaning=first.cleaning,
            settings=settings,
            fingerprint=loading.fingerprint({"settings": settings, "sources": _flatten(hashes)}),
        )

    def _shards(self, name: str, records: Sequence[line_tasks.Record]) -> dict[str, list[shard_table.ShardRecord]]:
        """Returns the shards of a corpus by split.

        Raises:
            DataError: a split that the settings ask for has no line or no token to score, or too many lines are bad.
        """
        corpus, setting = self._plan.corpora[name], self._passes[name].setting
        splits: dict[str, list[shard_table.ShardRecord]] = {name: [] for name in dataset_index.SPLITS}
        drops: collections.Counter[str] = collections.Counter()
        for record in records:
            drops.update(record["drops"])
            for split, shard in record["shards"].items():
                splits[split].append(shard_table.ShardRecord.from_commit(shard))
        num_lines = sum(record["lines"] for record in records)
        for split, shards in splits.items():
            # A share may round to no line, and a split without lines would fail hours later, in training.
            is_requested = split in self._plan.groups[name] or getattr(corpus.split, split)
            if is_requested and not shards:
                counts = ", ".join(f"{reason} {number}" for reason, number in sorted(drops.items())) or "none dropped"
                raise errors.DataError(
                    f"{setting}: 0 usable lines for {split}, of {num_lines} read ({counts}); "
                    f"check {setting}.filters and {setting}.split"
                )
            # A validation needs a token, and one before it; the scoring of test lines begins after an <eos>.
            num_tokens = sum(shard.tokens.get("text", 0) for shard in shards)
            if is_requested and corpus.kind == "text" and num_tokens < {"train": 1, "valid": 2, "test": 1}[split]:
                num_rows = sum(shard.rows for shard in shards)
                raise errors.DataError(
                    f"{setting}.{split}: has no token to score, in {num_rows} {'line' if num_rows == 1 else 'lines'}; "
                    f"use more text for {split}, or none"
                )
        # Of all lines: at the start only the beginning of each file was checked.
        for reason in tables.REASONS:
            sources.check_share(setting, num_lines, drops[reason], reason)
        return splits


def _source_name(corpus_name: str, split: str) -> str:
    """Returns the name of a source in the index."""
    return f"{corpus_name}.{split}" if corpus_name else split


def _flatten(hashes: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    return {
        _source_name(name, split): sha256
        for name, hashes_of_corpus in hashes.items()
        for split, sha256 in hashes_of_corpus.items()
    }
