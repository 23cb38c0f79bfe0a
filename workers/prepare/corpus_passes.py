"""The passes over one corpus of a dataset, from its files to its shards.

A task that is committed is not done again, so a run that was stopped goes on where it was. The driver holds a small
record of each part, never lines.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from core import errors
from core.config import corpus_settings, loading
from core.data.dataset import duplicates
from core.data.text import corpus, selection, sources
from core.storage import commit, location
from workers.fanout import executor as executors
from workers.prepare import passes, sharding, vocabularies

Groups = dict[str, list[tuple[sources.File, ...]]]  # by split, the files of its source


class Read(NamedTuple):
    """By split, its files as plain text, the lines of all their blocks, and a hash of it all."""

    groups: dict[str, list[corpus.Group]]
    counts: dict[str, list[list[list[corpus.BlockCount]]]]
    hashes: dict[str, str]


class Counted(NamedTuple):
    """What the shards are made with.

    Attributes:
        recipe: with how lines are shared out, and which of them repeat earlier ones.
        used: by split, the parts of its source.
        rooms: how many tokens each part of the training source may give (None: all).
        files: what tokenizers learn from.
    """

    recipe: sharding.Recipe
    used: dict[str, list[corpus.Part]]
    rooms: list[int | None]
    files: list[str]


class CorpusPasses:
    """The passes over one corpus, in order; each takes what the one before returned."""

    def __init__(self, groups: Groups, recipe: sharding.Recipe, runner: passes.Runner, num_corpora: int) -> None:
        self._groups, self._recipe, self._runner = groups, recipe, runner
        self._corpus, self._tokenizing = recipe.corpus, recipe.tokenizer
        self._sample_bytes = self._tokenizing.sample_bytes // num_corpora

    @property
    def where(self) -> str:
        """The name of its settings."""
        return f"corpora.{self._recipe.task}" if self._recipe.task else "corpus"

    def read(self, block_bytes: int) -> Read:
        """Looks at all files: makes plain copies where they are needed, and counts lines."""
        groups = self._stage()
        counts = self._count_blocks(groups, block_bytes)
        return Read(groups, counts, _hashes(counts))

    def count(self, read: Read) -> Counted:
        """Cuts the sources into parts, finds repeated lines, and counts what tokenizers learn from.

        Raises:
            DataError: a source has no usable line.
        """
        parts = {name: self._cut(name, read.groups[name], read.counts[name]) for name in read.groups}
        used = dict(parts)
        limit = self._corpus.limit
        if limit.lines is not None:
            used["train"] = corpus.take(parts["train"], limit.lines)
        counted = parts["train"] if limit.vocabulary == "before" else used["train"]
        for name, found in used.items():
            if not found:
                raise errors.DataError(
                    f"{self.where}.{name}: 0 usable lines, its files are empty; name files with text"
                )
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
        rooms, files = self._count_words(recipe, parts["train"], used["train"], counted)
        return Counted(recipe, used, rooms, files)

    def encode(self, counted: Counted, tokenizers: Mapping[str, commit.FileRecord]) -> list[sharding.Record]:
        """Writes the shards; returns the records of all parts in order, those that need no work included."""
        recipe = dataclasses.replace(counted.recipe, tokenizers=tokenizers)
        tasks: list[tuple[Any, int]] = []
        beyond: passes.Records = {}
        every = [part for name, found in counted.used.items() for part in self._part_tasks("encode", name, found)]
        for task, weight in every:
            room = counted.rooms[task.number] if task.source == "train" else None
            if room == 0 and recipe.splitting[task.source].by == "none":
                beyond[task.name] = {"shards": {}, "lines": weight, "drops": {"limit": weight}, "repairs": {}}
            else:
                tasks.append((dataclasses.replace(task, max_tokens=room), weight))
        records = beyond | self._fan_out("encode", "lines", tasks, functools.partial(sharding.encoder, recipe))
        return [records[task.name] for task, _ in every]

    def _stage(self) -> dict[str, list[corpus.Group]]:
        """Makes plain copies of compressed and remote files, and looks whether all are text."""
        files = dict.fromkeys(file for groups in self._groups.values() for group in groups for file in group)
        tasks: list[tuple[sharding.StageTask, int]] = []
        for file in files:
            sha256 = sources.expected_sha256(file, self._corpus.sha256)
            if sources.needs_staging(file, sha256):
                # The name says which file it is: a part that is committed is not done for another one.
                described = loading.fingerprint(
                    [file.url, *file.columns, sha256, None if sha256 else file.place.size_bytes()]
                )
                tasks.append((sharding.StageTask(f"stage-{described[:16]}", file, sha256), 1))
        records = self._fan_out("decompress", "files", tasks, doing(sharding.stage, self._recipe))
        plain = {task.file: location.Location(records[task.name]["url"]) for task, _ in tasks}
        for file in files:
            sources.check(plain.get(file, file.place))
        return {
            name: [tuple(plain.get(file, file.place) for file in group) for group in groups]
            for name, groups in self._groups.items()
        }

    def _count_blocks(
        self, groups: Mapping[str, Sequence[corpus.Group]], block_bytes: int
    ) -> dict[str, list[list[list[corpus.BlockCount]]]]:
        """Counts the lines of all blocks: by source, group and file."""
        tasks: list[executors.Task] = []
        counts: dict[str, list[list[list[corpus.BlockCount]]]] = {
            name: [[[] for _ in group] for group in found] for name, found in groups.items()
        }
        for name, found in groups.items():
            for number, group in enumerate(found):
                for side, file in enumerate(group):
                    blocks = corpus.blocks(file.size_bytes(), block_bytes)
                    tasks += [
                        executors.Task(
                            f"{name}-{number}-{side}-{start}", sharding.BlockTask(file, start, stop), stop - start
                        )
                        for start, stop in blocks
                    ]

        def on_done(task: executors.Task, count: corpus.BlockCount) -> None:
            name, number, side, _ = task.name.split("-")
            counts[name][int(number)][int(side)].append(count)

        self._runner.execute(
            self._title("count lines"), "bytes", tasks, doing(sharding.count_block, self._recipe), on_done
        )
        for file_counts in (file for found in counts.values() for group in found for file in group):
            file_counts.sort()
        return counts

    def _cut(
        self, name: str, groups: Sequence[corpus.Group], counts: Sequence[Sequence[Sequence[corpus.BlockCount]]]
    ) -> list[corpus.Part]:
        source: corpus_settings.SourceConfig = getattr(self._corpus, name)
        return corpus.cut_by_blocks(groups, counts, source.places, self._corpus.max_line_bytes)

    def _find_repeats(self, recipe: sharding.Recipe, parts: Mapping[str, Sequence[corpus.Part]]) -> sharding.Recipe:
        """Finds the repeated lines of each source, by hashes on disk."""
        partitions = {name: duplicates.num_partitions(_num_lines(found)) for name, found in parts.items()}
        recipe = dataclasses.replace(recipe, num_partitions=partitions)
        tasks = [task for name, found in parts.items() for task in self._part_tasks("hash", name, found)]
        records = self._fan_out("hash lines", "lines", tasks, doing(sharding.hash_lines, recipe))
        searches: list[tuple[Any, int]] = []
        for name, found in parts.items():
            files = tuple(file(records[task.name]) for task, _ in self._part_tasks("hash", name, found))
            starts = tuple(part.first_line for part in found)
            for number in range(partitions[name]):
                task = sharding.RepeatsTask(
                    f"repeats-{recipe.prefix}{name}-{number:05d}", number, partitions[name], files, starts
                )
                searches.append((task, 1))
        repeats = self._fan_out("find duplicates", "partitions", searches, doing(sharding.find_repeats, recipe))
        names = {
            name: tuple(
                file(repeats[f"repeats-{recipe.prefix}{name}-{number:05d}"]) for number in range(partitions[name])
            )
            for name in parts
        }
        return dataclasses.replace(recipe, repeats=names)

    def _count_words(
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
            share = self._sample_bytes / (line_bytes * _num_lines(counted))
            recipe = dataclasses.replace(recipe, sample_share=min(1.0, share))
            what, title, function = "sample", "sample lines", vocabularies.sample_lines
        else:
            what, title, function = "count", "count words", vocabularies.count_words
        tasks = self._part_tasks(what, "train", counted)
        records = self._fan_out(title, "lines", tasks, doing(function, recipe))
        ordered = [records[task.name] for task, _ in tasks]
        if not sum(record["lines"] for record in ordered):
            raise errors.DataError(
                f"{self.where}.train: 0 usable lines of {_num_lines(counted)}; "
                f"check {self.where}.filters and {self.where}.split"
            )
        files = [file(record) for record in ordered]
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
            records = self._fan_out(title, "lines", recounted, doing(vocabularies.count_words, recipe))
            files = [file(records[task.name]) for task, _ in recounted]
        return rooms, files

    def _fan_out(
        self, what: str, unit: str, tasks: Sequence[tuple[Any, int]], factory: passes.Factory
    ) -> passes.Records:
        return self._runner.fan_out(self._title(what), unit, tasks, factory)

    def _title(self, what: str) -> str:
        return f"prepare: {what} of {self._recipe.task}" if self._recipe.task else f"prepare: {what}"

    def _part_tasks(self, what: str, source: str, parts: Sequence[corpus.Part]) -> list[tuple[sharding.PartTask, int]]:
        return [
            (
                sharding.PartTask(f"{what}-{self._recipe.prefix}{source}-{number:05d}", source, number, part),
                part.num_lines,
            )
            for number, part in enumerate(parts)
        ]


def _hashes(counts: Mapping[str, Sequence[Sequence[Sequence[corpus.BlockCount]]]]) -> dict[str, str]:
    """Returns a hash of the text of each source, and of how it lies in files."""
    return {
        name: loading.fingerprint(
            [[[(block.start, block.sha256) for block in file] for file in group] for group in groups]
        )
        for name, groups in counts.items()
    }


def doing(function: Callable[[sharding.Recipe, Any], Any], recipe: sharding.Recipe) -> passes.Factory:
    """What makes a worker that does this with a recipe."""
    return functools.partial(sharding.worker, function, recipe)


def file(record: sharding.Record) -> str:
    """The name of the file that a task wrote."""
    return str(record["files"][0]["name"])


def _num_lines(parts: Sequence[corpus.Part]) -> int:
    return sum(part.num_lines for part in parts)


def _num_bytes(parts: Sequence[corpus.Part]) -> int:
    """Returns the bytes of the larger side of all files."""
    sizes = {part.files: part.sizes_bytes for part in parts}
    return max(map(sum, zip(*sizes.values(), strict=True)))
