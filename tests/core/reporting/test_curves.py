"""Pictures: the same numbers give the same text, nothing refers to anything outside, both colour schemes work."""

import re
import xml.etree.ElementTree

import pytest

from core.reporting import curves

FALLING = curves.Series("training", list(range(1, 1001)), [5 / step for step in range(1, 1001)])
VALID = curves.Series("validation", [500, 1000], [0.5, 0.25])


def test_thinning_keeps_both_ends_and_the_order() -> None:
    few = curves.thinned(FALLING, most=5)
    assert list(few.steps) == [1, 251, 501, 750, 1000]
    assert [step * value for step, value in zip(few.steps, few.values, strict=True)] == pytest.approx([5.0] * 5)
    assert curves.thinned(VALID) is VALID


def test_the_same_series_give_the_same_picture() -> None:
    assert curves.draw("Loss", [FALLING, VALID]) == curves.draw("Loss", [FALLING, VALID])


def test_a_picture_is_one_element_that_needs_nothing_outside_and_names_no_colour_of_its_own() -> None:
    svg = curves.draw('Loss <of "this" & that>', [FALLING, VALID], logarithmic=True)
    root = xml.etree.ElementTree.fromstring(svg)
    assert root.get("aria-label") == 'Loss <of "this" & that>'
    assert not re.findall(r"href=\"(?!#)|@import|url\((?!#)", svg)
    colours = set(re.findall(r"(?:stroke|fill): ([^;\"]+)", svg))
    assert colours <= {"none", "currentColor", "var(--grid)", "var(--series-1)", "var(--series-2)"}


def test_one_series_has_one_line_and_no_legend() -> None:
    svg = curves.draw("Loss", [VALID])
    assert "var(--series-2)" not in svg
    assert "validation" not in svg
    assert "validation" in curves.draw("Loss", [FALLING, VALID])


def test_a_series_without_values_is_left_out_and_the_others_keep_their_colours() -> None:
    series = [curves.Series("none", [], []), curves.Series("x", [0, 1], [1, 2])]
    for svg in (curves.draw("Loss", series), curves.bars("BLEU", ["a", "b"], series, "words")):
        assert "var(--series-2)" in svg
        assert "var(--series-1)" not in svg


def test_a_new_start_is_marked() -> None:
    assert "stroke-opacity: 0.35" in curves.draw("Loss", [VALID], restarts=[750])
    assert "stroke-opacity" not in curves.draw("Loss", [VALID])
