"""Pictures and tables of word statistics."""

import pathlib
import re
from typing import Any

import pytest

from core import errors
from core.reporting import word_statistics
from core.storage import location


def column(units: list[str]) -> dict[str, Any]:
    orders = [
        {"order": order, "zipf_exponent": 1.25 if order == 1 else None,
         "ranks": [[1, 90], [10, 9]] if order < 3 else [],
         "top": [[units[:order], 90 // order]] if order < 3 else []}
        for order in (1, 2, 3)
    ]  # fmt: skip
    return {
        "lines": 10,
        "lengths": [[1, 4], [3, 6]],
        "orders": orders,
        "head_shares": [{"units": 10, "share": 0.25}],
        "coverage": [{"min_freq": 1, "units": 5, "share": 1.0}, {"min_freq": 10, "units": 2, "share": 0.5}],
    }


FOUND = {"columns": {"source": column(["the", "cat"]), "target": column(["<le>", " "])}}


def test_each_column_has_its_ranks_and_all_share_lengths_and_coverage() -> None:
    drawn = dict(word_statistics.pictures(FOUND))
    assert list(drawn) == [
        "Frequency by rank: source",
        "Frequency by rank: target",
        "Lengths of lines",
        "Share of the text that min_freq keeps",
    ]
    ranks = drawn["Frequency by rank: source"]
    assert "single, α = 1.25" in ranks
    assert "pairs" in ranks
    assert "triples" not in ranks
    for svg in drawn.values():
        assert svg.startswith("<svg ")
        assert not re.search(r"#0[1-5]0[1-5]0[1-5]", svg), "a colour that is not the page's"


def test_subwords_have_no_coverage_to_draw() -> None:
    one = {**column(["a", "b"]), "coverage": []}
    assert [title for title, _ in word_statistics.pictures({"columns": {"text": one}})] == [
        "Frequency by rank",
        "Lengths of lines",
    ]


def test_tables_show_orders_side_by_side_and_spaces_so_that_they_are_seen() -> None:
    first, second = word_statistics.tables(FOUND)
    assert first == {
        "title": "Most frequent: source",
        "orders": ["single", "pairs", "triples"],
        "rows": [[("the", 90), ("the cat", 45), ("", "")]],
    }
    assert second["rows"][0][1] == ("<le> ' '", 45)
    assert (
        word_statistics.sentences(FOUND)[0]
        == "Share of the most frequent units: source: the first 10 are 25.0 % of the text."
    )


def test_a_dataset_without_statistics_or_with_those_of_another_version(tmp_path: pathlib.Path) -> None:
    folder = location.Location.parse(str(tmp_path))
    assert word_statistics.read(folder, {}) is None
    (tmp_path / "s.json").write_text('{"format": "raycurrent-statistics", "version": 99}')
    with pytest.raises(errors.IntegrityError, match=r"s\.json: is not in the format raycurrent-statistics 1"):
        word_statistics.read(folder, {"statistics": {"name": "s.json"}})
