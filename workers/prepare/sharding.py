"""What one worker does to prepare a corpus: one plain function for each kind of task.

Each takes the recipe, which is the same for all tasks of a pass, and its own task, which names a range of lines.
What it makes is a file whose name holds the hash of its bytes, and a commit record; both depend on the recipe and
the lines alone. So it does not matter who does a task, how often, or in which order.
"""

import collections
import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from core import errors
from core.config import corpus_settings
from core.data.dataset import dataset_index, duplicates, shards
from core.data.text import cleaning, corpus, selection, sources
from core.data.tokens import tokenizer
from core.storage import commit, location

STAGING = ".staging"
READ_LINES = 1024
_REASONS = {"too_long": "too_many_bytes"}  # `too_long` is said of tokens

Record = dict[str, Any]
Rows = list[list[int]]


@dataclass(frozen=True)
class Recipe:
    """What decides the dataset, for all tasks of a pass.

    Attributes:
        corpus: the settings of the corpus.
        task: the name of the corpus, where it is one of several.
        target_token, target_tokens: what stands before its source lines, if anything; those of all corpora.
        tokenizer: the settings of the tokenizer.
        seed: of splits and samples.
        dataset: the folder of the dataset.
        plan: the plan of its part store.
        splitting: by source, how its lines are shared out.
        num_parts: by source, how many parts it has.
        num_partitions: by source, over how many files its hashes are spread.
        repeats: by source, the files that name its repeated lines, one for each partition.
        sample_share: of the lines, that a trained tokenizer sees.
        tokenizers: by column, the file that holds its tokenizer, once there is one.
    """

    corpus: corpus_settings.CorpusConfig
    tokenizer: corpus_settings.TokenizerConfig
    seed: int
    dataset: location.Location
    plan: Mapping[str, Any]
    task: str = ""
    target_token: str | None = None
    target_tokens: tuple[str, ...] = ()
    splitting: Mapping[str, selection.Splitting] = field(default_factory=dict)
    num_parts: Mapping[str, int] = field(default_factory=dict)
    num_partitions: Mapping[str, int] = field(default_factory=dict)
    repeats: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sample_share: float = 1.0
    tokenizers: Mapping[str, commit.FileRecord] = field(default_factory=dict)

    @property
    def store(self) -> commit.PartStore:
        """Where the records of tasks are committed."""
        return commit.PartStore(self.dataset, self.plan)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the dataset."""
        return dataset_index.COLUMNS[self.corpus.kind]

    @property
    def prefix(self) -> str:
        """What names of tasks and shards begin with, so that those of several corpora differ."""
        return self.task and f"{self.task}."

    @property
    def num_ends(self) -> int:
        """How many `<eos>` end each side of a line: 1 or 0."""
        return int(self.corpus.kind == "pairs" or self.corpus.line_end == "eos")

    @property
    def joint(self) -> str:
        """The text that stands after each line of a text."""
        return " " if self.corpus.kind == "text" and self.corpus.line_end == "space" else ""

    @property
    def cut_at(self) -> int | None:
        """How many tokens of a side are kept, or None for all."""
        return self.corpus.filters.max_length if self.corpus.filters.too_long == "cut" else None


@dataclass(frozen=True)
class StageTask:
    """A file that is not plain, and the checksum it must have."""

    name: str
    file: sources.File
    sha256: str | None


@dataclass(frozen=True)
class BlockTask:
    """A block of bytes of a file."""

    file: location.Location
    start: int
    stop: int


@dataclass(frozen=True)
class PartTask:
    """Some lines of a source; `max_tokens` is what is left here of a limit on the training stream."""

    name: str
    source: str
    number: int
    part: corpus.Part
    max_tokens: int | None = None


@dataclass(frozen=True)
class RepeatsTask:
    """One partition of the hashes of a source: the files of its parts, and the first line of each part."""

    name: str
    partition: int
    num_partitions: int
    files: tuple[str, ...]
    part_starts: tuple[int, ...]


class Line(NamedTuple):
    """A cleaned line, the split that it belongs to, and whether it repeats an earlier one."""

    number: int
    sides: tuple[str, ...]
    split: str
    repeated: bool


def worker(function: Callable[[Recipe, Any], Any], recipe: Recipe) -> Callable[[Any], Any]:
    """Returns what a worker calls with each task of a pass."""
    return functools.partial(function, recipe)


def encoder(recipe: Recipe) -> Callable[[PartTask], Record]:
    """Loads the tokenizers, once for each worker, and returns what it calls with each part."""
    return functools.partial(encode, recipe, load_tokenizers(recipe))


def load_tokenizers(recipe: Recipe) -> dict[str, tokenizer.Tokenizer]:
    """Reads and checks the tokenizer of each column."""
    loaded: dict[str, tokenizer.Tokenizer] = {}
    for column, file in recipe.tokenizers.items():
        commit.verify(recipe.dataset, [file])
        place = recipe.dataset.join(file.name)
        loaded[column] = tokenizer.Tokenizer.from_json(place.read_bytes().decode(), str(place))
    return loaded


def stage(recipe: Recipe, task: StageTask) -> Record:
    """Makes a plain copy of a file that is not plain, and compares its checksum."""
    folder = recipe.dataset.join(STAGING)
    plain = sources.stage(task.file, folder, task.sha256)
    copied = [] if plain == task.file.place else [commit.FileRecord(f"{STAGING}/{plain.name}", "", plain.size_bytes())]
    return recipe.store.commit(task.name, {"url": plain.url, "files": [record.to_json() for record in copied]})


def count_block(recipe: Recipe, task: BlockTask) -> corpus.BlockCount:
    """Counts the lines that begin in a block of a file."""
    del recipe
    return corpus.count_block(task.file, task.start, task.stop)


def hash_lines(recipe: Recipe, task: PartTask) -> Record:
    """Writes the hashes of all usable lines of a part, by partition."""
    hashes = duplicates.hash_lines((line.number, line.sides) for line in lines(recipe, task))
    return commit_file(recipe, task.name, duplicates.pack_hashes(hashes, recipe.num_partitions[task.source]))


def find_repeats(recipe: Recipe, task: RepeatsTask) -> Record:
    """Writes the lines of one partition that repeat an earlier one."""
    pieces = [
        duplicates.read_hashes(recipe.dataset.join(file), task.partition, task.num_partitions) for file in task.files
    ]
    return commit_file(recipe, task.name, duplicates.pack_repeats(duplicates.repeats(pieces), task.part_starts))


def encode(recipe: Recipe, tokenizers: Mapping[str, tokenizer.Tokenizer], task: PartTask) -> Record:
    """Writes the shards of a part: one for each split that has a line in it."""
    drops: collections.Counter[str] = collections.Counter()
    repairs: collections.Counter[str] = collections.Counter()
    pieces: dict[str, list[tuple[list[int], list[shards.Ragged]]]] = collections.defaultdict(list)
    ends = [[*one.encode(recipe.joint), *([one.eos_id] * recipe.num_ends)] for one in tokenizers.values()]
    begin = [tokenizers["source"].reserved.index(recipe.target_token)] if recipe.target_token else []
    room, cut_at = task.max_tokens, recipe.cut_at
    for read in _read(recipe, task, drops, repairs):
        sides_of = [
            one.encode_lines([line.sides[side] for line in read]) for side, one in enumerate(tokenizers.values())
        ]
        kept: dict[str, tuple[list[int], list[Rows]]] = {}
        for line, *sides in zip(read, *sides_of, strict=True):
            reason = reason_to_drop(recipe, line, [len(ids) for ids in sides])
            if reason is None and line.split == "train" and room == 0:
                reason = "limit"
            if reason is not None:
                drops[reason] += 1
                continue
            rows = [(ids + end)[:cut_at] if cut_at else ids + end for ids, end in zip(sides, ends, strict=True)]
            rows[0] = begin + rows[0] if sides[0] else rows[0]
            if room is not None and line.split == "train":
                rows[0] = rows[0][:room]
                room -= len(rows[0])
            numbers, columns = kept.setdefault(line.split, ([], [[] for _ in rows]))
            numbers.append(line.number)
            for column, row in zip(columns, rows, strict=True):
                column.append(row)
        for split, (numbers, columns) in kept.items():  # arrays take a tenth of what lists of numbers take
            pieces[split].append((numbers, [shards.ragged(rows) for rows in columns]))
    return _commit_shards(recipe, tokenizers, task, pieces, {"drops": drops, "repairs": repairs})


def _commit_shards(
    recipe: Recipe,
    tokenizers: Mapping[str, tokenizer.Tokenizer],
    task: PartTask,
    pieces: Mapping[str, Sequence[tuple[list[int], list[shards.Ragged]]]],
    counted: Mapping[str, Mapping[str, int]],
) -> Record:
    sizes = {column: one.vocabulary_size for column, one in tokenizers.items()}
    files, written = [], {}
    for split in dataset_index.SPLITS:
        if split not in pieces:
            continue
        lines = [number for numbers, _ in pieces[split] for number in numbers]
        columns = {
            column: shards.join([sides[place] for _, sides in pieces[split]])
            for place, column in enumerate(recipe.columns)
        }
        data = shards.encode_shard(columns, lines, sizes)
        file = commit.put_content(recipe.dataset, f"{split}/{recipe.prefix}part-{task.number:05d}", ".arrow", data)
        files.append(file.to_json())
        tokens = {column: len(side.values) for column, side in columns.items()}
        written[split] = {**file.to_json(), "rows": len(lines), "tokens": tokens, "task": recipe.task}
    num_kept = sum(shard["rows"] for shard in written.values())
    num_dropped = sum(counted["drops"].values())
    assert num_kept + num_dropped == task.part.num_lines, f"{task.name}: a line is neither kept nor dropped"
    counts = {what: dict(sorted(found.items())) for what, found in counted.items()}
    return recipe.store.commit(task.name, {"files": files, "shards": written, "lines": task.part.num_lines, **counts})


def lines(recipe: Recipe, task: PartTask) -> Iterator[Line]:
    """Yields the usable lines of a part, cleaned."""
    return itertools.chain.from_iterable(_read(recipe, task, collections.Counter(), collections.Counter()))


def _read(
    recipe: Recipe, task: PartTask, drops: collections.Counter[str], repairs: collections.Counter[str]
) -> Iterator[list[Line]]:
    """Yields the usable lines of a part, cleaned, some at a time; counts the others, and what was repaired."""
    settings, splitting = recipe.corpus, recipe.splitting[task.source]
    repeated = _repeated(recipe, task)
    every = corpus.read_lines(task.part, repairs)
    while read := list(itertools.islice(every, READ_LINES)):
        usable: list[tuple[int, corpus.Sides]] = []
        for number, sides in read:
            if isinstance(sides, corpus.BadLine):
                reason = _REASONS.get(sides.reason, sides.reason)
                if settings.on_bad_line == "fail":
                    raise errors.DataError(
                        f"{sides.where}: is a bad line ({reason}); correct it, or set corpus.on_bad_line: skip"
                    )
                drops[reason] += 1
                continue
            usable.append((number, sides))
        columns = [
            cleaning.clean_lines(column, settings.cleaning) for column in zip(*(s for _, s in usable), strict=True)
        ]
        yield [
            Line(number, cleaned, splitting.of(number, cleaned[0]), number in repeated)
            for (number, _), cleaned in zip(usable, zip(*columns, strict=True), strict=True)
        ]


def _repeated(recipe: Recipe, task: PartTask) -> frozenset[int]:
    found = [
        duplicates.read_repeats(recipe.dataset.join(file), task.number, recipe.num_parts[task.source]).tolist()
        for file in recipe.repeats.get(task.source, ())
    ]
    return frozenset(itertools.chain.from_iterable(found))


def reason_to_drop(recipe: Recipe, line: Line, lengths: Sequence[int]) -> str | None:
    """Says why a usable line is in no shard, or None; `lengths` are those of its sides, without `<eos>`."""
    reason = selection.reason_to_drop(recipe.corpus.filters, lengths, recipe.num_ends)
    return reason or ("duplicate" if line.repeated else None)


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """Returns compact JSON."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def commit_file(recipe: Recipe, name: str, data: bytes, values: Mapping[str, int] | None = None) -> Record:
    """Puts what a later pass reads beside the dataset, and commits the task."""
    file = commit.put_content(recipe.dataset, f"{STAGING}/{name}", ".bin", data)
    return recipe.store.commit(name, {"files": [file.to_json()], **(values or {})})
