"""Laws of keeping and splitting lines."""

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
def test_the_first_limit_that_a_pair_breaks_is_the_reason(lengths: tuple[int, int], reason: str | None) -> None:
    """At most 10 tokens with <eos>, at least 2, and no side more than 3 times (2, 9: by 4.5) the other."""
    filters = corpus_settings.FiltersConfig(min_length=2, max_length=10, max_ratio=3)
    expected = "ratio" if lengths == (2, 9) else reason
    assert selection.reason_to_drop(filters, lengths, num_ends=1) == expected
    assert selection.reason_to_drop(filters, lengths[::-1], num_ends=1) == expected


def test_what_is_cut_is_not_too_long() -> None:
    filters = corpus_settings.FiltersConfig(max_length=10, too_long="cut")
    assert selection.reason_to_drop(filters, (5, 10), num_ends=1) is None


def test_without_an_end_a_line_may_fill_the_limit() -> None:
    filters = corpus_settings.FiltersConfig(max_length=10)
    assert selection.reason_to_drop(filters, (10,), num_ends=0) is None
    assert selection.reason_to_drop(filters, (10,), num_ends=1) == "too_long"


def corpus(**more: object) -> corpus_settings.CorpusConfig:
    train = {"text": ("a",)} if more.get("kind") == "text" else {"tsv": ("a",)}
    return corpus_settings.CorpusConfig.model_validate({"kind": "pairs", "train": train, **more})


@pytest.mark.parametrize("by", ["source", "line"])
def test_shares_by_hash_are_about_what_was_asked_for(by: str) -> None:
    """Of 20,000 lines a tenth is 2,000, give or take 5 standard deviations of 42."""
    settings = corpus(split={"valid": 0.1, "test": 0.2, "by": by})
    how = selection.splitting("train", settings, seed=1, num_lines=20_000)
    splits = [how.of(number, f"text {number}") for number in range(20_000)]
    assert abs(splits.count("valid") - 2_000) < 210
    assert abs(splits.count("test") - 4_000) < 280
    other = selection.splitting("train", settings, seed=2, num_lines=20_000)
    assert splits != [other.of(number, f"text {number}") for number in range(20_000)]


def test_by_source_the_text_decides_and_by_line_the_number() -> None:
    how = {
        by: selection.splitting("train", corpus(split={"valid": 0.5, "by": by}), seed=1, num_lines=9)
        for by in ("source", "line")
    }
    assert len({how["source"].of(number, "same") for number in range(50)}) == 1
    assert len({how["line"].of(7, f"text {number}") for number in range(50)}) == 1


def test_the_tail_is_counted_from_the_end_of_what_is_used() -> None:
    settings = corpus(kind="text", split={"valid": 0.2, "test": 0.1})
    how = selection.splitting("train", settings, seed=1, num_lines=10)
    splits = [how.of(number, "") for number in range(12)]
    assert splits == ["train"] * 7 + ["valid"] * 2 + ["test"] + ["train"] * 2


def test_a_source_of_its_own_is_one_split() -> None:
    settings = corpus(split={"test": 0.5}, valid={"tsv": ("b",)})
    how = selection.splitting("valid", settings, seed=1, num_lines=10)
    assert {how.of(number, str(number)) for number in range(50)} == {"valid"}


def test_a_sample_is_about_its_share_and_all_where_there_is_room() -> None:
    chosen = sum(selection.is_sampled(number, 0.3, seed=1) for number in range(10_000))
    assert abs(chosen - 3_000) < 230
    assert all(selection.is_sampled(number, 1.0, seed=1) for number in range(100))
