"""Tests of cleaning steps, by hand and on The Time Machine."""

import pathlib
from typing import get_args

import hypothesis
import pytest
from hypothesis import strategies as st

from core.config import corpus_settings
from core.data.text import cleaning


@pytest.mark.parametrize(
    ("step", "text", "cleaned"),
    [
        ("nfc", "e\u0301", "é"),
        ("nfkc", "ﬁn²\u2009x", "fin2 x"),
        ("controls", "a\x1b[0m\x0bb\tc\x00d\x7fe\x85f\xa0", "a [0m b\tc d e f\xa0"),
        ("spaces", "a\u202f!\xa0b\u2009c\u200bd", "a ! b\u2009c\u200bd"),
        ("all_spaces", "a\u202f!\xa0b\u2009c\u200bd\u3000e", "a ! b c d e"),
        ("lower", "ÉCOLE", "école"),
        ("letters", "  The Time-Machine, by H. G. Wells [1898]", "The Time Machine by H G Wells"),
        ("digits", "in 1895: 3.14 and ٣", "in 0: 0.0 and 0"),
        ("punctuation", "Go, now !?", "Go , now ! ?"),
        ("strip", "  a   b ", "a b"),
    ],
)
def test_each_step_on_an_example_by_hand(step: str, text: str, cleaned: str) -> None:
    assert cleaning.clean(text, [step]) == cleaned


def test_punctuation_at_the_beginning_gets_no_space() -> None:
    assert cleaning.clean("...!", ["punctuation"]) == ". . . !"


def test_the_schema_lists_all_steps() -> None:
    assert set(cleaning.STEPS) == set(get_args(corpus_settings.CleaningStep))


def test_steps_are_applied_in_the_given_order() -> None:
    assert cleaning.clean("A\xa0!", ["spaces", "punctuation"]) == "A !"
    assert cleaning.clean("A\xa0!", ["punctuation", "spaces"]) == "A  !"


@hypothesis.given(st.text(), st.sampled_from([step for step in cleaning.STEPS if step not in ("lower", "nfkc")]))
def test_steps_are_idempotent(text: str, step: str) -> None:
    once = cleaning.clean(text, [step])
    assert cleaning.clean(once, [step]) == once


LINE = st.text(alphabet=st.characters(exclude_characters="\n", codec="utf-8")) | st.text(
    " ,.!?a1Σ\u0301\u00a0", max_size=9
)


@hypothesis.given(st.lists(LINE, max_size=6), st.lists(st.sampled_from(list(cleaning.STEPS)), max_size=4))
def test_clean_lines_equals_clean_of_each_line(lines: list[str], steps: list[str]) -> None:
    assert cleaning.clean_lines(lines, steps) == [cleaning.clean(line, steps) for line in lines]


def test_clean_lines_keeps_lines_apart_that_contain_line_feeds() -> None:
    assert cleaning.clean_lines(["a\n.", "!"], ["punctuation", "controls"]) == ["a .", "!"]


@hypothesis.given(st.text(alphabet=st.characters(exclude_characters="\n", codec="utf-8")))
def test_cleaning_inserts_no_line_feed(text: str) -> None:
    assert "\n" not in cleaning.clean(text, list(cleaning.STEPS))


@pytest.mark.data
def test_the_time_machine_has_the_counts_printed_in_d2l(corpora: pathlib.Path) -> None:
    text = (corpora / "timemachine" / "timemachine.txt").read_text()
    lines = [cleaning.clean(line, ["letters", "lower"]) for line in text.removesuffix("\n").split("\n")]
    assert len(lines) == 3221
    assert sum(len(line.split()) for line in lines) == 32775
    assert sum(map(len, lines)) == 170580
