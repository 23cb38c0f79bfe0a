"""Duplicate lines of the sources: hashes are shuffled to partitions, and what is found in these back to the parts.

Of P parts in G files of hashes and K partitions, G·K ranges would be read, and P·K on the way back: 230 million each
for a TiB. So there is a step between, both ways. Hashes are gathered first (see `shuffle`), in the memory of one
partition; and the lines that were found are merged into few files, and collected for groups of parts. A part then reads
one file.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

from core.data.dataset import duplicates
from core.storage import commit, concurrent
from workers.prepare import line_tasks, part_groups, pass_runner, shuffle

Run = Callable[[line_tasks.Recipe, str, str, Sequence[pass_runner.PassTask], line_tasks.Function], pass_runner.Records]


@dataclasses.dataclass(frozen=True)
class SearchTask:
    """A partition of hashes that is searched for duplicates, and the first line of each part to group them by."""

    hashes: shuffle.PartitionsTask
    part_starts: tuple[int, ...]
    weight: int = 1

    @property
    def name(self) -> str:
        """The name of its commit record."""
        return self.hashes.name


@dataclasses.dataclass(frozen=True)
class LinesTask:
    """Files of duplicate lines, and some consecutive parts of them, which are joined in one file.

    Attributes:
        name: of its commit record.
        files: the files.
        parts: the parts to read.
        num_parts: of the source.
        part_starts: the first line of each part to read.
    """

    name: str
    files: tuple[str, ...]
    parts: range
    num_parts: int
    part_starts: tuple[int, ...]
    weight: int = 1


@dataclasses.dataclass(frozen=True)
class _Source:
    """A source on its way through the passes: its parts, and the files that the last pass wrote."""

    parts: Sequence[line_tasks.PartTask]
    num_partitions: int
    files: tuple[commit.FileRecord, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(file.name for file in self.files)

    @property
    def part_starts(self) -> tuple[int, ...]:
        return tuple(task.part.first_line for task in self.parts)


def find(
    recipe: line_tasks.Recipe, parts_of: Mapping[str, Sequence[line_tasks.PartTask]], run: Run
) -> line_tasks.Recipe:
    """Returns the recipe with the duplicate lines of each source, which are found by hashes on disk."""
    sources = {
        name: _Source(parts, duplicates.num_partitions(sum(task.weight for task in parts)))
        for name, parts in parts_of.items()
    }

    def do(
        action: str, unit: str, function: line_tasks.Function, tasks_of: Mapping[str, Sequence[pass_runner.PassTask]]
    ) -> None:
        # Those of all sources together, so that no worker waits at the end of one.
        records = run(recipe, action, unit, [*itertools.chain.from_iterable(tasks_of.values())], function)
        for name, tasks in tasks_of.items():
            files = (records[task.name]["files"][0] for task in tasks)
            sources[name] = dataclasses.replace(
                sources[name], files=tuple(commit.FileRecord.from_json(file, action) for file in files)
            )

    def stem(action: str, name: str) -> str:
        return f"duplicates-{action}-{recipe.prefix}{name}"

    recipe = dataclasses.replace(recipe, num_partitions={name: it.num_partitions for name, it in sources.items()})
    do("hash lines", "lines", hash_lines, {name: _hash_tasks(stem("hashes", name), it) for name, it in sources.items()})
    gathered = {
        name: shuffle.gather_tasks(stem("gathered", name), it.names, it.num_partitions) for name, it in sources.items()
    }
    do("gather hashes", "files", gather_hashes, {name: tasks for name, tasks in gathered.items() if tasks})
    do(
        "find duplicates", "partitions", find_lines,
        {name: _search_tasks(stem("lines", name), it, gathered[name]) for name, it in sources.items()},
    )  # fmt: skip
    # Every partition's file has lines of every part: first few files, then one for each group of parts.
    merged = {name: _merge_tasks(stem("merged", name), it) for name, it in sources.items() if len(it.files) > 1}
    do("merge duplicates", "files", join_lines, merged)
    collected = {name: _collect_tasks(stem("collected", name), it) for name, it in sources.items() if len(it.files) > 1}
    do("collect duplicates", "files", join_lines, collected)
    parts_of_file = {
        name: len(collected[name][0].parts) if name in collected else len(it.parts) for name, it in sources.items()
    }
    files = {name: line_tasks.DuplicateFiles(it.names, parts_of_file[name]) for name, it in sources.items()}
    return dataclasses.replace(recipe, duplicates=files)


def _hash_tasks(stem: str, source: _Source) -> list[part_groups.PartsTask]:
    num_lines = sum(task.weight for task in source.parts)
    # Of about equal numbers of lines, so that a file is about as large as a partition.
    most = duplicates.lines_of_file() * len(source.parts) // max(1, num_lines)
    groups = part_groups.of(source.parts, most)
    return [part_groups.PartsTask(f"{stem}-{number:05d}", group) for number, group in enumerate(groups)]


def _search_tasks(stem: str, source: _Source, gathered: Sequence[shuffle.PartitionsTask]) -> list[SearchTask]:
    part_starts = source.part_starts
    tasks = shuffle.partition_tasks(stem, source.names, gathered, source.num_partitions)
    return [SearchTask(task, part_starts) for task in tasks]


def _merge_tasks(stem: str, source: _Source) -> list[LinesTask]:
    """Returns the tasks that merge files, as many as fit into the memory of a partition."""
    groups: list[list[str]] = []
    num_bytes = 0
    for file in source.files:
        if not groups or num_bytes + file.size_bytes > duplicates.PARTITION_BYTES:
            groups.append([])
            num_bytes = 0
        groups[-1].append(file.name)
        num_bytes += file.size_bytes
    part_starts = source.part_starts
    parts = range(len(part_starts))
    return [
        LinesTask(f"{stem}-{number:05d}", tuple(names), parts, len(parts), part_starts)
        for number, names in enumerate(groups)
    ]


def _collect_tasks(stem: str, source: _Source) -> list[LinesTask]:
    part_starts, num_parts = source.part_starts, len(source.parts)
    length = len(part_groups.of(source.parts)[0])
    groups = [range(start, min(start + length, num_parts)) for start in range(0, num_parts, length)]
    return [
        LinesTask(f"{stem}-{number:05d}", source.names, parts, num_parts, part_starts[parts.start : parts.stop])
        for number, parts in enumerate(groups)
    ]


def hash_lines(recipe: line_tasks.Recipe, task: part_groups.PartsTask) -> line_tasks.Record:
    """Writes the hashes of all usable lines of some parts, by partition."""
    num_partitions = recipe.num_partitions[task.parts[0].source]
    # Of the cleaned lines: duplicates are what the model would see twice.
    hashes = duplicates.join(
        duplicates.hash_lines((line.number, line.sides) for line in line_tasks.lines(recipe, part))
        for part in task.parts
    )
    data = duplicates.pack_hashes(hashes, range(num_partitions), num_partitions)
    return line_tasks.commit_file(recipe, task.name, data)


def gather_hashes(recipe: line_tasks.Recipe, task: shuffle.PartitionsTask) -> line_tasks.Record:
    """Writes the hashes of some partitions from several files into one, by partition."""
    data = duplicates.pack_hashes(_read_hashes(recipe, task), task.wanted, task.num_partitions)
    return line_tasks.commit_file(recipe, task.name, data)


def find_lines(recipe: line_tasks.Recipe, task: SearchTask) -> line_tasks.Record:
    """Writes the numbers of the lines of one partition that are duplicates of an earlier line."""
    lines = duplicates.find_duplicates(_read_hashes(recipe, task.hashes))
    return line_tasks.commit_file(recipe, task.name, duplicates.pack_duplicates(lines, task.part_starts))


def _read_hashes(recipe: line_tasks.Recipe, task: shuffle.PartitionsTask) -> duplicates.Hashes:
    def read(name: str) -> duplicates.Hashes:
        return duplicates.read_hashes(recipe.dataset, name, task.groups, len(task.partitions))

    return duplicates.join(concurrent.map_in_order(read, task.files))


def join_lines(recipe: line_tasks.Recipe, task: LinesTask) -> line_tasks.Record:
    """Writes the duplicate lines of some parts from several files into one, by part."""

    def read(name: str) -> duplicates.Lines:
        return duplicates.read_duplicates(recipe.dataset, name, task.parts, task.num_parts)

    lines = duplicates.merge(concurrent.map_in_order(read, task.files))
    return line_tasks.commit_file(recipe, task.name, duplicates.pack_duplicates(lines, task.part_starts))
