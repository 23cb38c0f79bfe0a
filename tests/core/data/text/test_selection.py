"""Tests of filters and splits."""

import pytest

from core.config import corpus_settings
from core.data.text import selection


@pytest.mark.parametrize(
    ("lengths", "reason"),
    [
        ((2, 6), None),
        ((0, 6), "empty"),
        ((1, 6), "too_short"),
        ((2, 9), None),
        ((5, 10), "too_long"),
        ((2, 7), "ratio"),
        ((3, 9), None),
    ],
)
def test_reason_to_drop_is_the_first_limit_exceeded(lengths: tuple[int, int], reason: str | None) -> None:
    """At most 10 tokens with <eos>, at least 2, and no side more than 3 times the other (2, 9: 4.5 times)."""
    filters = corpus_settings.FiltersConfig(min_length=2, max_length=10, max_ratio=3)
    expected = "ratio" if lengths == (2, 9) else reason
    assert selection.line_filter(filters, num_eos=1)(lengths) == expected
    assert selection.line_filter(filters, num_eos=1)(lengths[::-1]) == expected


def test_max_length_drops_nothing_when_long_lines_are_cut() -> None:
    filters = corpus_settings.FiltersConfig(max_length=10, too_long="cut")
    assert selection.line_filter(filters, num_eos=1)((5, 10)) is None


def test_eos_counts_for_max_length() -> None:
    filters = corpus_settings.FiltersConfig(max_length=10)
    assert selection.line_filter(filters, num_eos=0)((10,)) is None
    assert selection.line_filter(filters, num_eos=1)((10,)) == "too_long"


def corpus(**more: object) -> corpus_settings.CorpusConfig:
    train = {"text": ("a",)} if more.get("kind") == "text" else {"tsv": ("a",)}
    return corpus_settings.CorpusConfig.model_validate({"kind": "pairs", "train": train, **more})


@pytest.mark.parametrize("by", ["source", "line"])
def test_splits_by_hash_have_about_the_requested_shares(by: str) -> None:
    """Of 20,000 lines a tenth is 2,000, give or take 5 standard deviations of 42."""
    settings = corpus(split={"valid": 0.1, "test": 0.2, "by": by})
    splitting = selection.make_splitting("train", settings, seed=1, num_lines=20_000)
    splits = [splitting.assign(number, f"text {number}") for number in range(20_000)]
    assert abs(splits.count("valid") - 2_000) < 210
    assert abs(splits.count("test") - 4_000) < 280
    other = selection.make_splitting("train", settings, seed=2, num_lines=20_000)
    assert splits != [other.assign(number, f"text {number}") for number in range(20_000)]


def test_split_by_source_depends_on_the_text_and_by_line_on_the_number() -> None:
    splittings = {
        by: selection.make_splitting("train", corpus(split={"valid": 0.5, "by": by}), seed=1, num_lines=9)
        for by in ("source", "line")
    }
    assert len({splittings["source"].assign(number, "same") for number in range(50)}) == 1
    assert len({splittings["line"].assign(7, f"text {number}") for number in range(50)}) == 1


def test_tail_split_is_counted_from_the_last_line_used() -> None:
    settings = corpus(kind="text", split={"valid": 0.2, "test": 0.1})
    splitting = selection.make_splitting("train", settings, seed=1, num_lines=10)
    splits = [splitting.assign(number, "") for number in range(12)]
    assert splits == ["train"] * 7 + ["valid"] * 2 + ["test"] + ["train"] * 2


def test_a_separate_validation_source_is_one_split() -> None:
    settings = corpus(split={"test": 0.5}, valid={"tsv": ("b",)})
    splitting = selection.make_splitting("valid", settings, seed=1, num_lines=10)
    assert {splitting.assign(number, str(number)) for number in range(50)} == {"valid"}


def test_a_sample_has_about_its_share_of_the_lines() -> None:
    num_sampled = sum(selection.is_sampled(number, 0.3, seed=1) for number in range(10_000))
    assert abs(num_sampled - 3_000) < 230
    assert all(selection.is_sampled(number, 1.0, seed=1) for number in range(100))


def test_lines_of_all_lengths_are_drawn_one_of_each_quantile() -> None:
    """Of a file that is sorted by length, the first lines would all be short."""
    lengths = [length for length in range(1, 11) for _ in range(100)]
    numbers = selection.draw_by_length(lengths, 10)
    assert [lengths[number] for number in numbers] == list(range(1, 11))
    assert numbers == sorted(numbers)
    assert numbers != [100 * quantile for quantile in range(10)], "not the first of each"


def test_drawn_lines_depend_on_the_lengths_alone() -> None:
    lengths = [7, 3, 9, 3, 3, 12, 1, 8]
    assert selection.draw_by_length(lengths, 3) == selection.draw_by_length([10 * n for n in lengths], 3)
    assert selection.draw_by_length(lengths, 8) == selection.draw_by_length(lengths, 99) == list(range(8))
    assert selection.draw_by_length([], 3) == selection.draw_by_length(lengths, 0) == []


def test_lines_of_equal_length_are_drawn_from_the_whole_file() -> None:
    numbers = selection.draw_by_length([5] * 10_000, 100)
    assert len(set(numbers)) == 100
    assert sum(numbers) / 100 == pytest.approx(5000, abs=1000)  # three standard errors of a uniform draw are 866
