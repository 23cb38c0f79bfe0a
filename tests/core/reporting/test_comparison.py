"""The page that compares several runs."""

import copy

import pytest

from core.reporting import comparison, content, figures
from core.storage import location
from tests.core.reporting import run_folders


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[content.Report]:
    """Returns the reports of two runs that differ in their cell and their BLEU."""
    reports = []
    for name, cell, bleu in (("first", "gru", 91.25), ("second", "lstm", 92.5)):
        folder = tmp_path_factory.mktemp(name)
        run_folders.complete(folder, name, cell, bleu)
        reports.append(content.build(location.Location.parse(str(folder))))
    return reports


def row(reports: list[content.Report], label: str) -> list[tuple[str, bool]]:
    figures = {row["label"]: row["cells"] for row in comparison.compare_figures(reports)}
    return [(cell["text"], cell["best"]) for cell in figures[label]]


def test_the_best_value_of_a_row_is_marked_unless_all_are_equal(reports: list[content.Report]) -> None:
    assert row(reports, "BLEU") == [("91.25", False), ("92.50", True)]
    assert row(reports, "TER") == [("3.50", False), ("3.50", False)]
    assert row(reports, "steps") == [("4", False), ("4", False)]


def test_incomparable_figures_have_a_warning_and_no_best_value(reports: list[content.Report]) -> None:
    assert comparison.find_warnings(reports) == []
    first, second = reports[0], copy.deepcopy(reports[1])
    second["data"] |= {"fingerprint": "f2", "vocabulary_sizes": {"source": 7, "target": 7}}
    second["scores"]["perplexity"] = 1.25
    second["samples"]["translations"][0]["source"] = "a dog"
    assert len(comparison.find_warnings([first, second])) == 3
    assert row([first, second], "BLEU") == [("91.25", False), ("92.50", False)]
    assert row([first, second], "held-out perplexity") == [("1.50", False), ("1.25", False)]


def test_perplexities_of_different_units_are_shown_with_them_and_not_ranked(reports: list[content.Report]) -> None:
    first, second = copy.deepcopy(reports[0]), copy.deepcopy(reports[1])
    second["scores"]["perplexity"] = 1.25
    for report in (first, second):
        report["scores"] |= {"unit": "line", "eos_counted": True, "unknown_words": "scored as <unk>"}
    assert row([first, second], "held-out perplexity")[1] == ("1.25", True)
    second["scores"] |= {"unit": "stream", "lanes": 4}
    assert row([first, second], "held-out perplexity")[1] == ("1.25", False)
    (warning,) = comparison.find_warnings([first, second])
    assert warning.startswith("The runs differ in the unit of held-out perplexity")
    text = comparison.render([first, second])
    assert "by line, &lt;eos&gt; counted, unknown words scored as &lt;unk&gt;" in text
    assert "by stream in 4 lanes, &lt;eos&gt; counted, unknown words scored as &lt;unk&gt;" in text


def test_training_seconds_of_a_resumed_run_are_not_compared(reports: list[content.Report]) -> None:
    first, second = reports[0], copy.deepcopy(reports[1])
    second["training"]["restarts"] = [3]
    assert row([first, second], "train, seconds") == [("8.0", False), ("–", False)]


def test_training_seconds_of_all_starts_are_compared(reports: list[content.Report]) -> None:
    first, second = reports[0], copy.deepcopy(reports[1])
    second["training"]["restarts"] = [3]
    (train,) = (stage for stage in second["stages"] if stage["name"] == "train")
    train |= {"elapsed_s": 12.0, "is_of_all_starts": True}
    assert row([first, second], "train, seconds") == [("8.0", False), ("12.0", False)]


def test_a_figure_that_only_one_run_has_is_compared_with_a_dash(reports: list[content.Report]) -> None:
    first, second = copy.deepcopy(reports[0]), reports[1]
    first["training"]["best_validation"] |= {"num_unk": 1, "num_tokens": 4}
    assert row([first, second], "unknown validation tokens, %") == [("25.00", False), ("–", False)]
    assert row([second, first], "unknown validation tokens, %") == [("–", False), ("25.00", False)]


def test_only_differing_settings_are_listed(reports: list[content.Report]) -> None:
    assert comparison.compare_settings(reports) == [{"name": "model.cell", "cells": ["gru", "lstm"]}]


def test_runs_with_the_same_name_are_labelled_by_their_root() -> None:
    runs = [{"name": "a", "root": f"/x/{folder}/run"} for folder in ("one", "two")]
    assert comparison.label_runs(runs) == ["one/run", "two/run"]
    assert comparison.label_runs([*runs[:1], {"name": "b", "root": "/x/one/run"}]) == ["a", "b"]


def test_every_plot_and_translation_shows_both_runs(reports: list[content.Report]) -> None:
    text = comparison.render(reports)
    assert "<h1>2 runs</h1>" in text
    assert text.count("<dt>first</dt>") == text.count("<dt>second</dt>") == 2
    assert "<script" not in text
    for svg in text.split("<svg")[1:]:
        assert "var(--series-2)" in svg, "a plot without the second run"


def test_runs_that_were_evaluated_differently_are_not_ranked(reports: list[content.Report]) -> None:
    first, second = reports[0], copy.deepcopy(reports[1])
    second["quality"]["signatures"] = {"bleu": "tok:char"}
    assert row([first, second], "BLEU") == [("91.25", False), ("92.50", False)]
    (warning,) = comparison.find_warnings([first, second])
    assert "signatures" in warning


def test_bleu_against_references_cleaned_differently_is_not_ranked(reports: list[content.Report]) -> None:
    first, second = copy.deepcopy(reports)
    first["quality"]["cleaned"] = {"cleaning": ["lower"], "bleu": 95.0}
    second["quality"]["cleaned"] = {"cleaning": ["lower"], "bleu": 96.0}
    assert row([first, second], figures.BLEU_CLEANED) == [("95.00", False), ("96.00", True)]
    second["quality"]["cleaned"]["cleaning"] = ["lower", "digits"]
    assert row([first, second], figures.BLEU_CLEANED) == [("95.00", False), ("96.00", False)]
    assert row([first, second], "BLEU") == [("91.25", False), ("92.50", True)]


def test_lines_shown_for_their_attention_map_are_not_compared(reports: list[content.Report]) -> None:
    first, second = reports[0], copy.deepcopy(reports[1])
    extra = {**second["samples"]["translations"][0], "line": 7, "is_drawn": False, "source": "a map"}
    second["samples"]["translations"].insert(0, extra)
    assert comparison.find_warnings([first, second]) == []
    text = comparison.render([first, second])
    assert text.count("<dt>first</dt>") == 2
    assert "a map" not in text


def test_significant_differences_are_shown_in_bold(reports: list[content.Report]) -> None:
    def system(p_value: float | None) -> dict[str, object]:
        interval = {"mean": 30.0, "half_width": 1.5, "low": 28.5, "high": 31.5}
        metrics = ("bleu", "chrf", "ter")
        return {
            "confidence": dict.fromkeys(metrics, interval),
            "p_values": {} if p_value is None else dict.fromkeys(metrics, p_value),
        }

    significance = {
        "lines": 1000,
        "level": 0.05,
        "systems": [system(None), system(0.0321)],
        "improvement_by_length": [],
    }
    text = comparison.render(reports, significance)
    assert "30.00 ± 1.50" in text
    assert '<td class="number best">0.0321</td>' in text
    assert "the 1000 lines" in text
    assert "a difference to first" in text
    significance["systems"] = [system(None), system(0.2)]
    assert '<td class="number">0.2000</td>' in comparison.render(reports, significance)
    assert "Significance" not in comparison.render(reports)


def test_the_best_run_is_named_with_the_significance_of_its_lead(reports: list[content.Report]) -> None:
    names, table = ["first", "second"], comparison.compare_figures(reports)
    assert comparison.describe_best(names, table, None) == "second, by BLEU: first 91.25, second 92.50."
    systems = [{"p_values": {}}, {"p_values": {"bleu": 0.2}}]
    sentence = comparison.describe_best(names, table, {"level": 0.05, "systems": systems})
    assert sentence.endswith("The difference is not significant (p = 0.2000).")
    same = comparison.compare_figures([reports[0], copy.deepcopy(reports[0])])
    assert comparison.describe_best(names, same, None) == "No held-out figure tells the runs apart."


def test_figures_of_different_held_out_text_are_not_ranked(reports: list[content.Report]) -> None:
    first, second = copy.deepcopy(reports[0]), copy.deepcopy(reports[1])
    for report, bits in ((first, 2.5), (second, 1.5)):
        report["quality"] = None
        report["scores"] |= {"bits_per_character": bits, "characters": 1000, "lines": 10}
    assert row([first, second], "bits per character") == [("2.50", False), ("1.50", True)]
    second["scores"]["characters"] = 999
    assert row([first, second], "bits per character") == [("2.50", False), ("1.50", False)]
    (warning,) = comparison.find_warnings([first, second])
    assert warning.startswith("The runs were scored on different held-out text")


def test_the_comparison_has_the_hints_of_each_run(reports: list[content.Report]) -> None:
    text = comparison.render(reports)
    assert text.index("Which is better") < text.index("What would make them better") < text.index("<h2>Figures</h2>")
    assert text.count("BLEU of 2 lines varies by several points by chance") == 2


def test_improvements_by_length_are_differences_to_the_first_translated_run(reports: list[content.Report]) -> None:
    interval = {"mean": 30.0, "half_width": 1.5}
    system = {"confidence": {"bleu": interval, "chrf": interval, "ter": interval}, "p_values": {}}
    baseline = {"bleu": 20.0, "chrf": 50.0, "changes": {}, "p_values": {}, "significant": {}}
    tested = {
        **{"bleu": 23.0, "chrf": 49.0, "changes": {"bleu": 3.0, "chrf": -1.0}},
        **{"p_values": {"bleu": 0.0123, "chrf": 0.4}, "significant": {"bleu": True, "chrf": False}},
    }
    untested = {**tested, "p_values": {}, "significant": {}}
    buckets = [
        {"shortest": 0, "longest": 5, "lines": 1200, "systems": [baseline, tested]},
        {"shortest": 51, "longest": None, "lines": 3, "systems": [baseline, untested]},
    ]
    text = comparison.render(
        reports, {"lines": 1203, "level": 0.05, "systems": [system, system], "improvement_by_length": buckets}
    )
    assert "<td>0 to 5</td>" in text
    assert "<td>51 or more</td>" in text
    assert '<td class="number best">23.0 (+3.0), p 0.0123</td>' in text
    assert '<td class="number">49.0 (-1.0), p 0.4000</td>' in text
    assert '<td class="number">23.0 (+3.0)</td>' in text, "too few lines for a test"
    assert "Improvement by sentence length" not in comparison.render(reports)
