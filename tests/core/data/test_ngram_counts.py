"""Tests of n-gram counts."""

import collections
import pathlib
import re

import numpy as np
import pytest

from core import errors
from core.data import ngram_counts

END = 7


def _as_dict(counts: ngram_counts.Counts) -> dict[tuple[int, ...], int]:
    return dict(zip(map(tuple, counts.ngrams_RN.tolist()), counts.counts_R.tolist(), strict=True))


def test_bigram_counts_by_hand() -> None:
    # a b a b c
    counts = ngram_counts.count(np.array([0, 1, 0, 1, 2]), 0, 5, 2, END)
    assert _as_dict(counts) == {(0, 1): 2, (1, 0): 1, (1, 2): 1, (2, END): 1}
    assert counts.ngrams_RN.tolist() == sorted(counts.ngrams_RN.tolist())


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("end", [END, 1 << 17])
def test_merged_counts_of_parts_equal_those_of_the_stream(order: int, end: int) -> None:
    stream = np.random.default_rng(order).integers(0, END, 200)
    parts = [ngram_counts.count(stream, start, min(start + 33, 200), order, end) for start in range(0, 200, 33)]
    windows = [(*stream[start : start + order].tolist(), *[end] * order)[:order] for start in range(200)]
    whole = ngram_counts.merge(parts, end)
    assert _as_dict(whole) == collections.Counter(windows)
    assert whole.ngrams_RN.tolist() == sorted(whole.ngrams_RN.tolist())


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
