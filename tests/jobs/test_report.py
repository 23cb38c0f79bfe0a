"""The report of a real run: both files, from what the run left behind."""

import json
import pathlib

import pytest

from core import errors
from core.storage import location
from jobs import console, report


def test_the_report_of_a_translation_model_has_its_figures_and_samples(runs: pathlib.Path) -> None:
    content = json.loads((runs / "translation" / "report.json").read_text())
    stages = json.loads((runs / "translation" / "run.json").read_text())["stages"]
    assert content["quality"]["bleu"] == stages["evaluate"]["report"]["bleu"]
    assert content["quality"]["signatures"]["bleu"].startswith("nrefs:1|case:mixed")
    assert content["scores"]["perplexity"] == stages["score"]["report"]["perplexity"]
    sample = content["samples"]["translations"][0]
    first = json.loads((runs / "translation" / "outputs" / "translations.jsonl").read_text().splitlines()[0])
    assert (sample["hypothesis"], sample["score_nats"]) == (first["text"], first["score_nats"])
    assert f"{sample['source']}\t{sample['reference']}" in (runs / "pairs.tsv").read_text().splitlines()
    page = (runs / "translation" / "report.html").read_text()
    assert page.count("<svg") == 5 + 4, "five curves, four pictures of words"
    assert content["versions"]["torch"] in page


def test_the_report_of_a_language_model_has_generated_text(runs: pathlib.Path) -> None:
    content = json.loads((runs / "language" / "report.json").read_text())
    assert len(content["samples"]["generated"]) == 3
    assert all(sample["text"].startswith(sample["prefix"]) for sample in content["samples"]["generated"])
    assert content["quality"] is None
    assert content["training"]["best_validation"]["perplexity"] > 1


def test_the_same_run_gives_the_same_page(runs: pathlib.Path) -> None:
    before = (runs / "language" / "report.html").read_bytes()
    report.run(location.Location.parse(str(runs / "language")), console.SilentReporter())
    # What the pipeline noted after its report is all that may differ.
    after = (runs / "language" / "report.html").read_bytes()
    assert len(after) == len(before)


def test_a_folder_without_a_run_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.UsageError, match="holds no run"):
        report.run(location.Location.parse(str(tmp_path)), console.SilentReporter())
    assert list(tmp_path.iterdir()) == []
