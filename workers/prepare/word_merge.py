"""Merge of the word counts of all parts, one partition after the other: see `core.data.dataset.word_counts`."""

from collections.abc import Callable, Sequence

from core.data.dataset import grouped_file, statistics, word_counts
from core.storage import concurrent
from workers.prepare import line_tasks, pass_runner, shuffle, vocabularies

Kept = tuple[tuple[int, ...], ...]
Run = Callable[[str, str, Sequence[pass_runner.PassTask], line_tasks.Function], pass_runner.Records]


def merge(files: Sequence[str], num_partitions: int, run: Run) -> tuple[list[str], dict[str, Kept]]:
    """Returns the merged counts of each partition, and by column the numbers of all words.

    Args:
        files: counts of all groups of parts, in the order of the text.
        num_partitions: those of each file.
        run: runs the tasks of a pass.
    """
    gathered = shuffle.gather_tasks("words-gathered", files, num_partitions)
    if gathered:
        files = _names(gathered, run("gather words", "files", gathered, gather_words))
    tasks = shuffle.partition_tasks("words-merged", files, gathered, num_partitions)
    records = run("merge words", "partitions", tasks, merge_words)
    by_column: dict[str, list[Kept]] = {}
    for task in tasks:
        for column, kept in records[task.name]["kept"].items():
            by_column.setdefault(column, []).append(kept)
    return _names(tasks, records), {
        column: tuple(tuple(map(sum, zip(*rows, strict=True))) for rows in zip(*all_kept, strict=True))
        for column, all_kept in by_column.items()
    }


def _names(tasks: Sequence[shuffle.PartitionsTask], records: pass_runner.Records) -> list[str]:
    return [str(records[task.name]["files"][0]["name"]) for task in tasks]


def gather_words(recipe: line_tasks.Recipe, task: shuffle.PartitionsTask) -> line_tasks.Record:
    """Writes the counts of some partitions from several files into one, by partition."""
    data = word_counts.gather(recipe.dataset, task.files, task.groups, len(task.partitions))
    return line_tasks.commit_file(recipe, task.name, data)


def merge_words(recipe: line_tasks.Recipe, task: shuffle.PartitionsTask) -> line_tasks.Record:
    """Writes the words of one partition that a vocabulary may take, with their counts in the whole corpus."""

    def read(name: str) -> memoryview:
        return grouped_file.read(recipe.dataset, name, task.groups, len(task.partitions))

    settings = recipe.tokenizer
    columns = vocabularies.counted_columns(recipe)
    merged = word_counts.merge(concurrent.map_in_order(read, task.files), columns)
    content = {}
    for column, entries in merged.items():
        named = recipe.columns if settings.shared else (column,)
        without = (*vocabularies.reserved_tokens(recipe, named), *settings.symbols)
        content[column] = word_counts.keep(entries, settings.min_freq, settings.max_size, without)
    kept = {column: statistics.count_kept(entry.frequency for entry in entries) for column, entries in merged.items()}
    return line_tasks.commit_file(recipe, task.name, line_tasks.json_bytes(content), {"kept": kept})
