"""SVG plots: deterministic, self-contained, in colours of the page."""

import math
import re
import xml.etree.ElementTree

import pytest

from core.reporting import curves, plots

FALLING = curves.Series("training", list(range(1, 1001)), [5 / step for step in range(1, 1001)])
VALID = curves.Series("validation", [500, 1000], [0.5, 0.25])


def test_thinning_keeps_the_ends_and_the_order() -> None:
    few = curves.thin(FALLING, most=5)
    assert list(few.steps) == [1, 251, 501, 750, 1000]
    assert [step * value for step, value in zip(few.steps, few.values, strict=True)] == pytest.approx([5.0] * 5)
    assert curves.thin(VALID) is VALID


def test_the_same_series_give_the_same_svg() -> None:
    assert curves.plot_lines("Loss", [FALLING, VALID]) == curves.plot_lines("Loss", [FALLING, VALID])


def test_a_plot_is_one_self_contained_element_in_colours_of_the_page() -> None:
    svg = curves.plot_lines('Loss <of "this" & that>', [FALLING, VALID], logarithmic=True)
    root = xml.etree.ElementTree.fromstring(svg)
    assert root.get("aria-label") == 'Loss <of "this" & that>'
    assert not re.findall(r"href=\"(?!#)|@import|url\((?!#)", svg)
    colours = set(re.findall(r"(?:stroke|fill): ([^;\"]+)", svg))
    assert colours <= {"none", "currentColor", "var(--grid)", "var(--series-1)", "var(--series-2)"}


def test_a_single_series_has_no_legend() -> None:
    svg = curves.plot_lines("Loss", [VALID])
    assert "var(--series-2)" not in svg
    assert "validation" not in svg
    assert "validation" in curves.plot_lines("Loss", [FALLING, VALID])


def test_a_series_without_values_is_omitted_and_the_others_keep_their_colours() -> None:
    series = [curves.Series("none", [], []), curves.Series("x", [0, 1], [1, 2])]
    for svg in (curves.plot_lines("Loss", series), curves.plot_bars("BLEU", ["a", "b"], series, "words")):
        assert "var(--series-2)" in svg
        assert "var(--series-1)" not in svg


def test_restarts_are_marked() -> None:
    assert "stroke-opacity: 0.35" in curves.plot_lines("Loss", [VALID], restarts=[750])
    assert "stroke-opacity" not in curves.plot_lines("Loss", [VALID])


def test_infinite_values_are_left_out_of_a_plot(recwarn: pytest.WarningsRecorder) -> None:
    series = plots.to_series("a", [(1, math.inf), (2, 30.0), (3, 20.0)])
    assert list(series.values) == [30.0, 20.0]
    assert plots.plot_lines("Perplexity", [series]) is not None
    assert plots.plot_lines("Perplexity", [plots.to_series("b", [(1, math.inf)])]) is None
    assert not recwarn.list
