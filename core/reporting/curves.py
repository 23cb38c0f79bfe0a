"""Pictures of how a run went, as SVG text that takes its colours from the page around it."""

import dataclasses
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.backends.backend_svg
import matplotlib.figure
import matplotlib.ticker

MAX_POINTS = 400

# Colours that nobody would choose stand for the page's own, so that a picture follows light and dark.
_INK, _GRID = "#010101", "#020202"
SERIES = ("#030303", "#040404", "#050505")
_PAGE_COLOURS = {
    _INK: "currentColor",
    _GRID: "var(--grid)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, start=1)},
}
# Any: matplotlib's stubs list every name there is
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "raycurrent",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "legend.frameon": False,
}
_NAMES_IN_SVG = re.compile(r' id="(?:figure|axes|patch|matplotlib\.axis|[xy]tick|line2d|text|legend)_\d+"')


@dataclasses.dataclass(frozen=True)
class Series:
    """Values over steps."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]


def thinned(series: Series, most: int = MAX_POINTS) -> Series:
    """Keeps at most `most` points, evenly by position; the first and the last always stay."""
    count = len(series.steps)
    if count <= most:
        return series
    kept = [round(index * (count - 1) / (most - 1)) for index in range(most)]
    return Series(series.name, [series.steps[i] for i in kept], [series.values[i] for i in kept])


def draw(title: str, series: Sequence[Series], logarithmic: bool = False) -> str:
    """Draws one to two series over steps and returns an `<svg>` element.

    The same series always give the same text. Nothing in it refers to a file or an address.
    """

    def plot(axes: Any) -> None:
        for colour, one in zip(SERIES, series, strict=False):
            few = thinned(one)
            mark = "o" if len(few.steps) <= 30 else ""
            axes.plot(few.steps, few.values, color=colour, label=one.name, linewidth=1.6, marker=mark, markersize=3.5)
        if logarithmic:
            axes.set_yscale("log")
            values = [value for one in series for value in one.values]
            plain = matplotlib.ticker.StrMethodFormatter("{x:g}")
            axes.yaxis.set_major_formatter(plain)
            few_decades = max(values) < 10 * min(values)
            axes.yaxis.set_minor_formatter(plain if few_decades else matplotlib.ticker.NullFormatter())
        else:
            axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(6, integer=True))
        axes.set_xlabel("step")
        if len(series) > 1:
            axes.legend(loc="best")

    return picture(title, plot)


def picture(title: str, plot: Callable[[Any], None]) -> str:
    """Returns the `<svg>` element of what `plot` puts on the axes that it is given, in colours of `SERIES`."""
    with mpl.rc_context(_STYLE):
        figure = matplotlib.figure.Figure(figsize=(5.2, 2.9), layout="constrained")
        matplotlib.backends.backend_svg.FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        plot(axes)
        axes.tick_params(which="both", length=0)
        written = io.StringIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(written, format="svg", transparent=True, metadata=nothing)
    return _inline(written.getvalue(), title)


def _inline(svg: str, title: str) -> str:
    """Turns a whole SVG document into an element for a page."""
    element = svg[svg.index("<svg") :]
    element = _NAMES_IN_SVG.sub("", element)
    element = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", element, count=1)
    element = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", element, count=1)
    label = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    element = element.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    for colour, own in _PAGE_COLOURS.items():
        element = element.replace(colour, own)
    return element.strip()
