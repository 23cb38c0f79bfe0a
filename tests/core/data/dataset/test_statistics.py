"""Word statistics against numbers worked by hand, plain counters and published figures."""

import collections
import itertools
import pathlib

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from core.data.dataset import shards, statistics
from core.data.text import cleaning
from core.data.tokens import tokenizer, vocabulary


def tokenizer_of(lines: list[str], reserved: tuple[str, ...], min_freq: int = 1) -> tokenizer.Tokenizer:
    counts = vocabulary.Counts()
    for line in lines:
        counts.add(vocabulary.split_units("word", line))
    return tokenizer.from_counts("word", counts, min_freq, None, reserved)


def counted(
    lines: list[str], words: tokenizer.Tokenizer, separate: bool = True, with_ngrams: bool = True
) -> statistics.Counts:
    ends = [] if words.eos_id is None else [words.eos_id]
    rows = shards.ragged([[*ids, *ends] for ids in words.encode_lines(lines)])
    offsets = np.concatenate(([0], np.cumsum(rows.lengths)))
    return statistics.count(rows.values, offsets, words, separate, with_ngrams)


def tops(summary: dict[str, object]) -> list[dict[tuple[str, ...], int]]:
    orders = summary["orders"]
    assert isinstance(orders, list)
    return [{tuple(units): count for units, count in order["top"]} for order in orders]


def test_word_statistics_worked_by_hand() -> None:
    lines = ["a b a b", "c", "", "b a"]
    words = tokenizer_of(lines, vocabulary.RESERVED, min_freq=2)
    summary = statistics.summary(counted(lines, words), words, ())
    assert (summary["lines"], summary["tokens"], summary["unknown"]) == (4, 7, 1)
    assert summary["lengths"] == [[0, 1], [1, 1], [2, 1], [4, 1]]
    assert tops(summary) == [
        {("a",): 3, ("b",): 3},
        {("a", "b"): 2, ("b", "a"): 2},
        {("a", "b", "a"): 1, ("b", "a", "b"): 1},
    ]
    assert summary["orders"][0]["zipf_exponent"] is None


def test_target_language_tokens_are_not_units() -> None:
    words = tokenizer_of(["a b"], (*vocabulary.RESERVED, "<2de>"))
    codec = tokenizer.Codec((), words).with_target_token("<2de>")
    rows = shards.ragged([[*ids, 3] for ids in codec.encode_lines(["a b", "b"])])
    summary = statistics.summary(statistics.count(rows.values, np.array([0, 4, 7]), words, True, True), words, ())
    assert (summary["tokens"], summary["lengths"]) == (3, [[1, 1], [2, 1]])
    assert tops(summary) == [{("b",): 2, ("a",): 1}, {("a", "b"): 1}, {}]


def test_ngrams_cross_line_ends_unless_separate() -> None:
    words = tokenizer_of(["a b"], ("<unk>",))
    joined = statistics.summary(counted(["a b", "a"], words, separate=False), words, ())
    apart = statistics.summary(counted(["a b", "a"], words, separate=True), words, ())
    assert tops(joined)[1:] == [{("a", "b"): 1, ("b", "a"): 1}, {("a", "b", "a"): 1}]
    assert tops(apart)[1:] == [{("a", "b"): 1}, {}]


@hypothesis.settings(deadline=None)
@hypothesis.given(st.lists(st.text("abc ", max_size=9), max_size=9), st.integers(0, 9))
def test_merged_shards_equal_the_whole_and_a_plain_counter(lines: list[str], middle: int) -> None:
    words = tokenizer_of(["a b c"], vocabulary.RESERVED)
    pieces = [counted(some, words) for some in (lines[:middle], lines[middle:])]
    travelled = [statistics.unpack(statistics.pack({"text": counts}), ["text"])["text"] for counts in pieces]
    whole = statistics.summary(counted(lines, words), words, ())
    assert statistics.summary(statistics.merge(*travelled), words, ()) == whole
    for order, top in zip(statistics.ORDERS, tops(whole), strict=True):
        expected: collections.Counter[tuple[str, ...]] = collections.Counter()
        for line in lines:
            units = [words.token(token) for token in words.encode(line)]
            ngrams = zip(*(units[start:] for start in range(order)), strict=False)
            expected.update(ngram for ngram in ngrams if "<unk>" not in ngram)
        assert top == dict(expected)


def test_zipf_exponent_of_an_exact_power_law() -> None:
    ranks = np.arange(1, 2001)
    assert statistics.zipf_exponent(1e9 * ranks**-1.25) == pytest.approx(1.25)
    assert statistics.zipf_exponent(np.full(2000, 7)) == pytest.approx(0)
    assert statistics.zipf_exponent([5] * 18) is None


def test_coverage_equals_the_vocabulary_of_min_freq() -> None:
    counts = vocabulary.Counts()
    counts.add(["a"] * 5 + ["b"] * 2 + ["c"])
    kept = statistics.count_kept(counts.by_unit.values())
    rows = {row["min_freq"]: (row["units"], row["share"]) for row in statistics.coverage(kept)}
    assert [rows[least] for least in (1, 2, 3, 5, 10)] == [(3, 1.0), (2, 7 / 8), (1, 5 / 8), (1, 5 / 8), (0, 0.0)]
    for least in (1, 2, 3):
        made = tokenizer.from_counts("word", counts, least, None, ("<unk>",))
        assert made.vocabulary_size == 1 + rows[least][0]


@pytest.mark.data
def test_time_machine_has_the_ngrams_and_exponents_of_d2l(corpora: pathlib.Path) -> None:
    """Dive into Deep Learning (2021), section 8.3.3; its exponents are 1.04, 0.69 and 0.47 on ranks 10 to 1000."""
    text = (corpora / "timemachine" / "timemachine.txt").read_text()
    lines = [cleaning.clean(line, ["letters", "lower"]) for line in text.removesuffix("\n").split("\n")]
    words = tokenizer_of(lines, ("<unk>",))
    summary = statistics.summary(counted(lines, words, separate=False), words, ())
    printed = [
        "the 2261, i 1267, and 1245, of 1155, a 816, to 695, was 552, in 541, that 443, my 440",
        "of the 309, in the 169, i had 130, i was 112, and the 109, the time 102, it was 99, to the 85, as i 78, "
        "of a 73",
        "the time traveller 59, the time machine 30, the medical man 24, it seemed to 16, it was a 15, "
        "here and there 15, seemed to me 14, i did not 14, i saw the 13, i began to 13",
    ]
    for row, top in zip(printed, tops(summary), strict=True):
        expected = {tuple(words): int(count) for *words, count in (entry.split() for entry in row.split(", "))}
        assert dict(itertools.islice(top.items(), 10)) == expected
    assert [round(order["zipf_exponent"], 2) for order in summary["orders"]] == [1.04, 0.69, 0.47]
    assert summary["orders"][0]["ranks"][:2] == [[1, 2261], [2, 1267]]
    # The ten words above, which are stop words, are 9,415 of the 32,775.
    assert summary["head_shares"][0] == {"units": 10, "share": pytest.approx(9_415 / 32_775)}
