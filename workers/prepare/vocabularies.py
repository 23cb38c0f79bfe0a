"""Vocabularies of a dataset: words of the training lines are counted (or lines sampled), then tokenizers are made.

`core.data.tokens.tokenizer` holds the classes. As in `workers.prepare.line_tasks`, a function takes the recipe and its
task, and its result depends on them alone.
"""

import collections
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core import errors
from core.data.dataset import statistics, word_counts
from core.data.text import scripts, selection
from core.data.tokens import tokenizer, vocabulary
from core.storage import commit, location
from workers.prepare import intermediate_files, line_tasks, part_groups

MAX_TOKENIZER_BYTES = 1 << 26  # those of 250,000 entries have 20 MB or less
# Positions of words are ordered by corpus, part and first occurrence: room for 2^24 parts, and 2^32 words of each task.
_CORPUS_SHIFT, _PART_SHIFT = 56, 32
_EXAMINED_LINES = 1000  # of each part, to see whether its text has spaces between words


@dataclass(frozen=True)
class VocabularyTask:
    """The columns that get a tokenizer, which is made from word counts, trained on a sample, or loaded.

    Attributes:
        name: of its commit record.
        columns: one, or all columns that share the tokenizer.
        files: word counts or samples of all groups of parts, in order; or the merged counts of all partitions.
        pretrained_file: a tokenizer file to load instead.
        kept: numbers of all words (see `statistics.count_kept`) where the counts are merged, else empty.
    """

    name: str
    columns: tuple[str, ...]
    files: tuple[str, ...]
    pretrained_file: location.Location | None = None
    kept: tuple[tuple[int, ...], ...] = ()
    weight: int = 1


def count_words(recipe: line_tasks.Recipe, task: part_groups.PartsTask) -> line_tasks.Record:
    """Counts the words or characters in the training lines of some parts that `line_tasks.encode` will keep."""
    counts = {column: vocabulary.Counts() for column in recipe.columns}
    if recipe.tokenizer.shared:
        counts = dict.fromkeys(recipe.columns, vocabulary.Counts())
    values = [_count_part(recipe, part, counts) for part in task.parts]
    counted = {column: counts[column] for column in counted_columns(recipe)}
    if recipe.num_word_partitions > 1:
        position = recipe.corpus_number << _CORPUS_SHIFT | task.parts[0].number << _PART_SHIFT
        data = word_counts.pack(counted, position, recipe.num_word_partitions)
    else:
        # Pairs, because a JSON object has no order, and that of first occurrence matters.
        data = line_tasks.json_bytes({column: [*counts.by_unit.items()] for column, counts in counted.items()})
    return line_tasks.commit_file(recipe, task.name, data, {"parts": values})


def counted_columns(recipe: line_tasks.Recipe) -> tuple[str, ...]:
    """Returns the columns that have counts; shared ones are stored once, under the first column."""
    return recipe.columns[:1] if recipe.tokenizer.shared else recipe.columns


def _count_part(
    recipe: line_tasks.Recipe, task: line_tasks.PartTask, counts: Mapping[str, vocabulary.Counts]
) -> dict[str, Any]:
    """Adds the units of a part to the counts; returns its numbers of lines and tokens, and its writing systems."""
    kind, symbols = recipe.tokenizer.kind, recipe.tokenizer.symbols
    assert kind in ("char", "word"), kind
    # Columns that share their counts also share the buffer: ties of frequency are broken by first occurrence, so units
    # must be added in the order of the lines.
    buffers: dict[int, list[str]] = collections.defaultdict(list)
    pending = {column: buffers[id(column_counts)] for column, column_counts in counts.items()}
    # What is the same for all lines is read once: most of the time of this pass goes to what is done for each of them.
    num_eos, num_lines, num_tokens = recipe.num_eos, 0, 0
    is_text, max_length, reason_to_drop = (
        recipe.corpus.kind == "text",
        recipe.truncated_length,
        line_tasks.line_filter(recipe),
    )
    separator = vocabulary.split_units(kind, recipe.line_suffix)
    examined: list[tuple[str, ...]] = []
    for line in line_tasks.lines(recipe, task):
        # Words of held-out lines would leak into the vocabulary.
        if line.split != "train":
            continue
        sides = [vocabulary.split_units(kind, side, symbols) for side in line.sides]
        # The same filters as `encode`: words that occur in dropped lines alone get no id.
        if reason_to_drop(line, [*map(len, sides)]):
            continue
        if is_text:
            # After the filters, which do not count the separator.
            sides[0] += separator
            remaining = None if task.max_tokens is None else task.max_tokens - num_tokens
            if remaining is not None and remaining <= 0:
                break
            # As many tokens as `encode` will write for this line, whichever limit cuts it.
            length = len(sides[0]) + num_eos
            length = length if max_length is None else min(length, max_length)
            if remaining is not None:
                length, sides[0] = min(length, remaining), sides[0][:remaining]
            num_tokens += length
        num_lines += 1
        if num_lines <= _EXAMINED_LINES:
            examined.append(line.sides)
        for column, units in zip(recipe.columns, sides, strict=True):
            pending[column] += units
        if num_lines % line_tasks.BATCH_LINES == 0:
            _flush(counts, pending)
    _flush(counts, pending)
    return {"lines": num_lines, "tokens": num_tokens, "scripts": _find_scripts(recipe, examined)}


def _flush(counts: Mapping[str, vocabulary.Counts], pending: Mapping[str, list[str]]) -> None:
    """Adds pending units to the counts."""
    for column, units in pending.items():
        counts[column].add(units)
        units.clear()


def sample_lines(recipe: line_tasks.Recipe, task: part_groups.PartsTask) -> line_tasks.Record:
    """Writes a seeded sample of the training lines of some parts."""
    content: dict[str, list[str]] = {column: [] for column in recipe.columns}
    values = []
    for part in task.parts:
        lines = (line for line in line_tasks.lines(recipe, part) if line.split == "train")
        # Filters by length do not apply: they count tokens, and there is no tokenizer yet.
        usable = [line for line in lines if not line.is_duplicate and any(line.sides)]
        for line in usable:
            if selection.is_sampled(line.number, recipe.sample_share, recipe.seed):
                for column, side in zip(recipe.columns, line.sides, strict=True):
                    content[column].append(side)
        examined = [line.sides for line in usable[:_EXAMINED_LINES]]
        values.append({"lines": len(usable), "tokens": 0, "scripts": _find_scripts(recipe, examined)})
    return line_tasks.commit_file(recipe, task.name, line_tasks.json_bytes(content), {"parts": values})


def _find_scripts(recipe: line_tasks.Recipe, lines: Sequence[tuple[str, ...]]) -> dict[str, scripts.Script | None]:
    """Returns the writing system of each column that has no spaces between words; None for the others."""
    return {
        column: scripts.without_spaces([sides[number] for sides in lines])
        for number, column in enumerate(recipe.columns)
    }


def make_tokenizer(recipe: line_tasks.Recipe, task: VocabularyTask) -> line_tasks.Record:
    """Makes, trains or loads the tokenizer of one column, or of several that share it."""
    settings, symbols = recipe.tokenizer, recipe.tokenizer.symbols
    coverage: list[dict[str, float]] = []
    reserved = reserved_tokens(recipe, task.columns)
    if task.pretrained_file is not None:
        loaded = task.pretrained_file
        data = loaded.read_range(0, MAX_TOKENIZER_BYTES + 1)
        if len(data) > MAX_TOKENIZER_BYTES:
            raise errors.DataError(
                f"tokenizer.load: {loaded} is larger than {MAX_TOKENIZER_BYTES} bytes; name a tokenizer.json"
            )
        # Invalid UTF-8 is replaced, so that the check of the content reports the file by its name.
        made = tokenizer.load(data.decode("utf-8", "replace"), str(loaded), reserved)
    elif settings.kind != "char" and settings.kind != "word":
        assert settings.max_size is not None
        sample = _read_sample(recipe, task)
        first = next(sample, None)
        if first is None:
            raise errors.DataError(
                f"tokenizer.sample_bytes: {settings.sample_bytes} bytes hold no line of {', '.join(task.columns)} to "
                "learn subwords from; use more"
            )
        lines = itertools.chain([first], sample)
        made = tokenizer.train_subwords(settings.kind, lines, settings.max_size, reserved, symbols)
    else:
        counts = _read_merged(recipe, task, reserved) if task.kept else _merge(recipe, task)
        coverage = statistics.coverage(task.kept or statistics.count_kept(counts.by_unit.values()))
        made = tokenizer.from_counts(settings.kind, counts, settings.min_freq, settings.max_size, reserved, symbols)
    stem = "tokenizer" if task.columns == recipe.columns else f"tokenizer-{task.columns[0]}"
    file_record = commit.put_content(recipe.dataset, stem, ".json", made.to_json().encode())
    record = {"fingerprint": made.fingerprint, "vocabulary_size": made.vocabulary_size, "coverage": coverage}
    # If two attempts trained different vocabularies, the one that is committed counts, for every worker.
    return recipe.store.commit(task.name, {**record, "files": [file_record.to_json()]})


def reserved_tokens(recipe: line_tasks.Recipe, columns: Sequence[str]) -> tuple[str, ...]:
    """Returns the reserved tokens of a tokenizer of these columns."""
    reserved = vocabulary.reserved_for(recipe.corpus.kind, recipe.corpus.line_end)
    return reserved + recipe.target_tokens if "source" in columns else reserved


def _merge(recipe: line_tasks.Recipe, task: VocabularyTask) -> vocabulary.Counts:
    counts = vocabulary.Counts()
    for content in intermediate_files.read_json(recipe, task.files):
        # In the order of the parts: units of equal frequency get ids by first occurrence in the corpus.
        counts.merge(vocabulary.Counts(collections.Counter(dict(content[task.columns[0]]))))
    return counts


def _read_merged(recipe: line_tasks.Recipe, task: VocabularyTask, reserved: Sequence[str]) -> vocabulary.Counts:
    """Returns the counts of the words that the vocabulary may take, from the merged counts of all partitions."""
    settings = recipe.tokenizer
    kept: list[word_counts.Entry] = []
    for content in intermediate_files.read_json(recipe, task.files):
        # After each partition, so that no more is held than two vocabularies.
        more = itertools.starmap(word_counts.Entry, content[task.columns[0]])
        kept = word_counts.keep([*kept, *more], settings.min_freq, settings.max_size, (*reserved, *settings.symbols))
    return word_counts.to_counts(kept)


def _read_sample(recipe: line_tasks.Recipe, task: VocabularyTask) -> Iterator[str]:
    """Yields the sampled lines of all parts, up to `tokenizer.sample_bytes` of each column."""
    remaining_bytes = dict.fromkeys(task.columns, recipe.tokenizer.sample_bytes)
    for content in intermediate_files.read_json(recipe, task.files):
        for column in task.columns:
            for line in content[column]:
                # A random sample may be larger than asked for: the rest is not used.
                remaining_bytes[column] -= len(line.encode())
                if remaining_bytes[column] < 0:
                    break
                yield line
