"""Line and bar plots as inline SVG that takes its colours from the page around it.

Matplotlib draws with placeholder colours, which are replaced by CSS variables, so that a plot follows the light and
dark colour schemes of its page.
"""

import dataclasses
import datetime
import io
import itertools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.backends.backend_svg
import matplotlib.dates
import matplotlib.figure
import matplotlib.ticker

MAX_POINTS = 400
_LEGEND_INSIDE = 3  # series up to which the legend fits inside the axes
_ROUND = (1, 2, 5, 10)  # leading digits of tick distances

# Placeholders: colours that occur nowhere else, each replaced by a colour of the page.
_INK, _GRID = "#010101", "#020202"
SERIES = ("#030303", "#040404", "#050505", "#060606", "#070707", "#080808")
_DASHES = ("-", "--", ":")
_PAGE_COLOURS = {
    _INK: "currentColor",
    _GRID: "var(--grid)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, start=1)},
}
# Any: matplotlib's stubs accept only a Literal of all parameter names
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "raycurrent",  # the same plot has the same ids, hence the same bytes
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
_IDS = re.compile(r' id="(?:figure|axes|patch|matplotlib\.axis|[xy]tick|line2d|text|legend)_\d+"')


@dataclasses.dataclass(frozen=True)
class Series:
    """Values over steps, or over another quantity that the x axis names."""

    name: str
    steps: Sequence[float]
    values: Sequence[float]


def thin(series: Series, most: int = MAX_POINTS) -> Series:
    """Returns a series of at most `most` points, evenly spaced by index, with the first and the last."""
    count = len(series.steps)
    if count <= most:
        return series
    indices = [round(number * (count - 1) / (most - 1)) for number in range(most)]
    return Series(series.name, [series.steps[i] for i in indices], [series.values[i] for i in indices])


def plot_lines(
    title: str,
    series: Sequence[Series],
    logarithmic: bool = False,
    restarts: Sequence[float] = (),
    x_label: str = "step",
    best: float | None = None,
) -> str:
    """Plots series as lines and returns an `<svg>` element.

    The same series always give the same bytes. The element refers to no file and no URL.

    Args:
        title: accessible name of the plot.
        series: the first six have colours of their own; further ones have the same colours, dashed and dotted. A
            series without values is omitted, and its colour is not given to another one.
        logarithmic: logarithmic y axis; all values must be above 0.
        restarts: steps to mark with a vertical line.
        x_label: label of the x axis.
        best: step of the best checkpoint, marked with a labelled line.
    """

    def draw(axes: Any) -> None:
        for step in restarts:
            axes.axvline(step, color=_INK, alpha=0.35, linewidth=1, linestyle=":")
        if best is not None:
            axes.axvline(best, color=_INK, alpha=0.6, linewidth=1, linestyle="--")
            axes.annotate(
                "best", (best, 1), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points",
                fontsize=8, ha="center", annotation_clip=False,
            )  # fmt: skip
        for number, member in visible:
            few = thin(member)
            marker = "o" if len(few.steps) <= 30 else ""
            dashes = _DASHES[number // len(SERIES) % len(_DASHES)]
            axes.plot(
                few.steps, few.values, dashes, color=SERIES[number % len(SERIES)], label=member.name,
                linewidth=1.6, marker=marker, markersize=3.5,
            )  # fmt: skip
        if logarithmic:
            _set_log_scale(axes, [value for member in series for value in member.values])
        else:
            axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, steps=_ROUND))
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(6, integer=True, steps=_ROUND))
        axes.set_xlabel(x_label)
        if len(visible) > 1:
            _add_legend(axes, below=len(visible) > _LEGEND_INSIDE)

    visible = _with_values(series)
    return render_svg(title, draw, legend_rows=math.ceil(len(visible) / 2) if len(visible) > _LEGEND_INSIDE else 0)


def plot_bars(title: str, groups: Sequence[str], series: Sequence[Series], x_label: str) -> str:
    """Plots series as groups of bars, one bar per series; the steps of a series are indices of groups."""

    def draw(axes: Any) -> None:
        width = 0.8 / max(1, len(visible))
        for index, (number, member) in enumerate(visible):
            shift = (index - (len(visible) - 1) / 2) * width
            positions = [step + shift for step in member.steps]
            axes.bar(positions, member.values, 0.92 * width, color=SERIES[number % len(SERIES)], label=member.name)
        axes.set_xticks(range(len(groups)), groups)
        axes.xaxis.grid(visible=False)
        axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, steps=_ROUND))
        axes.set_xlabel(x_label)
        if len(visible) > 1:
            _add_legend(axes, below=True)

    visible = _with_values(series)
    return render_svg(title, draw, legend_rows=math.ceil(len(visible) / 2) if len(visible) > 1 else 0)


def _with_values(series: Sequence[Series]) -> list[tuple[int, Series]]:
    """Returns the series that have values, each with its index among all, which decides its colour."""
    return [(number, member) for number, member in enumerate(series) if member.values]


def _add_legend(axes: Any, below: bool) -> None:
    """Adds a legend: below the axes, or inside them at the emptiest spot."""
    if below:
        axes.figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    else:
        axes.legend(loc="best")


def _set_log_scale(axes: Any, values: Sequence[float]) -> None:
    axes.set_yscale("log")
    # Over little more than a decade, ticks at powers of ten alone would leave the axis almost without labels.
    few_decades = max(values) < 30 * min(values)
    axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1.0, 2.0, 5.0) if few_decades else (1.0,)))
    axes.yaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())


def render_svg(title: str, draw: Callable[[Any], None], legend_rows: int = 0) -> str:
    """Returns the plot that `draw` makes on the given axes as an `<svg>` element.

    Args:
        title: accessible name of the plot.
        draw: draws on matplotlib axes, in colours of `SERIES`.
        legend_rows: rows of a legend below the axes, for which the figure is made taller.
    """
    with mpl.rc_context(_STYLE):
        figure = matplotlib.figure.Figure(figsize=(5.2, 2.9 + 0.17 * legend_rows), layout="constrained")
        matplotlib.backends.backend_svg.FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        draw(axes)
        axes.tick_params(which="both", length=0)
        written = io.StringIO()
        # No metadata: a date would make the bytes differ from render to render.
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(written, format="svg", transparent=True, metadata=metadata)
    return _inline(written.getvalue(), title)


def _inline(svg: str, title: str) -> str:
    """Converts an SVG document to an element for an HTML page."""
    element = svg[svg.index("<svg") :]
    # Several plots share a page: ids must not repeat, and the size comes from the page's style.
    element = _IDS.sub("", element)
    element = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", element, count=1)
    element = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", element, count=1)
    label = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    element = element.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    for placeholder, colour in _PAGE_COLOURS.items():
        element = element.replace(placeholder, colour)
    return element.strip()


@dataclasses.dataclass(frozen=True)
class TimeLine:
    """Values over times: dates, or numbers."""

    name: str
    times: Sequence[float | datetime.datetime]
    values: Sequence[float]


def thin_extremes(line: TimeLine, most: int = MAX_POINTS) -> TimeLine:
    """Returns a line of at most about `most` points that has the smallest and largest value of each stretch.

    Evenly spaced points would leave out peaks, and draw another curve for each choice of their number.
    """
    count = len(line.values)
    if count <= most:
        return line
    bounds = [round(number * count / (most // 2)) for number in range(most // 2 + 1)]
    indices: list[int] = []
    for start, stop in itertools.pairwise(bounds):
        stretch = range(start, stop)
        extremes = {min(stretch, key=line.values.__getitem__), max(stretch, key=line.values.__getitem__)}
        indices += sorted(extremes)
    indices = sorted({0, *indices, count - 1})
    return TimeLine(line.name, [line.times[i] for i in indices], [line.values[i] for i in indices])


def plot_times(
    title: str,
    lines: Sequence[TimeLine],
    marks: Sequence[tuple[float | datetime.datetime, str]],
    x_label: str,
    y_label: str,
) -> str:
    """Plots lines over time, with labelled vertical lines, and returns an `<svg>` element.

    Args:
        title: accessible name of the plot.
        lines: at most six.
        marks: times at which something begins, and what; the first one has a label alone.
        x_label: label of the x axis, if times are numbers.
        y_label: label of the y axis.
    """
    has_dates = any(isinstance(time, datetime.datetime) for line in lines for time in line.times[:1])

    def draw(axes: Any) -> None:
        for number, line in enumerate(lines):
            few = thin_extremes(line)
            marker = "o" if len(few.values) <= 30 else ""
            axes.plot(
                few.times, few.values, color=SERIES[number], label=line.name, linewidth=1.2, marker=marker,
                markersize=3.5, alpha=0.85,
            )  # fmt: skip
        for number, (time, label) in enumerate(marks):
            if number:
                axes.axvline(time, color=_INK, alpha=0.5, linewidth=1, linestyle=":")
            axes.annotate(
                label, (time, 1), xycoords=("data", "axes fraction"), xytext=(3, 3), textcoords="offset points",
                fontsize=8, annotation_clip=False,
            )  # fmt: skip
        axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, steps=_ROUND))
        axes.set_ylabel(y_label)
        if has_dates:
            locator: Any = matplotlib.dates.AutoDateLocator()  # type: ignore[no-untyped-call]
            axes.xaxis.set_major_locator(locator)
            formatter: Any = matplotlib.dates.ConciseDateFormatter(locator)  # type: ignore[no-untyped-call]
            axes.xaxis.set_major_formatter(formatter)
        else:
            axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(6, steps=_ROUND))
            axes.set_xlabel(x_label)
        # Outside: curves of a series fill the axes, so that a legend inside would cover them.
        axes.figure.legend(loc="outside lower center", ncols=len(lines), fontsize=8)

    return render_svg(title, draw, legend_rows=1)
