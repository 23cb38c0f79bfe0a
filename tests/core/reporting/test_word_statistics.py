"""Plots and tables of word statistics."""

import pathlib
import re
from typing import Any

import pytest

from core import errors
from core.reporting import word_statistics
from core.storage import commit, location


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


STATISTICS = {"columns": {"source": column(["the", "cat"]), "target": column(["<le>", " "])}}


def test_each_column_has_a_rank_plot_and_all_share_lengths_and_coverage() -> None:
    plots = dict(word_statistics.make_plots(STATISTICS))
    assert list(plots) == [
        "Frequency by rank: source",
        "Frequency by rank: target",
        "Line lengths",
        "Vocabulary coverage by min_freq",
    ]
    ranks = plots["Frequency by rank: source"]
    assert "unigrams, α = 1.25" in ranks
    assert "bigrams" in ranks
    assert "trigrams" not in ranks
    for svg in plots.values():
        assert svg.startswith("<svg ")
        assert not re.search(r"#0[1-5]0[1-5]0[1-5]", svg), "a placeholder colour"


def test_without_coverage_there_is_no_coverage_plot() -> None:
    subwords = {**column(["a", "b"]), "coverage": []}
    assert [title for title, _ in word_statistics.make_plots({"columns": {"text": subwords}})] == [
        "Frequency by rank",
        "Line lengths",
    ]


def test_tables_have_orders_side_by_side_and_quote_spaces() -> None:
    first, second = word_statistics.make_tables(STATISTICS)
    assert first == {
        "title": "Most frequent: source",
        "orders": ["unigrams", "bigrams", "trigrams"],
        "rows": [[("the", 90), ("the cat", 45), ("", "")]],
    }
    assert second["rows"][0][1] == ("<le> ' '", 45)
    assert (
        word_statistics.describe(STATISTICS)[0]
        == "Most frequent tokens: source: the top 10 make up 25.0 % of the text."
    )


def test_missing_statistics_are_none_and_those_of_another_version_an_error(tmp_path: pathlib.Path) -> None:
    folder = location.Location.parse(str(tmp_path))
    assert word_statistics.read(folder, {}) is None
    record = commit.put_content(folder, "s", ".json", b'{"format": "raycurrent-statistics", "version": 99}')
    index = {"statistics": record.to_json()}
    with pytest.raises(errors.IntegrityError, match=r"s-.*\.json: is not in the format raycurrent-statistics 1"):
        word_statistics.read(folder, index)
    (tmp_path / record.name).write_bytes(b'{"format": "raycurrent-statistics", "version": 1}')
    with pytest.raises(errors.IntegrityError, match=r"s-.*\.json: is damaged: expected sha256 .*, found .*; restore"):
        word_statistics.read(folder, index)
