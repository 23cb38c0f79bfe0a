"""Pages of real runs in a real browser: light and dark, on wide and narrow screens."""

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from core.storage import location
from jobs import pipeline, report
from tests import reporters
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
    """Returns a folder with the page of each run and their comparison."""
    folder = tmp_path_factory.mktemp("pages")
    conftest.write_corpus(folder)
    roots = []
    for name, (text, *overrides) in VARIANTS.items():
        config = conftest.configured(text, folder, f"root={folder}/{name}", *overrides)
        roots.append(location.Location.parse(config.root))
        with sessions.Session(config.cluster, metrics_folder=roots[-1].join("metrics")) as session:
            pipeline.run(config, session, reporters.SilentReporter())
        (folder / name / "report.html").rename(folder / f"{name}.html")
    report.run(roots, reporters.SilentReporter(), location.Location.parse(str(folder / "comparison.html")))
    return folder


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Browser]:
    with browser.browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


def brightness(colour: str) -> float:
    """Returns the brightness of a colour given as `rgb(r, g, b)`."""
    return sum(map(float, colour.removeprefix("rgb(").removesuffix(")").split(",")[:3]))


@pytest.mark.parametrize("name", [*VARIANTS, "comparison"])
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, False), (390, True)])
def test_a_page_has_no_errors_loads_nothing_and_fits_the_screen(
    pages: pathlib.Path, shown: browser.Browser, name: str, width: int, dark: bool, tmp_path: pathlib.Path
) -> None:
    shown.console_messages.clear()
    shown.requests.clear()
    page = pages / f"{name}.html"
    shown.open(page, width, dark)
    shown.screenshot(tmp_path / "whole.png")
    assert shown.console_messages == []
    assert [url for url in shown.requests if not url.startswith("data:")] == [page.resolve().as_uri()]
    assert shown.value("document.documentElement.scrollWidth") <= width
    background, text = (
        shown.value(f"getComputedStyle(document.body).{style}") for style in ("backgroundColor", "color")
    )
    assert (brightness(background) < brightness(text)) == dark
    sizes: list[Any] = shown.value("[...document.querySelectorAll('figure svg')].map(svg => svg.clientWidth)")
    assert len([size for size in sizes if size > 200]) >= 5, "plots are large enough to read"


def test_the_check_box_switches_a_plot_to_the_other_scale(pages: pathlib.Path, shown: browser.Browser) -> None:
    shown.open(pages / "translation.html")
    visible = "[...document.querySelector('figure:has(input)').querySelectorAll('svg')].map(svg => svg.clientWidth > 0)"
    assert shown.value(visible) == [True, False]
    shown.value("document.querySelector('figure input').click()")
    assert shown.value(visible) == [False, True]


def test_pages_have_all_recorded_plots_and_samples(pages: pathlib.Path, shown: browser.Browser) -> None:
    shown.open(pages / "translation.html")
    assert shown.value("document.querySelectorAll('svg.attention').length") == 3
    assert shown.value("document.querySelectorAll('#samples + p + .cards > .card').length") == 2
    titles = shown.value("[...document.querySelectorAll('figcaption')].map(caption => caption.innerText).join()")
    assert "BLEU, validation" in titles
    assert "Gradient norm by layer" in titles
    assert "Ranks of the last start" in shown.value("document.body.innerText")
    shown.open(pages / "language.html")
    titles = shown.value("[...document.querySelectorAll('figcaption')].map(caption => caption.innerText).join()")
    assert "Gradient norm by lag" in titles
    assert "Mean forget gate" in titles
