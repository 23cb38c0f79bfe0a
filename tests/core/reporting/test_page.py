"""The report: what a run left behind, in one document and one page."""

import html.parser
import json
import pathlib
from typing import Any

import pytest

from core import errors
from core.reporting import page
from core.storage import location

SETTINGS = """
name: small
root: {root}
corpus: {{kind: pairs, train: {{tsv: [a.tsv]}}}}
training: {{batch_lines: 4}}
model: {{kind: seq2seq, cell: gru, hidden_size: 16}}
"""
INDEX = {
    "kind": "pairs",
    "splits": {
        "train": [
            {"rows": 60, "tokens": {"source": 600, "target": 700}},
            {"rows": 40, "tokens": {"source": 400, "target": 300}},
        ],
        "test": [{"rows": 2, "tokens": {"source": 9, "target": 11}}],
    },
    "drops": {"too_long": 3, "empty": 0},
    "tokenizers": {"source": {"vocabulary_size": 1234}, "target": {"vocabulary_size": 99}},
}
EVALUATED = {"verb": "evaluate", "lines": 2, "bleu": 91.25, "chrf": 95.5, "ter": 3.5, "signatures": {"bleu": "nrefs:1"}}


@pytest.fixture
def root(tmp_path: pathlib.Path) -> location.Location:
    (tmp_path / "config.yaml").write_text(SETTINGS.format(root=tmp_path))
    return location.Location.parse(str(tmp_path))


def complete(folder: pathlib.Path) -> None:
    for name in ("dataset", "metrics", "outputs"):
        (folder / name).mkdir()
    (folder / "dataset" / "index.json").write_text(json.dumps(INDEX))
    rows: list[dict[str, Any]] = [
        {"kind": "step", "step": step, "loss_nats": 4 / step, "perplexity": 2.0, "gradient_norm": 0.5,
         "learning_rate": 0.01, "tokens_per_s": 1500.0}
        for step in (1, 2, 4)
    ]  # fmt: skip
    rows.append({"kind": "validation", "step": 2, "nll_nats": 1.5, "perplexity": 4.4817})
    rows.append({"kind": "validation", "step": 4, "nll_nats": 1.0, "perplexity": 2.7183})
    (folder / "metrics" / "e1-00000004.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "outputs" / "test.source.txt").write_text("a cat\n<script>alert(1)</script>\n")
    (folder / "outputs" / "test.target.txt").write_text("un chat\nnon\n")
    translations = [{"line": 0, "text": "un chat", "score_nats": -0.5}, {"line": 1, "text": "oui", "score_nats": None}]
    (folder / "outputs" / "translations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in translations))
    stages = {
        "evaluate": {"outcome": "done", "elapsed_s": 1.25, "report": EVALUATED},
        "score": {"outcome": "done", "elapsed_s": 2.0, "report": {"perplexity": 1.5, "tokens": 200, "unk": 13}},
    }
    (folder / "run.json").write_text(json.dumps({"stages": stages, "versions": {"torch": "2.13.0"}, "exit_code": 0}))


def test_a_run_that_has_only_begun_has_a_report(root: location.Location) -> None:
    report = page.build(root)
    assert (report["data"], report["training"], report["quality"]) == (None, None, None)
    assert "not trained yet" in page.render(report)


def test_what_is_no_run_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.UsageError, match=r"holds no run .*name the root of a run"):
        page.build(location.Location.parse(str(tmp_path)))


def test_the_report_adds_up_shards_and_finds_the_best_validation(root: location.Location) -> None:
    complete(root.path)
    report = page.build(root)
    assert report["data"]["splits"]["train"] == {"lines": 100, "shards": 2, "tokens": {"source": 1000, "target": 1000}}
    assert report["data"]["drops"] == {"too_long": 3}
    assert report["training"]["steps"] == 4
    assert report["training"]["best_validation"]["nll_nats"] == 1.0
    assert report["training"]["curves"]["Loss (nats per token)"] == {
        "training": [(1.0, 4.0), (2.0, 2.0), (4.0, 1.0)],
        "validation": [(2.0, 1.5), (4.0, 1.0)],
    }
    assert report["samples"]["translations"][0] == {
        "source": "a cat", "hypothesis": "un chat", "reference": "un chat", "score_nats": -0.5
    }  # fmt: skip


class Reader(html.parser.HTMLParser):
    """Collects tags and text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_the_figures_escapes_text_and_fetches_nothing(root: location.Location) -> None:
    complete(root.path)
    reader = Reader()
    reader.feed(page.render(page.build(root)))
    names = [tag for tag, _ in reader.tags]
    assert names.count("svg") == 5
    assert "script" not in names
    assert "6.50" in reader.text  # of the held-out tokens unknown, %: 13 of 200
    assert "<script>alert(1)</script>" in reader.text
    for tag, attributes in reader.tags:
        addresses = [attributes.get(name) or "#" for name in ("src", "href", "xlink:href")]
        assert all(address.startswith("#") for address in addresses), (tag, addresses)
    for figure in ("91.25", "nrefs:1", "2.72", "3 too_long", "1\N{NARROW NO-BREAK SPACE}234", "2.13.0", "-0.50 nats"):
        assert figure in reader.text, figure


def test_the_page_works_in_the_dark_and_on_a_phone(root: location.Location) -> None:
    text = page.render(page.build(root))
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport" content="width=device-width' in text


def test_a_damaged_file_of_the_run_is_named(root: location.Location) -> None:
    (root.path / "run.json").write_text("{")
    with pytest.raises(errors.IntegrityError, match=r"run\.json"):
        page.build(root)
