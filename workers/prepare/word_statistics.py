"""Word statistics of a dataset: one task counts each training shard, and a last task merges the counts."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from core.data.dataset import arrow_file, dataset_index, statistics
from core.data.tokens import tokenizer
from core.storage import commit
from workers.prepare import intermediate_files, line_tasks


@dataclass(frozen=True)
class CountTask:
    """A training shard whose words, and n-grams if `with_ngrams`, are counted."""

    name: str
    shard: dataset_index.ShardRecord
    with_ngrams: bool

    @property
    def weight(self) -> int:
        """The number of lines."""
        return self.shard.rows


@dataclass(frozen=True)
class SummaryTask:
    """The counts to merge.

    Attributes:
        name: of its commit record.
        files: the counts of each shard.
        ngram_tokens: number of tokens whose n-grams were counted.
        coverage: by column, the words that each `min_freq` would keep.
    """

    name: str
    files: tuple[str, ...]
    ngram_tokens: int
    coverage: Mapping[str, Sequence[Mapping[str, float]]]
    weight: int = 1


def make_counter(recipe: line_tasks.Recipe) -> Callable[[CountTask], line_tasks.Record]:
    """Returns the callable that counts a shard; loads the tokenizers once for each worker."""
    return functools.partial(_count, recipe, line_tasks.load_tokenizers(recipe))


def _count(
    recipe: line_tasks.Recipe, tokenizers: Mapping[str, tokenizer.Tokenizer], task: CountTask
) -> line_tasks.Record:
    """Writes the counts of one shard."""
    sizes = {column: codec.vocabulary_size for column, codec in tokenizers.items()}
    file, record = recipe.dataset.join(task.shard.name), task.shard
    expected = arrow_file.Expected(str(file), record.size_bytes, record.sha256, record.rows, record.tokens, sizes)
    # Not hashed: training verifies each shard when it first uses it.
    shard = arrow_file.open_shard(file, expected, verify=False)
    has_eos = recipe.num_eos > 0
    counts = {
        column: statistics.count(side.values, side.offsets, tokenizers[column], has_eos, task.with_ngrams)
        for column, side in shard.sides.items()
    }
    return line_tasks.commit_file(recipe, task.name, statistics.pack(counts))


def summarize(recipe: line_tasks.Recipe, task: SummaryTask) -> line_tasks.Record:
    """Merges the counts of all shards, one after the other to save memory, and writes the statistics file."""
    totals: dict[str, statistics.Counts] = {}
    for _, data in intermediate_files.read_contents(recipe, task.files):
        counts = statistics.unpack(data, recipe.columns)
        for column, shard_counts in counts.items():
            totals[column] = statistics.merge(totals[column], shard_counts) if column in totals else shard_counts
    tokenizers = line_tasks.load_tokenizers(recipe)
    columns = {
        column: statistics.summary(totals[column], tokenizers[column], task.coverage.get(column, ()))
        for column in recipe.columns
    }
    # One task merges all, in the order of the shards: the file is the same for any number of workers.
    document = line_tasks.json_bytes(statistics.document(columns, task.ngram_tokens))
    file_record = commit.put_content(recipe.dataset, statistics.STEM, ".json", document)
    return recipe.store.commit(task.name, {"files": [file_record.to_json()]})


def choose_ngram_shards(shards: Sequence[dataset_index.ShardRecord]) -> list[bool]:
    """Returns True for each shard whose n-grams are counted: all, or an evenly spread subset that fits in memory."""
    num_tokens = sum(max(shard.tokens.values()) for shard in shards)
    share = min(1.0, statistics.NGRAM_TOKENS / max(num_tokens, 1))
    # True each time that the running total of shares passes a whole number: evenly spread, without a generator.
    return [int((number + 1) * share) > int(number * share) for number in range(len(shards))]
