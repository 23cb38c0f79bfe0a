"""Several runs side by side."""

import copy

import pytest

from core.reporting import comparison, content
from core.storage import location
from tests.core.reporting import run_folders


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[content.Report]:
    """Two runs that differ in their cell and in their BLEU."""
    made = []
    for name, cell, bleu in (("first", "gru", 91.25), ("second", "lstm", 92.5)):
        folder = tmp_path_factory.mktemp(name)
        run_folders.complete(folder, name, cell, bleu)
        made.append(content.build(location.Location.parse(str(folder))))
    return made


def row(reports: list[content.Report], label: str) -> list[tuple[str, bool]]:
    found = next(one for one in comparison.rows(reports) if one["label"] == label)
    return [(cell["text"], cell["best"]) for cell in found["cells"]]


def test_the_best_of_a_row_is_marked_and_equal_ones_are_not(reports: list[content.Report]) -> None:
    assert row(reports, "BLEU") == [("91.25", False), ("92.50", True)]
    assert row(reports, "TER") == [("3.50", False), ("3.50", False)]
    assert row(reports, "steps") == [("4", False), ("4", False)]


def test_what_is_not_comparable_is_said_and_not_ranked(reports: list[content.Report]) -> None:
    assert comparison.warnings(reports) == []
    first, second = reports[0], copy.deepcopy(reports[1])
    second["data"] |= {"fingerprint": "f2", "vocabulary_sizes": {"source": 7, "target": 7}}
    second["scores"]["perplexity"] = 1.25
    second["samples"]["translations"][0]["source"] = "a dog"
    assert len(comparison.warnings([first, second])) == 3
    assert row([first, second], "BLEU") == [("91.25", False), ("92.50", False)]
    assert row([first, second], "held-out perplexity") == [("1.50", False), ("1.25", False)]


def test_seconds_of_a_training_that_went_on_are_not_compared(reports: list[content.Report]) -> None:
    first, second = reports[0], copy.deepcopy(reports[1])
    second["training"]["restarts"] = [3]
    assert row([first, second], "train, seconds") == [("8.0", False), ("–", False)]


def test_settings_that_differ_are_all_that_is_listed(reports: list[content.Report]) -> None:
    assert comparison.differing(reports) == [{"name": "model.cell", "cells": ["gru", "lstm"]}]


def test_runs_of_one_name_are_told_apart_by_their_place() -> None:
    runs = [{"name": "a", "root": f"/x/{place}/run"} for place in ("one", "two")]
    assert comparison.labels(runs) == ["one/run", "two/run"]
    assert comparison.labels([*runs[:1], {"name": "b", "root": "/x/one/run"}]) == ["a", "b"]


def test_the_page_has_both_runs_in_each_curve_and_each_translation(reports: list[content.Report]) -> None:
    text = comparison.render(reports)
    assert "<h1>2 runs</h1>" in text
    assert text.count("<dt>first</dt>") == text.count("<dt>second</dt>") == 2
    assert "<script" not in text
    for svg in text.split("<svg")[1:]:
        assert "var(--series-2)" in svg, "a curve without the second run"
