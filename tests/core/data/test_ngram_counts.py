"""Tests of n-gram counts."""

import collections
import pathlib
import re

import numpy as np
import pytest

from core import errors
from core.data import ngram_counts
from core.data.batching import lanes

END = 7


def _as_dict(counts: ngram_counts.Counts) -> dict[tuple[int, ...], int]:
    return dict(zip(map(tuple, counts.ngrams_RN.tolist()), counts.counts_R.tolist(), strict=True))


def test_bigram_counts_by_hand() -> None:
    # a b a b c
    counts = ngram_counts.count(np.array([0, 1, 0, 1, 2]), 0, 5, 2, END)
    assert _as_dict(counts) == {(0, 1): 2, (1, 0): 1, (1, 2): 1, (2, END): 1}
    assert counts.ngrams_RN.tolist() == sorted(counts.ngrams_RN.tolist())


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("end", [END, 1 << 17, (1 << 32) - 1])
def test_merged_counts_of_parts_equal_those_of_the_stream(order: int, end: int) -> None:
    stream = np.random.default_rng(order).integers(0, END, 200)
    parts = [ngram_counts.count(stream, start, min(start + 33, 200), order, end) for start in range(0, 200, 33)]
    windows = [(*stream[start : start + order].tolist(), *[end] * order)[:order] for start in range(200)]
    whole = ngram_counts.merge(parts, end)
    assert _as_dict(whole) == collections.Counter(windows)
    assert whole.ngrams_RN.tolist() == sorted(whole.ngrams_RN.tolist())


@pytest.mark.parametrize("max_merged", [2, 64])
@pytest.mark.parametrize("rows", [1, 10, 1000])
def test_parts_on_disk_are_merged_in_order_a_few_ngrams_at_a_time(
    rows: int, max_merged: int, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ngram_counts, "_MAX_MERGED", max_merged)
    stream = np.random.default_rng(1).zipf(1.5, 200).clip(max=END - 1)
    parts = [ngram_counts.count(stream, start, min(start + 33, 200), 3, END) for start in range(0, 200, 33)]
    stored = [
        ngram_counts.store(
            [
                ngram_counts.Counts(part.ngrams_RN[:9], part.counts_R[:9]),
                ngram_counts.Counts(part.ngrams_RN[9:], part.counts_R[9:]),
            ],
            tmp_path / f"{number}.arrow",
            3,
        )
        for number, part in enumerate(parts)
    ]
    blocks = list(ngram_counts.merged(stored, END, tmp_path, rows))
    # Twice as many n-grams as asked for, and one of each part whose last one lies between two samples.
    assert max(len(block.counts_R) for block in blocks) <= 2 * rows + len(parts)
    whole = ngram_counts.merge(parts, END)
    assert np.concatenate([block.ngrams_RN for block in blocks]).tolist() == whole.ngrams_RN.tolist()
    assert np.concatenate([block.counts_R for block in blocks]).tolist() == whole.counts_R.tolist()
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".arrow") == []


def test_counts_written_in_blocks_have_the_bytes_of_those_written_at_once(tmp_path: pathlib.Path) -> None:
    counts = ngram_counts.count(np.random.default_rng(1).integers(0, END, 50), 0, 50, 2, END)
    halves = [ngram_counts.Counts(counts.ngrams_RN[:20], counts.counts_R[:20])]
    halves.append(ngram_counts.Counts(counts.ngrams_RN[20:], counts.counts_R[20:]))
    stored = ngram_counts.store(halves, tmp_path / "counts.arrow", 2)
    assert stored.path.read_bytes() == ngram_counts.encode(counts)
    assert stored.ngram(3) == tuple(counts.ngrams_RN[3].tolist())
    assert stored.position(stored.ngram(3)) == 3


@pytest.mark.parametrize(("bits", "size"), [(4, 3000), (20, 3000), (31, 100_000)])
def test_ngrams_are_sorted_whether_or_not_their_index_fits_beside_them(bits: int, size: int) -> None:
    stream = np.random.default_rng(bits).integers(0, 1 << bits, size)
    stream[size // 2 :] = stream[: size // 2]  # so that some occur twice
    counts = ngram_counts.count(stream, 0, size, 3, 1 << bits)
    rows = counts.ngrams_RN.tolist()
    assert rows == sorted(rows)
    windows = np.lib.stride_tricks.sliding_window_view([*stream.tolist(), 1 << bits, 1 << bits], 3).tolist()
    assert _as_dict(counts) == collections.Counter(map(tuple, windows))


def test_counts_of_lines_by_hand() -> None:
    # The lines "a b" and "a", and an empty one; 5 is the line end.
    stream = ngram_counts.WholeLines(np.array([0, 1, 5, 0, 5, 5]), 5, backward=False)
    counts = ngram_counts.count_lines(stream, 0, len(stream), 3, END, 5)
    assert _as_dict(counts) == {
        **{(5, 0, 1): 1, (0, 1, 5): 1, (1, 5, END): 1},  # a b
        **{(5, 0, 5): 1, (0, 5, END): 1, (5, 5, END): 1},  # a, and nothing
        (5, END, END): 3,  # as many line ends as lines
    }
    assert counts.ngrams_RN.tolist() == sorted(counts.ngrams_RN.tolist())


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_merged_counts_of_parts_of_lines_equal_those_of_all_lines(order: int) -> None:
    rng = np.random.default_rng(order)
    lines = [rng.integers(0, 5, rng.integers(0, 6)).tolist() for _ in range(60)]
    stream = ngram_counts.WholeLines(np.array([token for line in lines for token in (*line, 5)]), 5, backward=False)
    size = len(stream)
    parts = [
        ngram_counts.count_lines(stream, start, min(start + 17, size), order, END, 5) for start in range(0, size, 17)
    ]
    padded: collections.Counter[tuple[int, ...]] = collections.Counter()
    for line in lines:
        whole = [5, *line, 5]
        # All that begin in the line, but for the beginning itself where nothing may follow it.
        for start in range(1 if order == 1 else 0, len(whole)):
            padded[(*whole[start : start + order], *[END] * order)[:order]] += 1
    assert _as_dict(ngram_counts.merge(parts, END)) == padded


@pytest.mark.parametrize("cut", [{}, {(3, 5, END): 1, (5, END, END): 1}])
def test_lines_read_backward_have_the_counts_of_reversed_lines(cut: dict[tuple[int, ...], int]) -> None:
    # A last line that was cut off, "3 …", has no line end that could be the beginning of it.
    text = np.array([0, 1, 2, 5, 2, 5, 5, 1, 1, 5, *([3] if cut else [])])
    backward = ngram_counts.WholeLines(lanes.ReversedStream(text), 5, backward=True)
    forward = ngram_counts.WholeLines(np.array([1, 1, 5, 5, 2, 5, 2, 1, 0, 5]), 5, backward=False)
    counts = [_as_dict(ngram_counts.count_lines(stream, 0, len(stream), 3, END, 5)) for stream in (backward, forward)]
    assert counts[0] == collections.Counter(counts[1]) + collections.Counter(cut)


@pytest.mark.parametrize("backward", [False, True])
def test_slices_of_whole_lines_are_those_of_the_joined_array(backward: bool) -> None:
    text = np.arange(7)
    stream = ngram_counts.WholeLines(text, 9, backward)
    joined = [*text, 9] if backward else [9, *text]
    assert len(stream) == 8
    for start in range(9):
        for stop in range(start, 10):
            assert stream[start:stop].tolist() == joined[start:stop]


def test_encoded_counts_are_decoded() -> None:
    counts = ngram_counts.count(np.array([3, 1, 4, 1, 5, 3, 1]), 0, 7, 3, END)
    data = ngram_counts.encode(counts)
    assert _as_dict(ngram_counts.decode(data, 3, "here")) == _as_dict(counts)
    with pytest.raises(errors.IntegrityError, match="n-grams of order 2"):
        ngram_counts.decode(data, 2, "here")
    with pytest.raises(errors.IntegrityError, match="here"):
        ngram_counts.decode(data[: len(data) // 2], 3, "here")


@pytest.mark.data
def test_the_time_machine_has_the_ngram_counts_printed_in_d2l(corpora: pathlib.Path) -> None:
    text = (corpora / "timemachine" / "timemachine.txt").read_text()
    words = [word for line in text.splitlines() for word in re.sub("[^A-Za-z]+", " ", line).strip().lower().split()]
    ids = {word: number for number, word in enumerate(dict.fromkeys(words))}
    stream = np.array([ids[word] for word in words])
    bigrams = _as_dict(ngram_counts.count(stream, 0, len(stream), 2, len(ids)))
    trigrams = _as_dict(ngram_counts.count(stream, 0, len(stream), 3, len(ids)))
    expected = {"of the": 309, "in the": 169, "i had": 130, "i was": 112, "and the": 109, "the time": 102}
    assert {ngram: bigrams[tuple(ids[word] for word in ngram.split())] for ngram in expected} == expected
    expected = {"the time traveller": 59, "the time machine": 30, "the medical man": 24}
    assert {ngram: trigrams[tuple(ids[word] for word in ngram.split())] for ngram in expected} == expected
