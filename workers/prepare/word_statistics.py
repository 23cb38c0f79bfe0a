"""Word statistics of a dataset, and the lengths of the rows of pairs.

Each shard is read once, for both, and a last task merges the counts of words.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from core.data.dataset import arrow_file, lengths_file, shard_table, statistics
from core.data.tokens import tokenizer
from core.storage import commit
from workers.prepare import intermediate_files, line_tasks


@dataclass(frozen=True)
class ShardsTask:
    """Consecutive shards of a split, each of which is read once.

    Attributes:
        name: of its commit record.
        shards: the shards.
        counts_ngrams: for each shard whether its n-grams are counted; empty: its words are not counted, either.
        lengths: stem of the file for the lengths of the rows; empty: none is written.
    """

    name: str
    shards: tuple[shard_table.ShardRecord, ...]
    counts_ngrams: tuple[bool, ...]
    lengths: str

    @property
    def weight(self) -> int:
        """The number of lines."""
        return sum(shard.rows for shard in self.shards)

    @property
    def ngram_tokens(self) -> int:
        """The number of tokens whose n-grams are counted."""
        # Of the longer side, by which `choose_ngram_shards` limits the sample.
        counted = zip(self.shards, self.counts_ngrams, strict=False)
        return sum(max(shard.tokens.values()) for shard, is_counted in counted if is_counted)


@dataclass(frozen=True)
class SummaryTask:
    """The counts to merge.

    Attributes:
        name: of its commit record.
        files: the counts of each group of shards.
        ngram_tokens: number of tokens whose n-grams were counted.
        coverage: by column, the words that each `min_freq` would keep.
    """

    name: str
    files: tuple[str, ...]
    ngram_tokens: int
    coverage: Mapping[str, Sequence[Mapping[str, float]]]
    weight: int = 1


def make_reader(recipe: line_tasks.Recipe) -> Callable[[ShardsTask], line_tasks.Record]:
    """Returns the callable that reads shards; loads the tokenizers once for each worker."""
    return functools.partial(_read_shards, recipe, line_tasks.load_tokenizers(recipe))


def _read_shards(
    recipe: line_tasks.Recipe, tokenizers: Mapping[str, tokenizer.Tokenizer], task: ShardsTask
) -> line_tasks.Record:
    """Writes the counts of some shards, and the lengths of their rows."""
    sizes = {column: codec.vocabulary_size for column, codec in tokenizers.items()}
    totals: dict[str, statistics.Counts] = {}
    lengths = []
    for number, record in enumerate(task.shards):
        file = recipe.dataset.join(record.name)
        expected = arrow_file.Expected(str(file), record.size_bytes, record.sha256, record.rows, record.tokens, sizes)
        shard = arrow_file.read_shard(file, expected)
        if task.lengths:
            lengths.append(lengths_file.of_shard(shard))
        if task.counts_ngrams:
            _add(totals, _count(recipe, tokenizers, shard, task.counts_ngrams[number]))
    written = {}
    if task.lengths:
        data = lengths_file.write(lengths)
        written["lengths"] = commit.put_content(recipe.dataset, task.lengths, ".arrow", data).to_json()
    if task.counts_ngrams:
        stem = f"{line_tasks.STAGING}/{task.name}"
        written["counts"] = commit.put_content(recipe.dataset, stem, ".bin", statistics.pack(totals)).to_json()
    return recipe.store.commit(task.name, {"files": [*written.values()], **written})


def _count(
    recipe: line_tasks.Recipe,
    tokenizers: Mapping[str, tokenizer.Tokenizer],
    shard: arrow_file.Shard,
    counts_ngrams: bool,
) -> dict[str, statistics.Counts]:
    has_eos = recipe.num_eos > 0
    return {
        column: statistics.count(side.values, side.offsets, tokenizers[column], has_eos, counts_ngrams)
        for column, side in shard.sides.items()
    }


def _add(totals: dict[str, statistics.Counts], counts: Mapping[str, statistics.Counts]) -> None:
    for column, more in counts.items():
        totals[column] = statistics.merge(totals[column], more) if column in totals else more


def summarize(recipe: line_tasks.Recipe, task: SummaryTask) -> line_tasks.Record:
    """Merges the counts of all shards, one after the other to save memory, and writes the statistics file."""
    totals: dict[str, statistics.Counts] = {}
    for _, data in intermediate_files.read_contents(recipe, task.files):
        _add(totals, statistics.unpack(data, recipe.columns))
    tokenizers = line_tasks.load_tokenizers(recipe)
    columns = {
        column: statistics.summary(totals[column], tokenizers[column], task.coverage.get(column, ()))
        for column in recipe.columns
    }
    # One task merges all, in the order of the shards: the file is the same for any number of workers.
    document = line_tasks.json_bytes(statistics.document(columns, task.ngram_tokens))
    file_record = commit.put_content(recipe.dataset, statistics.STEM, ".json", document)
    return recipe.store.commit(task.name, {"files": [file_record.to_json()]})


def choose_ngram_shards(shards: Sequence[shard_table.ShardRecord]) -> list[bool]:
    """Returns True for each shard whose n-grams are counted: all, or an evenly spread subset that fits in memory."""
    num_tokens = sum(max(shard.tokens.values()) for shard in shards)
    share = min(1.0, statistics.NGRAM_TOKENS / max(num_tokens, 1))
    # True each time that the running total of shares passes a whole number: evenly spread, without a generator.
    return [int((number + 1) * share) > int(number * share) for number in range(len(shards))]
