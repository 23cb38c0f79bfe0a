"""Line tasks of prepare: staging, counting, deduplication, and encoding into shards.

A task is a part (or a file, a block, a partition of hashes) and the name of its commit record. There is one function
for each kind of task; it takes the recipe, which is the same for all tasks of a pass, and the task. It writes a file
whose name contains the hash of its bytes, and a commit record. Both depend on the recipe and the task alone, so the
result does not depend on which worker runs a task, how often, or in which order.
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
from core.data.text import cleaning, corpus, selection, source_files, sources
from core.data.tokens import tokenizer
from core.storage import commit, concurrent, location

STAGING = ".staging"
BATCH_LINES = 1024
_DROP_REASONS = {"too_long": "too_many_bytes"}  # as a reason to drop, `too_long` is a number of tokens

Record = dict[str, Any]
Rows = list[list[int]]
Encoded = tuple[list[int], list[shards.Ragged]]  # line numbers, and the token ids of each column


@dataclass(frozen=True)
class DuplicateFiles:
    """Files that list the duplicate lines of a source, each of `parts_of_file` consecutive parts, but for the last."""

    names: tuple[str, ...]
    parts_of_file: int


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the dataset, for all tasks of a pass.

    Attributes:
        corpus: the settings of the corpus.
        tokenizer: the settings of the tokenizer.
        seed: of splits and samples.
        dataset: the folder of the dataset.
        plan: the plan of its part store.
        corpus_name: empty for the only corpus of a run.
        corpus_number: its place among the corpora.
        target_token: token that begins the source lines of this corpus, if any.
        target_tokens: those of all corpora.
        splittings: the assignment of lines to splits, by source.
        num_parts: number of parts, by source.
        num_partitions: number of partitions of the line hashes, by source.
        num_word_partitions: number of partitions of the word counts.
        duplicates: the files that list the duplicate lines, by source.
        sample_share: share of the lines that a subword tokenizer is trained on.
        tokenizers: the file of the tokenizer, by column; empty until it is made.
    """

    corpus: corpus_settings.CorpusConfig
    tokenizer: corpus_settings.TokenizerConfig
    seed: int
    dataset: location.Location
    plan: Mapping[str, Any]
    corpus_name: str = ""
    corpus_number: int = 0
    target_token: str | None = None
    target_tokens: tuple[str, ...] = ()
    splittings: Mapping[str, selection.Splitting] = field(default_factory=dict)
    num_parts: Mapping[str, int] = field(default_factory=dict)
    num_partitions: Mapping[str, int] = field(default_factory=dict)
    num_word_partitions: int = 1
    duplicates: Mapping[str, DuplicateFiles] = field(default_factory=dict)
    sample_share: float = 1.0
    tokenizers: Mapping[str, commit.FileRecord] = field(default_factory=dict)

    @property
    def store(self) -> commit.PartStore:
        """The store of the commit records of tasks."""
        return commit.PartStore(self.dataset, self.plan)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the dataset."""
        return dataset_index.COLUMNS[self.corpus.kind]

    @property
    def prefix(self) -> str:
        """Prefix of the names of tasks and shards, which keeps those of several corpora apart."""
        # Empty for a single corpus, whose files and records keep their plain names.
        return self.corpus_name and f"{self.corpus_name}."

    @property
    def num_eos(self) -> int:
        """The number of `<eos>` tokens at the end of each side of a line: 1 or 0."""
        return int(self.corpus.kind == "pairs" or self.corpus.line_end == "eos")

    @property
    def line_suffix(self) -> str:
        """The text after each line of a corpus of text."""
        return " " if self.corpus.kind == "text" and self.corpus.line_end == "space" else ""

    @property
    def truncated_length(self) -> int | None:
        """The number of tokens to which a side is cut, `<eos>` included; None to keep all."""
        return self.corpus.filters.max_length if self.corpus.filters.too_long == "cut" else None


@dataclass(frozen=True)
class StageTask:
    """A file to copy as plain text, and its expected checksum."""

    name: str
    file: source_files.File
    sha256: str | None
    weight: int = 1


@dataclass(frozen=True)
class BlockTask:
    """A block of a file whose lines are counted."""

    file: location.Location
    start: int
    stop: int


@dataclass(frozen=True)
class PartTask:
    """A part of a source: its lines are hashed, counted, sampled or encoded, depending on the pass.

    Attributes:
        name: of its commit record.
        source: `train`, `valid` or `test`.
        number: of the part in its source.
        part: the lines.
        max_tokens: tokens that this part may contribute to the training stream; None for all.
    """

    name: str
    source: str
    number: int
    part: corpus.LineRange
    max_tokens: int | None = None

    @property
    def weight(self) -> int:
        """The number of lines."""
        return self.part.num_lines


Function = Callable[[Recipe, Any], Record]
"""The work of a pass: applied to each of its tasks by a worker."""


class Line(NamedTuple):
    """A cleaned line, its split, and whether it is a duplicate of an earlier one."""

    number: int
    sides: tuple[str, ...]
    split: str
    is_duplicate: bool


@dataclass(frozen=True)
class _Counters:
    """Numbers of dropped lines and of repairs, by reason."""

    drops: collections.Counter[str] = field(default_factory=collections.Counter)
    repairs: collections.Counter[str] = field(default_factory=collections.Counter)


def make_worker(function: Callable[[Recipe, Any], Any], recipe: Recipe) -> Callable[[Any], Any]:
    """Returns the callable that a worker applies to each task of a pass."""
    # A partial, which plain pickle takes, unlike a closure.
    return functools.partial(function, recipe)


def make_encoder(recipe: Recipe) -> Callable[[PartTask], Record]:
    """Returns the callable of the encoding pass; loads the tokenizers once for each worker."""
    return functools.partial(encode, recipe, load_tokenizers(recipe))


def load_tokenizers(recipe: Recipe) -> dict[str, tokenizer.Tokenizer]:
    """Reads and verifies the tokenizer of each column."""
    tokenizers: dict[str, tokenizer.Tokenizer] = {}
    for column, record in recipe.tokenizers.items():
        data = commit.read_file(recipe.dataset, record)
        tokenizers[column] = tokenizer.Tokenizer.from_json(data.decode(), str(recipe.dataset.join(record.name)))
    return tokenizers


def stage(recipe: Recipe, task: StageTask) -> Record:
    """Verifies the checksum of a file, and makes a plain copy if it is not plain text."""
    folder = recipe.dataset.join(STAGING)
    plain = sources.stage(task.file, folder, task.sha256, strict=recipe.corpus.on_bad_line == "fail")
    # Listed, so that removing the dataset also removes the copy. A plain file is the user's, and stays.
    copies = [] if plain == task.file.origin else [commit.FileRecord(f"{STAGING}/{plain.name}", "", plain.size_bytes())]
    return recipe.store.commit(task.name, {"url": plain.url, "files": [record.to_json() for record in copies]})


def count_block(recipe: Recipe, task: BlockTask) -> corpus.BlockCount:
    """Counts the lines that begin in a block of a file."""
    del recipe  # a count is the same under every recipe
    return corpus.count_block(task.file, task.start, task.stop)


def encode(recipe: Recipe, tokenizers: Mapping[str, tokenizer.Tokenizer], task: PartTask) -> Record:
    """Writes the shards of a part: one for each split that one of its lines belongs to."""
    counters = _Counters()
    encoded: dict[str, list[Encoded]] = collections.defaultdict(list)
    # Encoded apart from the lines, whose length for the filters does not include it.
    endings = [[*codec.encode(recipe.line_suffix), *([codec.eos_id] * recipe.num_eos)] for codec in tokenizers.values()]
    beginning = [tokenizers["source"].reserved.index(recipe.target_token)] if recipe.target_token else []
    remaining_tokens, length, reason_to_drop = task.max_tokens, recipe.truncated_length, line_filter(recipe)
    for batch in _read_batches(recipe, task, counters):
        ids_of_sides = [
            codec.encode_lines([line.sides[side] for line in batch]) for side, codec in enumerate(tokenizers.values())
        ]
        kept: dict[str, tuple[list[int], list[Rows]]] = {}
        for line, *sides in zip(batch, *ids_of_sides, strict=True):
            reason = reason_to_drop(line, [*map(len, sides)])
            # The limit is of the training stream alone: lines of this part that belong to another split are kept.
            if reason is None and line.split == "train" and remaining_tokens == 0:
                reason = "limit"
            if reason is not None:
                counters.drops[reason] += 1
                continue
            # The target token comes on top of the limits, and an empty source line stays empty.
            is_begun = bool(beginning and sides[0])
            for ids, ending in zip(sides, endings, strict=True):
                ids += ending  # in place: the ids of a line belong to it alone
                if length:
                    del ids[length:]
            rows = sides
            if is_begun:
                rows[0] = beginning + rows[0]
            # The last line is cut, so that the stream has exactly `limit.tokens` tokens.
            if remaining_tokens is not None and line.split == "train":
                rows[0] = rows[0][:remaining_tokens]
                remaining_tokens -= len(rows[0])
            numbers, columns = kept.setdefault(line.split, ([], [[] for _ in rows]))
            numbers.append(line.number)
            for column, row in zip(columns, rows, strict=True):
                column.append(row)
        for split, (numbers, columns) in kept.items():  # arrays take a tenth of the memory of lists of numbers
            encoded[split].append((numbers, [shards.ragged(rows) for rows in columns]))
    return _commit_shards(recipe, tokenizers, task, encoded, counters)


def _commit_shards(
    recipe: Recipe,
    tokenizers: Mapping[str, tokenizer.Tokenizer],
    task: PartTask,
    encoded: Mapping[str, Sequence[Encoded]],
    counters: _Counters,
) -> Record:
    splits = [split for split in dataset_index.SPLITS if split in encoded]
    put = functools.partial(_put_shard, recipe, tokenizers, task)
    written = list(concurrent.map_in_order(lambda split: put(split, encoded[split]), splits))
    files = [file.to_json() for file, _, _ in written]
    # Stored as "task", the former name of one of several corpora.
    shard_records = {
        split: {**file.to_json(), **counts, "task": recipe.corpus_name}
        for split, (file, counts, _) in zip(splits, written, strict=True)
    }
    num_unk = {split: unk for split, (_, _, unk) in zip(splits, written, strict=True)}
    num_kept = sum(shard["rows"] for shard in shard_records.values())
    num_dropped = sum(counters.drops.values())
    # The index is refused if these do not sum up; here the error still names the part.
    assert num_kept + num_dropped == task.part.num_lines, f"{task.name}: a line is neither kept nor dropped"
    record = {
        "files": files,
        "shards": shard_records,
        "lines": task.part.num_lines,
        "num_unk": num_unk,
        "drops": dict(sorted(counters.drops.items())),
        "repairs": dict(sorted(counters.repairs.items())),
    }
    return recipe.store.commit(task.name, record)


def _put_shard(
    recipe: Recipe,
    tokenizers: Mapping[str, tokenizer.Tokenizer],
    task: PartTask,
    split: str,
    encoded: Sequence[Encoded],
) -> tuple[commit.FileRecord, dict[str, Any], dict[str, int]]:
    """Writes a shard; returns its file, its numbers of rows and tokens, and its unknown tokens by column."""
    sizes = {column: codec.vocabulary_size for column, codec in tokenizers.items()}
    line_numbers = [number for numbers, _ in encoded for number in numbers]
    columns = {column: shards.join([sides[side] for _, sides in encoded]) for side, column in enumerate(recipe.columns)}
    data = shards.encode_shard(columns, line_numbers, sizes)
    file = commit.put_content(recipe.dataset, f"{split}/{recipe.prefix}part-{task.number:05d}", ".arrow", data)
    tokens = {column: len(side.values) for column, side in columns.items()}
    unk = {column: int((side.values == tokenizers[column].unk_id).sum()) for column, side in columns.items()}
    return file, {"rows": len(line_numbers), "tokens": tokens}, unk


def lines(recipe: Recipe, task: PartTask) -> Iterator[Line]:
    """Yields the usable lines of a part, cleaned."""
    return itertools.chain.from_iterable(_read_batches(recipe, task, _Counters()))


def _read_batches(recipe: Recipe, task: PartTask, counters: _Counters) -> Iterator[list[Line]]:
    """Yields the usable lines of a part, cleaned, in batches; counts bad lines and repairs."""
    settings, splitting = recipe.corpus, recipe.splittings[task.source]
    duplicate_lines = _read_duplicates(recipe, task)
    all_lines = corpus.read_lines(task.part, counters.repairs, check_sizes=False)
    # Bad lines are left out before cleaning, so a batch may shrink, even to nothing.
    while batch := list(itertools.islice(all_lines, BATCH_LINES)):
        usable: list[tuple[int, corpus.Sides]] = []
        for number, sides in batch:
            if isinstance(sides, corpus.BadLine):
                reason = _DROP_REASONS.get(sides.reason, sides.reason)
                if settings.on_bad_line == "fail":
                    raise errors.DataError(
                        f"{sides.where}: is a bad line ({reason}); correct it, or set corpus.on_bad_line: skip"
                    )
                counters.drops[reason] += 1
                continue
            usable.append((number, sides))
        if not usable:
            yield []
            continue
        numbers = [number for number, _ in usable]
        columns = [
            cleaning.clean_lines(column, settings.cleaning) for column in zip(*(s for _, s in usable), strict=True)
        ]
        # The split is that of the cleaned source side: lines that become equal by cleaning stay in one split.
        splits = map(splitting.assign, numbers, columns[0])
        yield list(map(Line, numbers, zip(*columns, strict=True), splits, map(duplicate_lines.__contains__, numbers)))


def _read_duplicates(recipe: Recipe, task: PartTask) -> frozenset[int]:
    """Reads the numbers of the duplicate lines of a part."""
    files = recipe.duplicates.get(task.source)
    if files is None:
        return frozenset()
    number, part = divmod(task.number, files.parts_of_file)
    num_parts = min(files.parts_of_file, recipe.num_parts[task.source] - number * files.parts_of_file)
    lines = duplicates.read_duplicates(recipe.dataset, files.names[number], range(part, part + 1), num_parts)
    return frozenset(lines.tolist())


def line_filter(recipe: Recipe) -> Callable[[Line, Sequence[int]], str | None]:
    """Returns the function that returns the reason to drop a usable line, or None.

    The lengths are those of its sides, without `<eos>`.
    """
    reason_of_lengths = selection.line_filter(recipe.corpus.filters, recipe.num_eos)

    def reason_to_drop(line: Line, lengths: Sequence[int]) -> str | None:
        # Last: a line that a filter drops counts as such, even where it is a duplicate.
        return reason_of_lengths(lengths) or ("duplicate" if line.is_duplicate else None)

    return reason_to_drop


def json_bytes(content: Mapping[str, Any]) -> bytes:
    """Returns compact JSON."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def commit_file(recipe: Recipe, name: str, data: bytes, values: Mapping[str, Any] | None = None) -> Record:
    """Writes an intermediate file for a later pass, and commits the task."""
    file = commit.put_content(recipe.dataset, f"{STAGING}/{name}", ".bin", data)
    return recipe.store.commit(name, {"files": [file.to_json()], **(values or {})})
