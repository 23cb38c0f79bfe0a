"""Passes over one corpus, from its files to its shards: stage, count blocks, find duplicates, count words, encode.

A task with a commit record is not run again, so a stopped run resumes with the tasks that are missing. The driver keeps
a small record of each part in memory, never lines.
"""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from core import errors
from core.config import corpus_settings, loading
from core.data.text import corpus, scripts, selection, source_files, sources
from core.storage import commit, location
from workers.fanout import executor as executors
from workers.prepare import duplicate_lines, line_tasks, part_groups, pass_runner, vocabularies

Groups = dict[str, list[tuple[source_files.File, ...]]]  # by split, the files of its source
Counts = dict[str, list[list[list[corpus.BlockCount]]]]  # by split, group and file, the blocks


class ScannedSources(NamedTuple):
    """The sources of a corpus after one reading.

    Attributes:
        groups: locations of the plain text files, by split.
        counts: line counts of all blocks.
        hashes: hash of the text, by split.
    """

    groups: dict[str, list[corpus.Group]]
    counts: Counts
    hashes: dict[str, str]


class EncodingPlan(NamedTuple):
    """Everything that the shards are made from.

    Attributes:
        recipe: complete except for the tokenizers.
        parts: the parts of each source that are used.
        token_limits: tokens that each part of the training source may contribute; None for all.
        vocabulary_files: word counts or samples that tokenizers are made from.
    """

    recipe: line_tasks.Recipe
    parts: dict[str, list[corpus.LineRange]]
    token_limits: list[int | None]
    vocabulary_files: list[str]


class CorpusPasses:
    """The passes over one corpus, in order; each takes the result of the one before.

    Attributes:
        scripts: after `plan`, the writing system of each column whose training text has no spaces between words, else
            None; nothing is known of a corpus with a ready-made tokenizer.
    """

    def __init__(
        self, groups: Groups, recipe: line_tasks.Recipe, runner: pass_runner.PassRunner, num_corpora: int
    ) -> None:
        self._groups, self._recipe, self._runner = groups, recipe, runner
        self._corpus, self._tokenizing = recipe.corpus, recipe.tokenizer
        # Corpora share a tokenizer: each gives an equal part of its sample, whatever its size.
        self._sample_bytes = self._tokenizing.sample_bytes // num_corpora
        self.scripts: dict[str, scripts.Script | None] = {}

    @property
    def setting(self) -> str:
        """The name of its settings."""
        return source_files.setting_name(self._recipe.corpus_name)

    def scan(self, block_bytes: int) -> ScannedSources:
        """Reads all files once: makes plain copies where needed, and counts the lines of blocks."""
        groups = self._stage()
        counts = self._count_blocks(groups, block_bytes)
        return ScannedSources(groups, counts, _hash_sources(counts))

    def plan(self, scanned: ScannedSources, num_word_partitions: int = 1) -> EncodingPlan:
        """Cuts the sources into parts, finds duplicate lines, and counts words for the vocabulary.

        Args:
            scanned: what `scan` returned.
            num_word_partitions: of the words of all corpora.

        Raises:
            DataError: a source has no usable line.
        """
        all_parts = {name: self._cut(name, scanned.groups[name], scanned.counts[name]) for name in scanned.groups}
        used_parts = dict(all_parts)
        limit = self._corpus.limit
        if limit.lines is not None:
            used_parts["train"] = corpus.take(all_parts["train"], limit.lines)
        # The vocabulary may be that of all training lines although only some of them are used.
        vocabulary_parts = all_parts["train"] if limit.vocabulary == "before" else used_parts["train"]
        for name, parts in used_parts.items():
            if not parts:
                raise errors.DataError(
                    f"{self.setting}.{name}: 0 usable lines, its files are empty; name files with text"
                )
        # All parts that a later pass reads need a split, and their duplicates known.
        read_parts = {**used_parts, "train": vocabulary_parts}
        recipe = dataclasses.replace(
            self._recipe,
            splittings={
                # By the lines that are used: the held-out tail is that of the limited source.
                name: selection.make_splitting(name, self._corpus, self._recipe.seed, _num_lines(parts))
                for name, parts in used_parts.items()
            },
            num_parts={name: len(parts) for name, parts in read_parts.items()},
            num_word_partitions=num_word_partitions,
        )
        if self._corpus.filters.duplicates == "drop":
            recipe = self._find_duplicates(recipe, read_parts)
        token_limits, files = self._count_words(recipe, all_parts["train"], used_parts["train"], vocabulary_parts)
        return EncodingPlan(recipe, used_parts, token_limits, files)

    def encode(self, plan: EncodingPlan, tokenizers: Mapping[str, commit.FileRecord]) -> list[line_tasks.Record]:
        """Writes the shards; returns the records of all parts in order, including those beyond the token limit."""
        recipe = dataclasses.replace(plan.recipe, tokenizers=tokenizers)
        tasks: list[line_tasks.PartTask] = []
        skipped: pass_runner.Records = {}
        all_tasks = [task for name, parts in plan.parts.items() for task in self._part_tasks("encode", name, parts)]
        for task in all_tasks:
            limit = plan.token_limits[task.number] if task.source == "train" else None
            # A part beyond the limit is not read, unless some of its lines may belong to another split.
            if limit == 0 and recipe.splittings[task.source].by == "none":
                lines = task.part.num_lines
                # The record that the task would have committed: its lines must be accounted for in the index.
                skipped[task.name] = {"shards": {}, "lines": lines, "drops": {"limit": lines}, "repairs": {}}
            else:
                tasks.append(dataclasses.replace(task, max_tokens=limit))
        make_encoder = functools.partial(line_tasks.make_encoder, recipe)
        records = skipped | self._fan_out("encode", "lines", tasks, make_encoder)
        # Once for each file, in place of a request for each part.
        corpus.check_sizes(itertools.chain.from_iterable(plan.parts.values()))
        return [records[task.name] for task in all_tasks]

    def _stage(self) -> dict[str, list[corpus.Group]]:
        """Makes plain copies of compressed and remote files, and checks that all files are text."""
        # Each file once, in order: one source file may be paired with several targets.
        files = dict.fromkeys(file for groups in self._groups.values() for group in groups for file in group)
        tasks: list[line_tasks.StageTask] = []
        for file in files:
            sha256 = source_files.expected_sha256(file, self._corpus.sha256)
            if sources.needs_staging(file, sha256):
                # The name identifies the file, so that a commit record never counts for another file.
                identity = loading.fingerprint(
                    [file.url, *file.columns, sha256, None if sha256 else file.origin.size_bytes()]
                )
                tasks.append(line_tasks.StageTask(f"stage-{identity[:16]}", file, sha256))
        records = self._fan_out("decompress", "files", tasks, worker_factory(line_tasks.stage, self._recipe))
        plain = {task.file: location.Location(records[task.name]["url"]) for task in tasks}
        for file in files:
            # After staging: only plain text can be examined.
            sources.check(plain.get(file, file.origin))
        return {
            name: [tuple(plain.get(file, file.origin) for file in group) for group in groups]
            for name, groups in self._groups.items()
        }

    def _count_blocks(self, groups_of: Mapping[str, Sequence[corpus.Group]], block_bytes: int) -> Counts:
        """Counts the lines of all blocks. Not committed: a source must be read again to see if it has changed."""
        # All splits, groups and sides are one fan-out, so that no worker waits at the end of a file.
        tasks: list[executors.Task] = []
        counts: Counts = {name: [[[] for _ in group] for group in groups] for name, groups in groups_of.items()}
        for name, groups in groups_of.items():
            for number, group in enumerate(groups):
                for side, file in enumerate(group):
                    blocks = corpus.blocks(file.size_bytes(), block_bytes)
                    tasks += [
                        executors.Task(
                            f"{name}-{number}-{side}-{start}", line_tasks.BlockTask(file, start, stop), stop - start
                        )
                        for start, stop in blocks
                    ]

        def on_done(task: executors.Task, count: corpus.BlockCount) -> None:
            # Of `NAME-GROUP-SIDE-START`, as named above.
            name, number, side, _ = task.name.split("-")
            counts[name][int(number)][int(side)].append(count)

        self._runner.execute(
            self._title("count lines"), "bytes", tasks, worker_factory(line_tasks.count_block, self._recipe), on_done
        )
        # Tasks are done in any order.
        for file_counts in (file for groups in counts.values() for group in groups for file in group):
            file_counts.sort()
        return counts

    def _cut(
        self, name: str, groups: Sequence[corpus.Group], counts: Sequence[Sequence[Sequence[corpus.BlockCount]]]
    ) -> list[corpus.LineRange]:
        source: corpus_settings.SourceConfig = getattr(self._corpus, name)
        return corpus.cut_by_blocks(groups, counts, source.column_indices, self._corpus.max_line_bytes)

    def _find_duplicates(
        self, recipe: line_tasks.Recipe, parts_of: Mapping[str, Sequence[corpus.LineRange]]
    ) -> line_tasks.Recipe:
        """Finds the duplicate lines of each source, by hashes on disk."""

        def run(
            recipe: line_tasks.Recipe,
            action: str,
            unit: str,
            tasks: Sequence[pass_runner.PassTask],
            function: line_tasks.Function,
        ) -> pass_runner.Records:
            return self._fan_out(action, unit, tasks, worker_factory(function, recipe))

        tasks_of = {name: self._part_tasks("hashes", name, parts) for name, parts in parts_of.items()}
        return duplicate_lines.find(recipe, tasks_of, run)

    def _count_words(
        self,
        recipe: line_tasks.Recipe,
        all_parts: Sequence[corpus.LineRange],
        used_parts: Sequence[corpus.LineRange],
        vocabulary_parts: Sequence[corpus.LineRange],
    ) -> tuple[list[int | None], list[str]]:
        """Counts the words of the training lines, or samples lines for a subword tokenizer.

        Returns:
            The number of tokens that each used part may contribute to the training stream (None for all), and the
            files to make tokenizers from.
        """
        if self._tokenizing.load:
            return [None] * len(used_parts), []
        if not self._tokenizing.counts_words:
            # The mean line of the whole source: the bytes of a narrowed part are not known without reading it.
            line_bytes = _num_bytes(all_parts) / _num_lines(all_parts)
            share = self._sample_bytes / (line_bytes * _num_lines(vocabulary_parts))
            # A share for each line, so that parts need not know of each other; the reader cuts at the exact size.
            recipe = dataclasses.replace(recipe, sample_share=min(1.0, share))
            prefix, title, function = "lines", "sample lines", vocabularies.sample_lines
        else:
            prefix = "word-partitions" if recipe.num_word_partitions > 1 else "words"  # of files of another format
            title, function = "count words", vocabularies.count_words
        part_tasks = self._part_tasks(prefix, "train", vocabulary_parts)
        tasks = self._parts_tasks(prefix, part_tasks)
        records = self._fan_out(title, "lines", tasks, worker_factory(function, recipe))
        counts = [count for task in tasks for count in records[task.name]["parts"]]
        if not sum(count["lines"] for count in counts):
            raise errors.DataError(
                f"{self.setting}.train: 0 usable lines of {_num_lines(vocabulary_parts)}; "
                f"check {self.setting}.filters and {self.setting}.split"
            )
        for column in recipe.columns:
            # Parts of a text may differ, so the most frequent one counts.
            by_part = collections.Counter(count["scripts"].get(column) for count in counts)
            self.scripts[column] = by_part.most_common(1)[0][0]
        files = [file_name(records[task.name]) for task in tasks]
        limit = self._corpus.limit
        if limit.tokens is None:
            return [None] * len(used_parts), files
        # Each part gets what the parts before it leave of the limit, so no part waits for another.
        tokens_before = itertools.accumulate((count["tokens"] for count in counts), initial=0)
        token_limits: list[int | None] = [
            max(0, limit.tokens - tokens) for tokens in itertools.islice(tokens_before, len(used_parts))
        ]
        if limit.vocabulary == "after":
            # Which words the limit leaves is known only now, so those of the parts within it are counted again.
            within_limit = [
                dataclasses.replace(task, max_tokens=max_tokens)
                for task, max_tokens in zip(part_tasks, token_limits, strict=True)
                # Parts beyond the limit (0) contribute nothing.
                if max_tokens
            ]
            # Another name: the record of the first count is committed, and counts whole parts.
            recount = self._parts_tasks(f"re{prefix}", within_limit)
            recounted = self._fan_out(title, "lines", recount, worker_factory(vocabularies.count_words, recipe))
            files = [file_name(recounted[task.name]) for task in recount]
        return token_limits, files

    def _fan_out(
        self, action: str, unit: str, tasks: Sequence[pass_runner.PassTask], factory: pass_runner.Factory
    ) -> pass_runner.Records:
        return self._runner.fan_out(self._title(action), unit, tasks, factory)

    def _title(self, action: str) -> str:
        name = self._recipe.corpus_name
        return f"prepare: {action} of {name}" if name else f"prepare: {action}"

    def _parts_tasks(self, prefix: str, parts: Sequence[line_tasks.PartTask]) -> list[part_groups.PartsTask]:
        return [
            part_groups.PartsTask(f"{prefix}-{self._recipe.prefix}train-{number:05d}", group)
            for number, group in enumerate(part_groups.of(parts))
        ]

    def _part_tasks(self, prefix: str, source: str, parts: Sequence[corpus.LineRange]) -> list[line_tasks.PartTask]:
        return [
            line_tasks.PartTask(f"{prefix}-{self._recipe.prefix}{source}-{number:05d}", source, number, part)
            for number, part in enumerate(parts)
        ]


def _hash_sources(counts: Counts) -> dict[str, str]:
    """Returns a hash of the text of each source and of its division into files."""
    return {
        name: loading.fingerprint(
            # Hashes of blocks, because they were computed by different workers; the block size is an identity setting.
            [[[(block.start, block.sha256) for block in file] for file in group] for group in groups]
        )
        for name, groups in counts.items()
    }


def worker_factory(function: Callable[[line_tasks.Recipe, Any], Any], recipe: line_tasks.Recipe) -> pass_runner.Factory:
    """Returns the factory of workers that apply a function and a recipe to each task."""
    # The recipe is sent once to each worker, with the factory, not with each task.
    return functools.partial(line_tasks.make_worker, function, recipe)


def file_name(record: line_tasks.Record) -> str:
    """Returns the name of the only file of a commit record."""
    return str(record["files"][0]["name"])


def _num_lines(parts: Sequence[corpus.LineRange]) -> int:
    return sum(part.num_lines for part in parts)


def _num_bytes(parts: Sequence[corpus.LineRange]) -> int:
    """Returns the total bytes of all files, on the larger side."""
    # By files, since all parts of a group have the sizes of its files.
    sizes_bytes = {part.files: part.sizes_bytes for part in parts}
    return max(map(sum, zip(*sizes_bytes.values(), strict=True)))
