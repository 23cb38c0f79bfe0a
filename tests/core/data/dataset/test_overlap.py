"""Overlap of held-out lines with training lines."""

from pathlib import Path

import numpy as np
import pytest

from core.data.dataset import arrow_file, overlap, shards
from core.data.tokens import tokenizer, vocabulary
from core.storage import location
from tests.core.training import builders


def _side(*rows: list[int]) -> arrow_file.Side:
    offsets = np.concatenate(([0], np.cumsum([len(row) for row in rows])))
    return arrow_file.Side(np.array([token for row in rows for token in row], np.uint16), offsets)


def test_rows_have_equal_hashes_if_and_only_if_they_are_equal() -> None:
    rows = [[1, 2], [2, 1], [1, 2], [1, 2, 0], [], [0], [0, 0], [3, 3], [1, 2]]
    hashes = overlap.hash_rows(_side(*rows)).tolist()
    by_hash: dict[int, list[list[int]]] = {}
    for row, value in zip([row for row in rows if row], hashes, strict=True):
        by_hash.setdefault(value, []).append(row)
    assert sorted(map(len, by_hash.values())) == [1, 1, 1, 1, 1, 3]


def test_a_hash_depends_on_the_row_alone_and_not_on_its_place_in_a_shard() -> None:
    alone = overlap.hash_rows(_side([7, 8, 9]))
    after = overlap.hash_rows(_side([1], [5, 5, 5, 5], [7, 8, 9]))
    assert alone.tolist() == after[-1:].tolist()


def test_rows_that_are_too_short_do_not_count() -> None:
    assert len(overlap.hash_rows(_side([1], [1, 2], [1, 2, 3]), shortest=2)) == 2


def dataset_of(folder: Path, kind: str, **splits: list[list[int]]) -> location.Location:
    """Writes a dataset of rows; of pairs every row has the same target."""
    counts = vocabulary.Counts()
    counts.add(f"w{number}" for number in range(40))
    made = tokenizer.from_counts("word", counts, 1, None, vocabulary.RESERVED)
    if kind == "text":
        return builders.write_dataset(
            folder, kind, {split: {"text": rows} for split, rows in splits.items()}, {"text": made}, "eos"
        )
    pairs = {split: {"source": rows, "target": [[9, 3]] * len(rows)} for split, rows in splits.items()}
    return builders.write_dataset(folder, kind, pairs, {"source": made, "target": made}, "eos")


def test_pairs_count_by_their_source_side_each_held_out_line_once(tmp_path: Path) -> None:
    train, test = [[5, 3], [6, 3], [5, 3], [7, 8, 3]], [[5, 3], [5, 3], [8, 7, 3], [7, 8, 3], [4, 3]]
    dataset = shards.Dataset.open(dataset_of(tmp_path, "pairs", train=train, test=test))
    assert overlap.count(dataset, "test") == overlap.Overlap("test", lines=5, in_training=3, is_all=True)
    assert overlap.count(dataset, "valid") is None


def test_lines_of_a_text_count_from_twenty_tokens_on(tmp_path: Path) -> None:
    row = [4 + number for number in range(20)]
    dataset = shards.Dataset.open(dataset_of(tmp_path, "text", train=[row, row[:19]], valid=[row, row[:19], row[::-1]]))
    assert overlap.count(dataset, "valid") == overlap.Overlap("valid", lines=2, in_training=1, is_all=True)


def test_a_dataset_without_training_lines_has_no_overlap(tmp_path: Path) -> None:
    dataset = shards.Dataset.open(dataset_of(tmp_path, "pairs", test=[[5, 3]]))
    assert overlap.count(dataset, "test") is None


def test_of_larger_splits_the_overlap_is_a_lower_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    joined = builders.several(
        tmp_path / "joined",
        a=dataset_of(tmp_path / "a", "pairs", train=[[5, 3], [6, 3]], valid=[[6, 3]]),
        b=dataset_of(tmp_path / "b", "pairs", train=[[7, 3]], valid=[[7, 3]]),
    )
    dataset = shards.Dataset.open(joined)
    # Lines of any corpus, in training lines of any.
    assert overlap.count(dataset, "valid") == overlap.Overlap("valid", lines=2, in_training=2, is_all=True)
    monkeypatch.setattr(overlap, "MAX_TOKENS", 4)
    assert overlap.count(dataset, "valid") == overlap.Overlap("valid", lines=2, in_training=1, is_all=False)
    monkeypatch.setattr(overlap, "MAX_TOKENS", 2)
    assert overlap.count(dataset, "valid") == overlap.Overlap("valid", lines=1, in_training=1, is_all=False)
