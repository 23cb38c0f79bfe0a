"""The passes that make a dataset: each is a fan-out of one kind of task over parts of lines.

A task that is committed is not done again, so a run that was stopped goes on where it was. The driver holds a small
record of each part, never lines.
"""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core import errors
from core.config import corpus_settings, loading
from core.data import corpus, dataset_index, duplicates, selection, sources
from core.storage import commit, location
from workers import describing, fanout, passes, sharding


@dataclass(frozen=True)
class Plan:
    """What is to be made, and of what.

    Attributes:
        folder: of the dataset.
        settings: those that decide the dataset, as JSON.
        groups: by source, its files.
        files: by source, what the index says of them.
    """

    folder: location.Location
    settings: dict[str, Any]
    groups: dict[str, list[tuple[sources.File, ...]]]
    files: dict[str, list[list[dict[str, Any]]]]


def content(settings: dict[str, Any]) -> dict[str, Any]:
    """What the parts of a dataset are committed for; of which text they are is noted once it was read."""
    return {"settings": settings}


class Passes:
    """The passes of one run, in order; each takes what the one before returned."""

    def __init__(
        self,
        planned: Plan,
        settings: corpus_settings.CorpusConfig,
        tokenizing: corpus_settings.TokenizerConfig,
        seed: int,
        session: passes.Session,
        reporter: passes.Reporter,
    ) -> None:
        self._plan = planned
        self._corpus = settings
        self._tokenizing = tokenizing
        self._store = commit.PartStore(planned.folder, content(planned.settings))
        self._runner = passes.Runner(self._store, session, reporter)
        self._covered: dict[str, list[dict[str, float]]] = {}
        self._recipe = sharding.Recipe(settings, tokenizing, seed, planned.folder, self._store.plan)

    def run(self, settings: corpus_settings.ShardingConfig) -> dataset_index.DatasetIndex:
        """Does all passes and returns the index that is to be written."""
        groups = self._stage()
        counts = self._count_blocks(groups, settings.part_size_bytes)
        hashes = _hashes(counts)
        self._check_unchanged(hashes)
        parts = {name: self._cut(name, groups[name], counts[name]) for name in groups}
        used = dict(parts)
        limit = self._corpus.limit
        if limit.lines is not None:
            used["train"] = corpus.take(parts["train"], limit.lines)
        counted = parts["train"] if limit.vocabulary == "before" else used["train"]
        for name, found in used.items():
            if not found:
                raise errors.DataError(f"corpus.{name}: 0 usable lines, its files are empty; name files with text")
        recipe = dataclasses.replace(
            self._recipe,
            splitting={
                name: selection.splitting(name, self._corpus, self._recipe.seed, _num_lines(found))
                for name, found in used.items()
            },
            num_parts={name: len(found) for name, found in {**used, "train": counted}.items()},
        )
        if self._corpus.filters.duplicates == "drop":
            recipe = self._find_repeats(recipe, {**used, "train": counted})
        rooms, files = self._count(recipe, parts["train"], used["train"], counted)
        tokenizers = self._make_tokenizers(recipe, files)
        recipe = dataclasses.replace(recipe, tokenizers={name: made.file for name, made in tokenizers.items()})
        index = self._index(self._encode(recipe, used, rooms), tokenizers, hashes)
        if settings.statistics:
            index = dataclasses.replace(index, statistics=self._statistics(recipe, index.splits["train"]))
        return index

    def read_again(self, settings: corpus_settings.ShardingConfig) -> dict[str, str]:
        """Returns the hash of the text of each source as it is now: what `run` would put into the index."""
        return _hashes(self._count_blocks(self._stage(), settings.part_size_bytes))

    def _stage(self) -> dict[str, list[corpus.Group]]:
        """Makes plain copies of compressed and remote files, and looks whether all are text."""
        files = dict.fromkeys(file for groups in self._plan.groups.values() for group in groups for file in group)
        tasks: list[tuple[sharding.StageTask, int]] = []
        for file in files:
            sha256 = sources.expected_sha256(file, self._corpus.sha256)
            if sources.needs_staging(file, sha256):
                # The name says which file it is: a part that is committed is not done for another one.
                described = loading.fingerprint(
                    [file.url, *file.columns, sha256, None if sha256 else file.place.size_bytes()]
                )
                tasks.append((sharding.StageTask(f"stage-{described[:16]}", file, sha256), 1))
        records = self._runner.fan_out("prepare: decompress", "files", tasks, _doing(sharding.stage, self._recipe))
        plain = {task.file: location.Location(records[task.name]["url"]) for task, _ in tasks}
        for file in files:
            sources.check(plain.get(file, file.place))
        return {
            name: [tuple(plain.get(file, file.place) for file in group) for group in groups]
            for name, groups in self._plan.groups.items()
        }

    def _count_blocks(
        self, groups: Mapping[str, Sequence[corpus.Group]], block_bytes: int
    ) -> dict[str, list[list[list[corpus.BlockCount]]]]:
        """Counts the lines of all blocks: by source, group and file."""
        tasks: list[fanout.Task] = []
        counts: dict[str, list[list[list[corpus.BlockCount]]]] = {
            name: [[[] for _ in group] for group in found] for name, found in groups.items()
        }
        for name, found in groups.items():
            for number, group in enumerate(found):
                for side, file in enumerate(group):
                    blocks = corpus.blocks(file.size_bytes(), block_bytes)
                    tasks += [
                        fanout.Task(
                            f"{name}-{number}-{side}-{start}", sharding.BlockTask(file, start, stop), stop - start
                        )
                        for start, stop in blocks
                    ]

        def on_done(task: fanout.Task, count: corpus.BlockCount) -> None:
            name, number, side, _ = task.name.split("-")
            counts[name][int(number)][int(side)].append(count)

        self._runner.execute(
            "prepare: count lines", "bytes", tasks, _doing(sharding.count_block, self._recipe), on_done
        )
        for file_counts in (file for found in counts.values() for group in found for file in group):
            file_counts.sort()
        return counts

    def _check_unchanged(self, hashes: Mapping[str, str]) -> None:
        """Makes sure that the parts that are done were made from the same text."""
        before = self._store.commit("sources", {"sha256": hashes})["sha256"]
        for name in hashes:
            if before[name] != hashes[name]:
                raise errors.LockedError(
                    f"corpus.{name}: has changed since the dataset in {self._plan.folder} was begun; use another root"
                )

    def _cut(
        self, name: str, groups: Sequence[corpus.Group], counts: Sequence[Sequence[Sequence[corpus.BlockCount]]]
    ) -> list[corpus.Part]:
        source: corpus_settings.SourceConfig = getattr(self._corpus, name)
        return corpus.cut(groups, counts, source.places, self._corpus.max_line_bytes)

    def _find_repeats(self, recipe: sharding.Recipe, parts: Mapping[str, Sequence[corpus.Part]]) -> sharding.Recipe:
        """Finds the repeated lines of each source, by hashes on disk."""
        partitions = {name: duplicates.num_partitions(_num_lines(found)) for name, found in parts.items()}
        recipe = dataclasses.replace(recipe, num_partitions=partitions)
        tasks = [task for name, found in parts.items() for task in _part_tasks("hash", name, found)]
        records = self._runner.fan_out("prepare: hash lines", "lines", tasks, _doing(sharding.hash_lines, recipe))
        searches: list[tuple[Any, int]] = []
        for name, found in parts.items():
            files = tuple(_file(records[task.name]) for task, _ in _part_tasks("hash", name, found))
            starts = tuple(part.first_line for part in found)
            for number in range(partitions[name]):
                task = sharding.RepeatsTask(f"repeats-{name}-{number:05d}", number, partitions[name], files, starts)
                searches.append((task, 1))
        repeats = self._runner.fan_out(
            "prepare: find duplicates", "partitions", searches, _doing(sharding.find_repeats, recipe)
        )
        names = {
            name: tuple(_file(repeats[f"repeats-{name}-{number:05d}"]) for number in range(partitions[name]))
            for name in parts
        }
        return dataclasses.replace(recipe, repeats=names)

    def _count(
        self,
        recipe: sharding.Recipe,
        everything: Sequence[corpus.Part],
        used: Sequence[corpus.Part],
        counted: Sequence[corpus.Part],
    ) -> tuple[list[int | None], list[str]]:
        """Counts the words of the training lines, or takes a sample of them.

        Returns:
            How many tokens each used part may give to the training stream (None: all), and the files to learn from.
        """
        if self._tokenizing.load:
            return [None] * len(used), []
        if not self._tokenizing.counts_words:
            line_bytes = _num_bytes(everything) / _num_lines(everything)
            share = self._tokenizing.sample_bytes / (line_bytes * _num_lines(counted))
            recipe = dataclasses.replace(recipe, sample_share=min(1.0, share))
            what, title, function = "sample", "prepare: sample lines", sharding.sample_lines
        else:
            what, title, function = "count", "prepare: count words", sharding.count_words
        tasks = _part_tasks(what, "train", counted)
        records = self._runner.fan_out(title, "lines", tasks, _doing(function, recipe))
        ordered = [records[task.name] for task, _ in tasks]
        if not sum(record["lines"] for record in ordered):
            raise errors.DataError(
                f"corpus.train: 0 usable lines of {_num_lines(counted)}; check corpus.filters and corpus.split"
            )
        files = [_file(record) for record in ordered]
        limit = self._corpus.limit
        if limit.tokens is None:
            return [None] * len(used), files
        before = itertools.accumulate((record["tokens"] for record in ordered), initial=0)
        rooms: list[int | None] = [max(0, limit.tokens - tokens) for tokens in itertools.islice(before, len(used))]
        if limit.vocabulary == "after":
            recounted = [
                (dataclasses.replace(task, name=f"re{task.name}", max_tokens=room), weight)
                for (task, weight), room in zip(tasks, rooms, strict=True)
                if room
            ]
            records = self._runner.fan_out(title, "lines", recounted, _doing(sharding.count_words, recipe))
            files = [_file(records[task.name]) for task, _ in recounted]
        return rooms, files

    def _make_tokenizers(
        self, recipe: sharding.Recipe, files: Sequence[str]
    ) -> dict[str, dataset_index.TokenizerRecord]:
        """Makes the tokenizer of each column, or the one that they share."""
        columns = recipe.columns
        groups = [columns] if self._tokenizing.shared else [(column,) for column in columns]
        ready: list[location.Location | None] = [
            location.Location.parse(text, "tokenizer.load") for text in self._tokenizing.load
        ]
        tasks = [
            (sharding.VocabularyTask(f"tokenizer-{group[0]}", group, tuple(files), file), 1)
            for group, file in zip(groups, ready or [None] * len(groups), strict=True)
        ]
        records = self._runner.fan_out(
            "prepare: tokenizers", "tokenizers", tasks, _doing(sharding.make_tokenizer, recipe)
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

    def _encode(
        self, recipe: sharding.Recipe, used: Mapping[str, Sequence[corpus.Part]], rooms: Sequence[int | None]
    ) -> list[sharding.Record]:
        """Writes the shards; returns the records of all parts in order, those that need no work included."""
        tasks: list[tuple[Any, int]] = []
        beyond: passes.Records = {}
        for name, found in used.items():
            for task, weight in _part_tasks("encode", name, found):
                room = rooms[task.number] if name == "train" else None
                if room == 0 and recipe.splitting[name].by == "none":
                    beyond[task.name] = {"shards": {}, "lines": weight, "drops": {"limit": weight}}
                else:
                    tasks.append((dataclasses.replace(task, max_tokens=room), weight))
        factory = functools.partial(sharding.encoder, recipe)
        records = beyond | self._runner.fan_out("prepare: encode", "lines", tasks, factory)
        return [records[task.name] for name, found in used.items() for task, _ in _part_tasks("encode", name, found)]

    def _statistics(self, recipe: sharding.Recipe, shards: Sequence[dataset_index.ShardRecord]) -> commit.FileRecord:
        """Counts words and their n-grams in the training shards; returns the file of what was found."""
        with_ngrams = describing.chosen(shards)
        tasks = [
            (describing.CountTask(f"describe-{number:05d}", shard, counted), shard.rows)
            for number, (shard, counted) in enumerate(zip(shards, with_ngrams, strict=True))
        ]
        records = self._runner.fan_out("prepare: statistics", "lines", tasks, _doing(describing.count, recipe))
        files = tuple(_file(records[task.name]) for task, _ in tasks)
        tokens = sum(max(task.shard.tokens.values()) for task, _ in tasks if task.with_ngrams)
        covered = {column: self._covered[column] for column in recipe.columns}
        last = describing.SummaryTask("statistics", files, tokens, covered)
        summaries = self._runner.fan_out(
            "prepare: statistics", "files", [(last, 1)], _doing(describing.summarize, recipe)
        )
        return commit.FileRecord.from_json(summaries[last.name]["files"][0], last.name)

    def _index(
        self,
        records: Sequence[sharding.Record],
        tokenizers: dict[str, dataset_index.TokenizerRecord],
        hashes: Mapping[str, str],
    ) -> dataset_index.DatasetIndex:
        splits: dict[str, list[dataset_index.ShardRecord]] = {name: [] for name in dataset_index.SPLITS}
        drops: collections.Counter[str] = collections.Counter()
        for record in records:
            drops.update(record["drops"])
            for split, shard in record["shards"].items():
                splits[split].append(dataset_index.ShardRecord(**shard))
        num_lines = sum(record["lines"] for record in records)
        for split, found in splits.items():
            wanted = split in self._plan.groups or getattr(self._corpus.split, split)
            if wanted and not found:
                counts = ", ".join(f"{reason} {number}" for reason, number in sorted(drops.items())) or "none dropped"
                raise errors.DataError(
                    f"corpus: 0 usable lines for {split}, of {num_lines} read ({counts}); "
                    "check corpus.filters and corpus.split"
                )
        sources.check_share("corpus", num_lines, drops["invalid_utf8"])
        settings = self._plan.settings
        return dataset_index.DatasetIndex(
            kind=self._corpus.kind,
            splits={split: tuple(found) for split, found in splits.items() if found},
            lines_read=num_lines,
            drops=dict(sorted(drops.items())),
            sources=tuple(
                {"split": name, "files": files, "sha256": hashes[name]} for name, files in self._plan.files.items()
            ),
            tokenizers=tokenizers,
            line_end=self._corpus.line_end,
            cleaning=self._corpus.cleaning,
            settings=settings,
            fingerprint=loading.fingerprint({"settings": settings, "sources": hashes}),
        )


def _hashes(counts: Mapping[str, Sequence[Sequence[Sequence[corpus.BlockCount]]]]) -> dict[str, str]:
    """Returns a hash of the text of each source, and of how it lies in files."""
    return {
        name: loading.fingerprint(
            [[[(block.start, block.sha256) for block in file] for file in group] for group in groups]
        )
        for name, groups in counts.items()
    }


def _doing(function: Callable[[sharding.Recipe, Any], Any], recipe: sharding.Recipe) -> passes.Factory:
    return functools.partial(sharding.worker, function, recipe)


def _part_tasks(what: str, source: str, parts: Sequence[corpus.Part]) -> list[tuple[sharding.PartTask, int]]:
    return [
        (sharding.PartTask(f"{what}-{source}-{number:05d}", source, number, part), part.num_lines)
        for number, part in enumerate(parts)
    ]


def _file(record: sharding.Record) -> str:
    return str(record["files"][0]["name"])


def _num_lines(parts: Sequence[corpus.Part]) -> int:
    return sum(part.num_lines for part in parts)


def _num_bytes(parts: Sequence[corpus.Part]) -> int:
    """Returns the bytes of the larger side of all files."""
    sizes = {part.files: part.sizes_bytes for part in parts}
    return max(map(sum, zip(*sizes.values(), strict=True)))
