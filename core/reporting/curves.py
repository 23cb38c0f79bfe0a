"""Pictures of how a run went, as SVG text that takes its colours from the page around it."""

import dataclasses
import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.backends.backend_svg
import matplotlib.figure
import matplotlib.ticker

MAX_POINTS = 400
_LEGEND_INSIDE = 3
_ROUND = (1, 2, 5, 10)

# Colours that nobody would choose stand for the page's own, so that a picture follows light and dark.
_INK, _GRID = "#010101", "#020202"
SERIES = ("#030303", "#040404", "#050505", "#060606", "#070707", "#080808")
_DASHES = ("-", "--", ":")
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
    """Values over steps, or over whatever else a picture says."""

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


def draw(
    title: str,
    series: Sequence[Series],
    logarithmic: bool = False,
    restarts: Sequence[float] = (),
    over: str = "step",
) -> str:
    """Draws series over steps and returns an `<svg>` element.

    The same series always give the same text. Nothing in it refers to a file or an address.

    Args:
        title: what a screen reader says.
        series: the first six have colours of their own; those after them the same ones, dashed and dotted. One
            without values is left out, but keeps its colour from the others.
        logarithmic: the values, which then are all above 0.
        restarts: steps that are marked.
        over: what the steps are.
    """

    def plot(axes: Any) -> None:
        for step in restarts:
            axes.axvline(step, color=_INK, alpha=0.35, linewidth=1, linestyle=":")
        for number, one in shown:
            few = thinned(one)
            mark = "o" if len(few.steps) <= 30 else ""
            dashes = _DASHES[number // len(SERIES) % len(_DASHES)]
            axes.plot(
                few.steps, few.values, dashes, color=SERIES[number % len(SERIES)], label=one.name,
                linewidth=1.6, marker=mark, markersize=3.5,
            )  # fmt: skip
        if logarithmic:
            _logarithmic(axes, [value for one in series for value in one.values])
        else:
            axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, steps=_ROUND))
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(6, integer=True, steps=_ROUND))
        axes.set_xlabel(over)
        if len(shown) > 1:
            legend(axes, below=len(shown) > _LEGEND_INSIDE)

    shown = _shown(series)
    return picture(title, plot, rows=math.ceil(len(shown) / 2) if len(shown) > _LEGEND_INSIDE else 0)


def bars(title: str, groups: Sequence[str], series: Sequence[Series], over: str) -> str:
    """Draws bars side by side: of each series the value at each of its steps, which are numbers of groups."""

    def plot(axes: Any) -> None:
        width = 0.8 / max(1, len(shown))
        for place, (number, one) in enumerate(shown):
            shift = (place - (len(shown) - 1) / 2) * width
            places = [step + shift for step in one.steps]
            axes.bar(places, one.values, 0.92 * width, color=SERIES[number % len(SERIES)], label=one.name)
        axes.set_xticks(range(len(groups)), groups)
        axes.xaxis.grid(visible=False)
        axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, steps=_ROUND))
        axes.set_xlabel(over)
        if len(shown) > 1:
            legend(axes, below=True)

    shown = _shown(series)
    return picture(title, plot, rows=math.ceil(len(shown) / 2) if len(shown) > 1 else 0)


def _shown(series: Sequence[Series]) -> list[tuple[int, Series]]:
    """The series that have values, each with its number among all."""
    return [(number, one) for number, one in enumerate(series) if one.values]


def legend(axes: Any, below: bool) -> None:
    """Names the series: where there is most room, or below, where they hide nothing."""
    if below:
        axes.figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    else:
        axes.legend(loc="best")


def _logarithmic(axes: Any, values: Sequence[float]) -> None:
    axes.set_yscale("log")
    few_decades = max(values) < 30 * min(values)
    axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1.0, 2.0, 5.0) if few_decades else (1.0,)))
    axes.yaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def picture(title: str, plot: Callable[[Any], None], rows: int = 0) -> str:
    """Returns the `<svg>` element of what `plot` puts on the axes that it is given, in colours of `SERIES`.

    `rows` are those of a legend below the axes, for which the picture is made higher.
    """
    with mpl.rc_context(_STYLE):
        figure = matplotlib.figure.Figure(figsize=(5.2, 2.9 + 0.17 * rows), layout="constrained")
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
