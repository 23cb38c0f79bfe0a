"""Memory of a merge of word counts: that of a partition and a vocabulary, for any number of words."""

import tracemalloc
from collections.abc import Sequence
from pathlib import Path

from core.config import corpus_settings
from core.data.dataset import word_counts
from core.data.tokens import vocabulary
from core.storage import commit, location
from workers.prepare import line_tasks, pass_runner, vocabularies, word_merge

_MAX_SIZE = 100


def _recipe(folder: Path) -> line_tasks.Recipe:
    made = line_tasks.Recipe(
        corpus=corpus_settings.CorpusConfig.model_validate({"kind": "text", "train": {"text": ("a",)}}),
        tokenizer=corpus_settings.TokenizerConfig.model_validate({"kind": "word", "max_size": _MAX_SIZE}),
        seed=1,
        dataset=location.Location.parse(str(folder)),
        plan={"made": "for a test"},
    )
    made.store.begin()
    return made


def _peak_bytes(folder: Path, num_words: int, num_partitions: int) -> int:
    """Merges two files with all words each, and returns the peak of traced memory."""
    recipe = _recipe(folder)
    files = []
    for part in range(2):
        counts = vocabulary.Counts()
        counts.add(f"{number:08x}" for number in range(num_words))
        data = word_counts.pack({"text": counts}, part << 32, num_partitions)
        files.append(commit.put_content(recipe.dataset, "words", ".bin", data).name)
    del counts, data

    def run(
        action: str,
        unit: str,
        tasks: Sequence[pass_runner.PassTask],
        function: line_tasks.Function,
    ) -> pass_runner.Records:
        return {task.name: function(recipe, task) for task in tasks}

    tracemalloc.start()
    merged, kept = word_merge.merge(files, num_partitions, run)
    task = vocabularies.VocabularyTask("tokenizer-text", ("text",), tuple(merged), None, kept["text"])
    record = vocabularies.make_tokenizer(recipe, task)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert record["vocabulary_size"] == _MAX_SIZE
    assert record["coverage"][0] == {"min_freq": 1, "units": num_words, "share": 1.0}
    assert record["coverage"][2]["units"] == 0, "each word occurs twice"
    return peak


def test_a_merge_takes_the_memory_of_a_partition(tmp_path: Path) -> None:
    few, many = _peak_bytes(tmp_path / "few", 2000, 2), _peak_bytes(tmp_path / "many", 40_000, 40)
    # A word with its count takes more than 100 bytes; 38,000 more in memory would be 4 MB.
    assert many - few < 400_000, (few, many)
