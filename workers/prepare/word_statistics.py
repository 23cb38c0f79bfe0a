"""Word statistics of a dataset: its training shards are counted by one task each, and a last one adds up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.data.dataset import arrow_file, dataset_index, statistics
from core.storage import commit
from workers.prepare import sharding


@dataclass(frozen=True)
class CountTask:
    """A training shard, and whether its n-grams are counted too."""

    name: str
    shard: dataset_index.ShardRecord
    with_ngrams: bool


@dataclass(frozen=True)
class SummaryTask:
    """The files of counts, of how many tokens they have the n-grams, and by column what `min_freq` would keep."""

    name: str
    files: tuple[str, ...]
    ngram_tokens: int
    coverage: Mapping[str, Sequence[Mapping[str, float]]]


def count(recipe: sharding.Recipe, task: CountTask) -> sharding.Record:
    """Writes the counts of one shard."""
    made = sharding.load_tokenizers(recipe)
    sizes = {column: one.vocabulary_size for column, one in made.items()}
    place, record = recipe.dataset.join(task.shard.name), task.shard
    expected = arrow_file.Expected(str(place), record.size_bytes, record.sha256, record.rows, record.tokens, sizes)
    shard = arrow_file.open_shard(place, expected, verify=False)
    separate = recipe.num_ends > 0
    counted = {
        column: statistics.count(side.values, side.offsets, made[column], separate, task.with_ngrams)
        for column, side in shard.sides.items()
    }
    return sharding.commit_file(recipe, task.name, statistics.pack(counted))


def summarize(recipe: sharding.Recipe, task: SummaryTask) -> sharding.Record:
    """Adds up the counts of all shards, one after the other, and writes the artefact."""
    totals: dict[str, statistics.Counts] = {}
    for file in task.files:
        counted = statistics.unpack(recipe.dataset.join(file).read_bytes(), recipe.columns)
        for column, one in counted.items():
            totals[column] = statistics.merge(totals[column], one) if column in totals else one
    made = sharding.load_tokenizers(recipe)
    columns = {
        column: statistics.summary(totals[column], made[column], task.coverage.get(column, ()))
        for column in recipe.columns
    }
    data = sharding.json_bytes(statistics.document(columns, task.ngram_tokens))
    file_record = commit.put_content(recipe.dataset, statistics.STEM, ".json", data)
    return recipe.store.commit(task.name, {"files": [file_record.to_json()]})


def chosen(shards: Sequence[dataset_index.ShardRecord]) -> list[bool]:
    """Says of which shards n-grams are counted: all, or as many, evenly spread, as their memory allows."""
    num_tokens = sum(max(shard.tokens.values()) for shard in shards)
    share = min(1.0, statistics.NGRAM_TOKENS / max(num_tokens, 1))
    return [int((number + 1) * share) > int(number * share) for number in range(len(shards))]
