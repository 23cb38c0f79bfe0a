"""The report page of a run: figures, sections, escaping, no external resources."""

import html.parser
import json
import pathlib

import pytest

from core.reporting import comparison, content, figures, page, shown_lines
from core.storage import location
from tests.core.reporting import run_folders


class Reader(html.parser.HTMLParser):
    """Collects the tags and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"

    @property
    def sections(self) -> list[str | None]:
        return [attributes["id"] for tag, attributes in self.tags if tag == "h2"]

    @property
    def links(self) -> list[str]:
        return [(attributes["href"] or "").removeprefix("#") for tag, attributes in self.tags if tag == "a"]


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """Returns the page of a run that has all sections."""
    folder = tmp_path_factory.mktemp("run")
    run_folders.complete(folder)
    return Reader(page.render(content.build(location.Location.parse(str(folder)))))


def test_every_perplexity_has_its_unit(tmp_path: pathlib.Path) -> None:
    run_folders.complete(tmp_path)
    state = json.loads((tmp_path / "run.json").read_text())
    unit = {"eos_counted": True, "unknown_words": "scored as <unk>"}
    state["stages"]["score"]["report"] |= {"unit": "stream", "lanes": 1, **unit}
    state["stages"]["score_by_line"] = {"outcome": "done", "report": {"perplexity": 1.75, "unit": "line", **unit}}
    (tmp_path / "run.json").write_text(json.dumps(state))
    report = content.build(location.Location.parse(str(tmp_path)))
    units = {
        label: figures.units_of_figures(report)[label] for label in figures.key_figures(report) if "perplexity" in label
    }
    assert units == {
        "held-out perplexity": "by stream, <eos> counted, unknown words scored as <unk>",
        "held-out perplexity by line": "by line, <eos> counted, unknown words scored as <unk>",
        "validation perplexity": "by line; chose the checkpoint",  # all that an older release says of pairs
    }
    text = Reader(page.render(report)).text
    for shown in ("1.50", "1.75", *units.values()):
        assert str(shown) in text


def test_the_page_has_the_figures_and_escapes_text(read: Reader) -> None:
    assert "script" not in [tag for tag, _ in read.tags]
    assert "<script>alert(1)</script>" in read.text
    assert "6.50" in read.text  # unknown held-out tokens, %: 13 of 200
    for figure in (
        "91.25",
        "nrefs:1",
        "2.72",
        "longer than corpus.filters.max_length",
        "2.9 %",  # of 105 lines
        "200 carriage returns",
        "1\N{NARROW NO-BREAK SPACE}234",
        "2.13.0",
        "-0.50 nats",
    ):
        assert figure in read.text, figure
    assert "1970-01-02 00:00 UTC" in read.text


def test_names_that_would_be_shown_in_another_order_are_escaped_on_every_kind_of_page(tmp_path: pathlib.Path) -> None:
    run_folders.complete(tmp_path)
    report = content.build(location.Location.parse(str(tmp_path)))
    report["name"] = "r\u202etxt.exe\u2067"
    for text in (page.render(report), comparison.render([report, {**report, "name": "b"}], None)):
        assert r"r\u202etxt.exe\u2067" in Reader(text).text
        assert report["name"] not in text
    report["name"] = "a\x1b[2J"
    assert r"a\x1b[2J" in Reader(page.render(report)).text


def test_joiners_and_marks_of_direction_stay(tmp_path: pathlib.Path) -> None:
    run_folders.complete(tmp_path)
    report = content.build(location.Location.parse(str(tmp_path)))
    report["name"] = "\u05d0\u200f \U0001f469\u200d\U0001f52c"
    assert report["name"] in page.render(report)


def test_the_first_screen_has_the_headline_the_hints_and_the_worth_of_each_figure(read: Reader) -> None:
    hint = "BLEU of 2 lines varies by several points by chance"
    titles = ("of the test split", "Validation, which chose the checkpoint", "Training: no measure of quality")
    positions = [read.text.index(text) for text in ("2 test lines", "What would make it better", hint, *titles)]
    assert positions == sorted(positions)
    assert positions[-1] < read.text.index("Loss (nats per token)")


def test_the_page_loads_no_external_resource(read: Reader) -> None:
    for tag, attributes in read.tags:
        addresses = [attributes.get(name) or "#" for name in ("src", "href", "xlink:href", "srcset", "action")]
        assert all(address.startswith("#") or address == "data:," for address in addresses), (tag, addresses)


def test_all_sections_are_linked_in_order(read: Reader) -> None:
    assert read.sections == read.links
    assert read.sections == [
        *("training", "gradients", "samples", "translations", "quality", "data"),
        *("throughput", "failures", "settings", "versions"),
    ]


def test_missing_results_have_no_section(tmp_path: pathlib.Path) -> None:
    run_folders.begin(tmp_path)
    started = Reader(page.render(content.build(location.Location.parse(str(tmp_path)))))
    assert started.sections == started.links == ["failures", "settings"]
    assert "not trained yet" in started.text
    assert "None: no restarts" in started.text


def test_plots_of_positive_values_have_both_scales(read: Reader) -> None:
    boxes = [attributes for tag, attributes in read.tags if tag == "input"]
    # loss, perplexity, gradient norm, norm by layer, norm by lag; of these only the loss opens linear
    assert [("checked" in box) for box in boxes] == [False, True, True, True, True]
    num_plots = [tag for tag, _ in read.tags].count("svg")
    # linear only: accuracy, BLEU, learning rate, radii, forget gates, quality by length, throughput; an attention map
    assert num_plots == 2 * 5 + 7 + 1


def test_workers_and_stages_have_their_rates(read: Reader) -> None:
    cells = read.text.split()
    assert {"500.0", "250.0"} <= set(cells)  # ms/step: 2 s and 1 s for 4 steps
    assert "12" in cells  # tokens/s of translate: 6 in half a second


def test_failures_are_listed(read: Reader) -> None:
    for sentence in (
        "The run was started 2 times.",
        "1 step was skipped because the gradient norm was not finite.",
        "A damaged checkpoint was skipped: step-3: torn",
        "translate: 2 workers died, in the last command.",
        "translate: 1 part was retried, in the last command.",
        "translate: 1 line failed.",
        "training.epochs was changed from 1 to 2.",
    ):
        assert sentence in read.text, sentence
    assert "None: no restarts" not in read.text


def test_surplus_words_are_marked_as_often_as_they_are_surplus() -> None:
    assert shown_lines.mark_differences("a b  a a", "b a") == [
        *(("a", False), (" ", False), ("b", False), ("  ", False), ("a", True), (" ", False), ("a", True)),
    ]


def test_an_infinite_perplexity_is_a_figure(tmp_path: pathlib.Path) -> None:
    run_folders.complete(tmp_path)
    run = json.loads((tmp_path / "run.json").read_text())
    run["stages"]["score"]["report"]["perplexity"] = "inf"
    (tmp_path / "run.json").write_text(json.dumps(run))
    report = content.build(location.Location.parse(str(tmp_path)))
    assert figures.key_figures(report)["held-out perplexity"] == float("inf")


def _build(folder: pathlib.Path) -> content.Report:
    run_folders.complete(folder)
    return content.build(location.Location.parse(str(folder)))


def test_figures_against_cleaned_references_stand_beside_those_as_written(tmp_path: pathlib.Path) -> None:
    report = _build(tmp_path)
    cleaned = {
        "cleaning": ["lower"], "bleu": 98.75, "chrf": 99.5, "ter": 1.25,
        "signatures": {"bleu": "references:cleaned[lower]"}, "by_length": [],
        "faults": {**run_folders.FAULTS, "omitted": 77},
    }  # fmt: skip
    report["quality"]["cleaned"] = cleaned
    (row,) = [row for row in report["samples"]["translations"] if row["hypothesis"] == "un chat"]
    row |= {"reference": "Un CHAT", "cleaned_reference": "un chat"}
    text = page.render(report)
    read = Reader(text)
    for name in (
        "BLEU, references as written",
        "BLEU, references cleaned",
        "BLEU, cleaned references",
        "98.75",
        "91.25",
    ):
        assert name in read.text, name
    assert "references:cleaned[lower]" in read.text
    assert "77" in read.text, "word errors are those against cleaned references"
    card = text[text.index('id="translations"') :].partition("</dl>")[0]
    assert "<dd>a cat</dd>" in card
    assert "<mark>" not in card.partition("</p>")[2], "what cleaning took away is not an error"
    assert "reference, cleaned" in card
    assert "Un CHAT" in card


def test_marks_of_text_without_spaces_are_by_character() -> None:
    marked = shown_lines.mark_differences("我的朋友看见 Bob 屋", "我的朋友看见 Bob 房")
    assert [text for text, is_marked in marked if is_marked] == ["屋"]
    assert "".join(text for text, _ in marked) == "我的朋友看见 Bob 屋"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (None, None),
        (
            {"method": "greedy", "temperature": 1.0, "top_k": None, "top_p": None},
            "Greedy: always the most likely token.",
        ),
        (
            {"method": "sample", "temperature": 0.8, "top_k": 40, "top_p": None},
            "Sampled at temperature 0.8, top-k 40.",
        ),
    ],
)
def test_generated_text_is_shown_with_its_method(
    settings: dict[str, object] | None, sentence: str | None, tmp_path: pathlib.Path
) -> None:
    assert page.describe_generation(settings) == sentence
    report = _build(tmp_path)
    report["samples"]["generated"] = [{"prefix": "the cat", "text": " sat"}]
    report["generation"] = settings
    assert (sentence or "Generated text") in Reader(page.render(report)).text


def test_validation_bleu_is_shown_with_its_signature(tmp_path: pathlib.Path) -> None:
    report = _build(tmp_path)
    assert "Validation BLEU" not in Reader(page.render(report)).text, "not recorded by an older release"
    report["training"]["best_validation"]["bleu_signature"] = "nrefs:1|tok:char"
    assert "Validation BLEU: nrefs:1|tok:char" in Reader(page.render(report)).text
