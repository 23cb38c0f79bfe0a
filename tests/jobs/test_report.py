"""The verb `report` on real runs: both files, and the comparison."""

import json
import pathlib

import pytest

from core import errors
from core.data.dataset import overlap, shards
from core.evaluation import significance
from core.reporting import held_out_lines
from core.storage import location
from jobs import report
from tests import reporters
from tests.core.reporting import run_folders
from tests.jobs import datasets


def test_the_report_of_a_translation_model_has_figures_and_samples(runs: pathlib.Path) -> None:
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
    for section in ("training", "translations", "quality", "data", "throughput", "failures", "settings", "versions"):
        assert f'<h2 id="{section}">' in page
    assert 'id="gradients"' not in page, "gradients were not recorded"
    assert content["versions"]["torch"] in page


def test_the_report_of_a_language_model_has_generated_text(runs: pathlib.Path) -> None:
    content = json.loads((runs / "language" / "report.json").read_text())
    assert len(content["samples"]["generated"]) == 3
    assert all(sample["text"].startswith(sample["prefix"]) for sample in content["samples"]["generated"])
    assert content["quality"] is None
    assert content["training"]["best_validation"]["perplexity"] > 1


def test_the_same_run_gives_the_same_page(runs: pathlib.Path) -> None:
    # The pipeline records the duration of its report stage after writing the page, so its own page is not compared.
    pages = []
    for _ in range(2):
        report.run([location.Location.parse(str(runs / "language"))], reporters.SilentReporter())
        pages.append((runs / "language" / "report.html").read_bytes())
    assert pages[0] == pages[1]


def test_a_folder_without_a_run_is_an_error(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.UsageError, match="holds no run"):
        report.run([location.Location.parse(str(tmp_path))], reporters.SilentReporter())
    assert list(tmp_path.iterdir()) == []


def test_a_comparison_replaces_its_own_page_and_no_other_file(runs: pathlib.Path, tmp_path: pathlib.Path) -> None:
    roots = [location.Location.parse(str(runs / name)) for name in ("translation", "language")]
    before = sorted((path, path.stat().st_mtime_ns) for path in runs.rglob("*"))
    output = location.Location.parse(str(tmp_path / "both.html"))
    for _ in range(2):
        result = report.run(roots, reporters.SilentReporter(), output)
    assert result == {"verb": "report", "runs": [str(root) for root in roots], "html": str(output)}
    text = output.path.read_text()
    assert "tiny-translation" in text
    assert "tiny-language" in text
    assert sorted((path, path.stat().st_mtime_ns) for path in runs.rglob("*")) == before
    output.path.write_text("<!doctype html><title>mine</title>")
    with pytest.raises(errors.LockedError, match="is not a report of Raycurrent"):
        report.run(roots, reporters.SilentReporter(), output)
    assert output.path.read_text() == "<!doctype html><title>mine</title>"


def test_a_comparison_without_an_html_output_is_an_error(runs: pathlib.Path, tmp_path: pathlib.Path) -> None:
    roots = [location.Location.parse(str(runs / name)) for name in ("translation", "language")]
    with pytest.raises(errors.UsageError, match=r"name the page with --output PAGE\.html"):
        report.run(roots, reporters.SilentReporter())
    with pytest.raises(errors.UsageError, match=r"must end in \.html"):
        report.run(roots, reporters.SilentReporter(), location.Location.parse(str(tmp_path / "page.json")))


def _translated_run(folder: pathlib.Path, name: str, hypotheses: list[str], references: list[str]) -> location.Location:
    folder.mkdir()
    run_folders.complete(folder, name)
    for file, lines in (("test.source.txt", references), ("test.target.txt", references)):
        (folder / "outputs" / file).write_text("".join(f"{line}\n" for line in lines))
    rows = [json.dumps({"line": number, "text": text}) for number, text in enumerate(hypotheses)]
    (folder / "outputs" / "translations.jsonl").write_text("".join(f"{row}\n" for row in rows))
    (folder / "outputs" / "translations.jsonl.attention.json").unlink()
    return location.Location.parse(str(folder))


def test_runs_that_translated_the_same_lines_are_tested_for_significance(tmp_path: pathlib.Path) -> None:
    lines = [f"the {noun} of {place} was {colour} today" for noun in "ab" for place in "cdef" for colour in "ijk"]
    worse = [line.replace("today", "then") for line in lines]
    same = _translated_run(tmp_path / "a", "first", lines, lines)
    other = _translated_run(tmp_path / "b", "second", worse, lines)
    page = location.Location.parse(str(tmp_path / "page.html"))
    written = report.run([same, other], reporters.SilentReporter(), page)
    assert [bucket["systems"][1]["changes"]["bleu"] < 0 for bucket in written["improvement_by_length"]] == [True]
    text = page.path.read_text()
    assert "<h2>Improvement by sentence length</h2>" in text
    assert "<h2>Significance</h2>" in text
    assert "100.00 ± 0.00" in text
    assert '<td class="number best">0.00' in text
    elsewhere = _translated_run(tmp_path / "c", "third", lines[1:], lines[1:])
    report.run([same, elsewhere], reporters.SilentReporter(), page)
    assert "<h2>Significance</h2>" not in page.path.read_text(), "of other lines"


def test_runs_of_more_lines_than_a_test_is_meant_for_are_compared_without_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And no more lines are read than that."""
    monkeypatch.setattr(significance, "most_lines", lambda _: 3)
    lines = [f"the house of {owner} is small" for owner in "abcdefgh"]
    roots = [_translated_run(tmp_path / name, name, lines, lines) for name in ("a", "b")]
    for root in roots:
        # A line that is read is parsed.
        with root.join("outputs", "translations.jsonl").path.open("a") as file:
            file.write("not a row\n")
    page = location.Location.parse(str(tmp_path / "page.html"))
    monkeypatch.setattr(held_out_lines, "MAX_LINES", 8)
    written = report.run(roots, reporters.SilentReporter(), page)
    assert "improvement_by_length" not in written
    assert "significance: left out: the runs translated more than 3 lines" in caplog.text
    assert "<h2>Significance</h2>" not in page.path.read_text()


def test_test_lines_that_are_training_lines_are_counted(tmp_path: pathlib.Path) -> None:
    """Of pairs by the source side; lines of all shards of the training split."""
    sources = datasets.sentences(300)
    training = datasets.write(tmp_path / "train.tsv", [f"{line}\tb" for line in sources])
    held_out = [sources[0], sources[299], "c d never seen", sources[0]]
    test = datasets.write(tmp_path / "test.tsv", [f"{line}\tother" for line in held_out])
    corpus = {"kind": "pairs", "train": {"tsv": [training]}, "test": {"tsv": [test]}}
    prepared = datasets.run(datasets.config(tmp_path / "run", corpus))
    assert prepared["splits"]["train"]["shards"] > 1
    dataset = shards.Dataset.open(location.Location.parse(str(tmp_path / "run" / "dataset")))
    counted = overlap.count(dataset, "test")
    assert counted == overlap.Overlap("test", lines=4, in_training=3, is_all=True)
