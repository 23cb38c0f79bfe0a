"""The pages of real runs in a real browser: in light and dark, on a desk and on a phone."""

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from core.storage import location
from jobs import console, pipeline, report
from tests.core.reporting import browser
from tests.jobs import conftest
from workers.cluster import session as sessions

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(browser.PROGRAM is None, reason="Chromium is not installed"),
]
RECORDED = (
    "training.validation.bleu_lines=4",
    "training.validation.samples=2",
    "training.record_gradients=true",
)
VARIANTS = {
    "translation": (conftest.TRANSLATION, "decoding.attention_maps=3", *RECORDED),
    "language": (conftest.LANGUAGE, *RECORDED[1:]),
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with the page of each run and one that compares two."""
    folder = tmp_path_factory.mktemp("pages")
    conftest.write_corpus(folder)
    roots = []
    for name, (text, *overrides) in VARIANTS.items():
        config = conftest.configured(text, folder, f"root={folder}/{name}", *overrides)
        roots.append(location.Location.parse(config.root))
        with sessions.Session(config.cluster, metrics_folder=roots[-1].join("metrics")) as session:
            pipeline.run(config, session, console.SilentReporter())
        (folder / name / "report.html").rename(folder / f"{name}.html")
    report.run(roots, console.SilentReporter(), location.Location.parse(str(folder / "comparison.html")))
    return folder


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Browser]:
    with browser.browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


def shade(colour: str) -> float:
    """How light a colour as `rgb(r, g, b)` is."""
    return sum(map(float, colour.removeprefix("rgb(").removesuffix(")").split(",")[:3]))


@pytest.mark.parametrize("name", [*VARIANTS, "comparison"])
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, False), (390, True)])
def test_a_page_is_quiet_asks_for_nothing_and_fits(
    pages: pathlib.Path, shown: browser.Browser, name: str, width: int, dark: bool, tmp_path: pathlib.Path
) -> None:
    shown.complaints.clear()
    shown.requests.clear()
    page = pages / f"{name}.html"
    shown.open(page, width, dark)
    shown.screenshot(tmp_path / "whole.png")
    assert shown.complaints == []
    assert [address for address in shown.requests if not address.startswith("data:")] == [page.resolve().as_uri()]
    assert shown.value("document.documentElement.scrollWidth") <= width
    ground, ink = (shown.value(f"getComputedStyle(document.body).{which}") for which in ("backgroundColor", "color"))
    assert (shade(ground) < shade(ink)) == dark
    sizes: list[Any] = shown.value("[...document.querySelectorAll('figure svg')].map(svg => svg.clientWidth)")
    assert len([size for size in sizes if size > 200]) >= 5, "pictures that can be read"


def test_a_curve_changes_its_scale_when_it_is_told_to(pages: pathlib.Path, shown: browser.Browser) -> None:
    shown.open(pages / "translation.html")
    seen = "[...document.querySelector('figure:has(input)').querySelectorAll('svg')].map(svg => svg.clientWidth > 0)"
    assert shown.value(seen) == [True, False]
    shown.value("document.querySelector('figure input').click()")
    assert shown.value(seen) == [False, True]


def test_what_was_recorded_is_on_the_page(pages: pathlib.Path, shown: browser.Browser) -> None:
    shown.open(pages / "translation.html")
    assert shown.value("document.querySelectorAll('svg.attention').length") == 3
    assert shown.value("document.querySelectorAll('#samples + .cards > .card').length") == 2
    titles = shown.value("[...document.querySelectorAll('figcaption')].map(one => one.innerText).join()")
    assert "BLEU, validation" in titles
    assert "Gradient norm by layer" in titles
    assert "Workers of the last start" in shown.value("document.body.innerText")
    shown.open(pages / "language.html")
    titles = shown.value("[...document.querySelectorAll('figcaption')].map(one => one.innerText).join()")
    assert "Gradient of the last loss, by lag" in titles
    assert "Share of its memory that a layer keeps" in titles
