"""What one worker does to make the vocabularies of a corpus: counts or samples of its training lines, then tokenizers.

As in `workers.prepare.sharding`, a function takes the recipe and its own task, and what it makes depends on them alone.
"""

import collections
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from core.data.dataset import statistics
from core.data.text import selection
from core.data.tokens import tokenizer
from core.storage import commit, location
from workers.prepare import sharding


@dataclass(frozen=True)
class VocabularyTask:
    """The columns that get a tokenizer, and the files of counts or samples of all parts, in order, or a ready one."""

    name: str
    columns: tuple[str, ...]
    files: tuple[str, ...]
    ready: location.Location | None = None


def count_words(recipe: sharding.Recipe, task: sharding.PartTask) -> sharding.Record:
    """Counts the words or characters of the training lines of a part, as `encode` will keep them."""
    kind, symbols = recipe.tokenizer.kind, recipe.tokenizer.symbols
    assert kind in ("char", "word"), kind
    counts = {column: tokenizer.Counts() for column in recipe.columns}
    if recipe.tokenizer.shared:
        counts = dict.fromkeys(recipe.columns, tokenizer.Counts())
    # Columns that share their counts share the list too, so that units stand in the order of the lines.
    lists: dict[int, list[str]] = collections.defaultdict(list)
    waiting = {column: lists[id(found)] for column, found in counts.items()}
    num_ends, num_lines, num_tokens = recipe.num_ends, 0, 0
    for line in sharding.lines(recipe, task):
        if line.split != "train":
            continue
        sides = [tokenizer.units(kind, side, symbols) for side in line.sides]
        if sharding.reason_to_drop(recipe, line, [len(units) for units in sides]):
            continue
        if recipe.corpus.kind == "text":
            sides[0] += tokenizer.units(kind, recipe.joint)
            room = None if task.max_tokens is None else task.max_tokens - num_tokens
            if room is not None and room <= 0:
                break
            num_tokens += min(limit for limit in (len(sides[0]) + num_ends, recipe.cut_at, room) if limit is not None)
            sides[0] = sides[0][:room]
        num_lines += 1
        for column, units in zip(recipe.columns, sides, strict=True):
            waiting[column] += units
        if num_lines % sharding.READ_LINES == 0:
            _count_waiting(counts, waiting)
    _count_waiting(counts, waiting)
    columns = recipe.columns[:1] if recipe.tokenizer.shared else recipe.columns
    content = {column: list(counts[column].by_unit.items()) for column in columns}
    values = {"lines": num_lines, "tokens": num_tokens}
    return sharding.commit_file(recipe, task.name, sharding.json_bytes(content), values)


def _count_waiting(counts: Mapping[str, tokenizer.Counts], waiting: Mapping[str, list[str]]) -> None:
    for column, units in waiting.items():
        counts[column].add(units)
        units.clear()


def sample_lines(recipe: sharding.Recipe, task: sharding.PartTask) -> sharding.Record:
    """Writes a seeded sample of the training lines of a part."""
    lines = (line for line in sharding.lines(recipe, task) if line.split == "train")
    usable = [line for line in lines if not line.repeated and any(line.sides)]
    chosen = [line for line in usable if selection.is_sampled(line.number, recipe.sample_share, recipe.seed)]
    content = {column: [line.sides[side] for line in chosen] for side, column in enumerate(recipe.columns)}
    return sharding.commit_file(recipe, task.name, sharding.json_bytes(content), {"lines": len(usable), "tokens": 0})


def make_tokenizer(recipe: sharding.Recipe, task: VocabularyTask) -> sharding.Record:
    """Makes or loads the tokenizer of one column, or of several that share it."""
    settings, symbols = recipe.tokenizer, recipe.tokenizer.symbols
    covered: list[dict[str, float]] = []
    reserved = tokenizer.reserved_for(recipe.corpus.kind, recipe.corpus.line_end)
    if "source" in task.columns:
        reserved += recipe.target_tokens
    if task.ready is not None:
        made = tokenizer.load(task.ready.read_bytes().decode("utf-8", "replace"), str(task.ready), reserved)
    elif settings.kind != "char" and settings.kind != "word":
        assert settings.max_size is not None
        made = tokenizer.train_subwords(settings.kind, _sampled(recipe, task), settings.max_size, reserved, symbols)
    else:
        counts = tokenizer.Counts()
        for file in task.files:
            content = recipe.dataset.join(file).read_json()
            counts.merge(tokenizer.Counts(collections.Counter(dict(content[task.columns[0]]))))
        covered = statistics.coverage(counts)
        made = tokenizer.from_counts(settings.kind, counts, settings.min_freq, settings.max_size, reserved, symbols)
    stem = "tokenizer" if task.columns == recipe.columns else f"tokenizer-{task.columns[0]}"
    file_record = commit.put_content(recipe.dataset, stem, ".json", made.to_json().encode())
    record = {"fingerprint": made.fingerprint, "vocabulary_size": made.vocabulary_size, "coverage": covered}
    return recipe.store.commit(task.name, {**record, "files": [file_record.to_json()]})


def _sampled(recipe: sharding.Recipe, task: VocabularyTask) -> Iterator[str]:
    """Yields the sampled lines of all parts, up to the limit of each column."""
    room = dict.fromkeys(task.columns, recipe.tokenizer.sample_bytes)
    for file in task.files:
        content = recipe.dataset.join(file).read_json()
        for column in task.columns:
            for line in content[column]:
                room[column] -= len(line.encode())
                if room[column] < 0:
                    break
                yield line
