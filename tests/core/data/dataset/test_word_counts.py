"""Word counts by partition: the vocabulary is that of all counts together."""

import collections
import random
from pathlib import Path

import pytest

from core.data.dataset import grouped_file, word_counts
from core.data.tokens import vocabulary
from core.storage import commit, location

RESERVED = ("<unk>", "<eos>", "w3")


@pytest.mark.parametrize("partitions", [1, 2, 7])
@pytest.mark.parametrize(("min_freq", "max_size"), [(1, None), (3, None), (1, 20), (2, 4)])
def test_a_vocabulary_of_merged_partitions_equals_that_of_all_counts(
    tmp_path: Path, partitions: int, min_freq: int, max_size: int | None
) -> None:
    chance = random.Random(partitions)
    folder = location.Location.parse(str(tmp_path))
    everything = vocabulary.Counts()
    files = []
    for part in range(5):
        # Rare words with many equal counts, so that the order of first occurrence decides; one has a line feed.
        words = [f"w{int(chance.expovariate(0.02))}" for _ in range(60)] + ["é\n"]
        counts = vocabulary.Counts()
        counts.add(words)
        everything.merge(counts)
        data = word_counts.pack({"text": counts}, part << 32, partitions)
        files.append(commit.put_content(folder, "words", ".bin", data).name)
    # As where there are many files: those of two parts, then those of three, each with two partitions at most.
    kept: list[word_counts.Entry] = []
    num_words = 0
    for start in range(0, partitions, 2):
        held = range(start, min(start + 2, partitions))
        gathered = [
            commit.put_content(folder, "gathered", ".bin", word_counts.gather(folder, group, held, partitions)).name
            for group in (files[:2], files[2:])
        ]
        for number in range(len(held)):
            groups = [grouped_file.read(folder, name, range(number, number + 1), len(held)) for name in gathered]
            entries = word_counts.merge(groups, ["text"])["text"]
            num_words += len(entries)
            kept = word_counts.keep([*kept, *entries], min_freq, max_size, RESERVED)
    counts = word_counts.to_counts(kept)
    assert num_words == len(everything.by_unit)
    assert vocabulary.build(counts, min_freq, max_size, RESERVED) == vocabulary.build(
        everything, min_freq, max_size, RESERVED
    )


def test_a_merge_adds_counts_and_keeps_the_first_position() -> None:
    """Of the parts "b a b" and "a c", with positions from 0 and from 10."""
    groups = []
    for first_position, words in ((0, "bab"), (10, "ac")):
        data = word_counts.pack({"text": vocabulary.Counts(collections.Counter(words))}, first_position, 1)
        groups.append(memoryview(data)[data.index(b"{") :])
    assert word_counts.merge(groups, ["text"]) == {"text": [("b", 2, 0), ("a", 2, 1), ("c", 1, 11)]}
    assert word_counts.keep(word_counts.merge(groups, ["text"])["text"], 2, None, ["b"]) == [("a", 2, 1)]


def test_a_terabyte_has_a_partition_for_every_four_gigabytes() -> None:
    assert word_counts.num_partitions(1 << 40) == 257
    assert word_counts.num_partitions(1 << 30) == 1
