"""The page of forecasts: errors by split beside those of naive forecasts, and plots beside the actual values."""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import markupsafe

from core.reporting import curves, page_frame, plots

_PAGE = """{% extends "frame" %}
{% import "parts" as parts %}
{% block title %}{{ page.name }}: forecasts{% endblock %}
{% block body %}
<h1>{{ page.name }}: forecasts</h1>
<p class="quiet">{{ page.run }} · {{ page.input }}</p>
<p>{{ page.method|capitalize }} forecasts of {{ page.rows|thousands }} rows
{%- if page.first %}, {{ page.first }} to {{ page.last }}, {{ page.step }} apart{% endif %}.</p>
<nav>{% for id, name in sections %}<a href="#{{ id }}">{{ name }}</a>{% endfor %}</nav>
{%- if headline %}
<dl class="figures">
{%- for row in headline %}
<div><dt>RMSE of {{ row.target }}, {{ row.steps }} ahead, {{ page.headline }} rows</dt><dd>{{ row.rmse }}</dd></div>
{%- endfor %}
</dl>
{%- endif %}
<h2 id="errors">Errors</h2>
{%- if page.headline == "train" %}
<p><mark>All of these rows were trained on: their errors say nothing of other data.</mark></p>
{%- elif not page.headline %}
<p>The dataset of the run is not there or has none of these rows: which of them were trained on is not known.</p>
{%- endif %}
<p class="quiet">RMSE and MAE are in units of the column. Persistence forecasts the last known value, the seasonal naive
forecast the last known value of the same place in a season. MASE is the MAE divided by that of the naive forecast one
season ahead on the training split{% if not seasons %} (one row: no season){% endif %}. The smallest RMSE is bold.</p>
{%- for split, rows in tables %}
<h3>{{ split }}</h3>
<div class="wide"><table class="narrow">
<tr><th>column</th><th class="number">steps ahead</th><th class="number">rows</th><th class="number">RMSE</th>
<th class="number">persistence</th>{% if seasons %}<th class="number">seasonal naive</th>{% endif %}
<th class="number">MAE</th><th class="number">MASE</th><th class="number">MSE</th></tr>
{%- for row in rows %}
<tr><td>{{ row.target }}</td><td class="number">{{ row.horizon }}</td>
<td class="number">{{ row.count|thousands }}</td>
<td class="number{{ ' best' if row.best == 'rmse' }}">{{ row.rmse }}</td>
<td class="number{{ ' best' if row.best == 'persistence_rmse' }}">{{ row.persistence_rmse }}</td>
{%- if seasons %}<td class="number{{ ' best' if row.best == 'seasonal_rmse' }}">{{ row.seasonal_rmse }}</td>{% endif %}
<td class="number">{{ row.mae }}</td><td class="number">{{ row.mase }}</td><td class="number">{{ row.mse }}</td></tr>
{%- endfor %}
</table></div>
{%- endfor %}
{%- for target, period in seasons.items() %}
<p class="quiet">Season of {{ target }}: {{ period|thousands }} rows.</p>
{%- endfor %}
<h2 id="curves">Curves</h2>
<p class="quiet">{{ caption }}</p>
{{ parts.figures(plots) }}
<h2 id="next">Next values</h2>
<details{% if next_rows|length <= 8 %} open{% endif %}><summary>{{ next_rows|length }} rows after the end</summary>
<div class="wide"><table class="narrow">
<tr><th>{{ "time" if page.first else "row" }}</th>
{%- for target in page.next %}<th class="number">{{ target }}</th>{% endfor %}</tr>
{%- for row in next_rows %}
<tr><td>{{ row[0] }}</td>{% for value in row[1:] %}<td class="number">{{ value }}</td>{% endfor %}</tr>
{%- endfor %}
</table></div></details>
{% endblock %}
"""

_SECTIONS = (("errors", "Errors"), ("curves", "Curves"), ("next", "Next values"))
_SPLIT_TITLES = {
    "test": "Test rows",
    "new": "Rows that are not in the dataset",
    "valid": "Validation rows",
    "train": "Training rows",
    "all": "All rows",
}
_LEAD = 1 / 3  # rows shown before the rows of the headline, as a share of these

Instant = float | datetime.datetime


@dataclasses.dataclass(frozen=True)
class Curve:
    """Forecasts of one column at one horizon.

    Attributes:
        target: name of the column.
        horizon: steps ahead.
        rows: forecast rows, in ascending order.
        forecast: forecast values.
        actual: actual values; None where there is none.
    """

    target: str
    horizon: int
    rows: Sequence[int]
    forecast: Sequence[float]
    actual: Sequence[float | None]


@dataclasses.dataclass(frozen=True)
class Page:
    """Content of the page.

    Attributes:
        name: name of the run.
        run: its location.
        input: location of the series.
        method: `recursive` or `direct`.
        rows: number of rows of the series.
        times: of all rows and of those that are forecast beyond the end: instants, or row numbers.
        labels: the same as text.
        step: distance of two rows, such as `1 day`; empty without times.
        splits: label of the split of each row; empty if it is not known.
        headline: split of the errors that say most; None if it is not known.
        errors: rows of the table of errors by split; `all` if splits are not known.
        periods: rows of a season by column; 1: none.
        next: forecasts beyond the end by column.
        curves: forecasts and actual values.
    """

    name: str
    run: str
    input: str
    method: str
    rows: int
    times: Sequence[Instant]
    labels: Sequence[str]
    step: str
    splits: Sequence[str]
    headline: str | None
    errors: Mapping[str, Sequence[Mapping[str, Any]]]
    periods: Mapping[str, int]
    next: Mapping[str, Sequence[float]]
    curves: Sequence[Curve]

    @property
    def first(self) -> str:
        """Time of the first row; empty without times."""
        return self.labels[0] if self.step else ""

    @property
    def last(self) -> str:
        """Time of the last row."""
        return self.labels[self.rows - 1]


def render(page: Page) -> str:
    """Renders the page; all texts are escaped."""
    order = sorted(page.errors, key=lambda name: (name != page.headline, list(_SPLIT_TITLES).index(name)))
    tables = [(_SPLIT_TITLES[name], [_format(row) for row in page.errors[name]]) for name in order]
    start = _first_shown(page)
    shown = "All rows." if start == 0 else f"From row {page_frame.format_count(start)} on."
    next_rows = [
        [page.labels[page.rows + step], *(_number(values[step]) for values in page.next.values())]
        for step in range(min((len(values) for values in page.next.values()), default=0))
    ]
    return page_frame.render(
        _PAGE,
        page=page,
        sections=_SECTIONS,
        headline=[_format(row) for row in page.errors[page.headline]] if page.headline else [],
        tables=tables,
        seasons={target: period for target, period in page.periods.items() if period > 1},
        caption=f"{shown} Lines mark where a split begins.",
        plots=[_plot(page, curve, start) for curve in page.curves],
        next_rows=next_rows,
    )


def _first_shown(page: Page) -> int:
    """Returns the first row of the plots: a little before the rows of the headline, which are few among many."""
    if page.headline is None:
        return 0
    first = list(page.splits).index(page.headline)
    return max(0, first - round(_LEAD * (page.rows - first)))


def _plot(page: Page, curve: Curve, start: int) -> plots.Plot:
    steps = _steps(curve.horizon)
    title = f"{curve.target}, {steps} ahead"
    shown = [number for number, row in enumerate(curve.rows) if row >= start]
    known = [number for number in shown if curve.actual[number] is not None]

    def line(name: str, numbers: Sequence[int], values: Sequence[float | None]) -> curves.TimeLine:
        points = [value for number in numbers if (value := values[number]) is not None]
        return curves.TimeLine(name, [page.times[curve.rows[number]] for number in numbers], points)

    lines = [line("actual", known, curve.actual), line("forecast", shown, curve.forecast)]
    first = curve.rows[shown[0]]
    marks = [
        (page.times[row], split)
        for row, split in enumerate(page.splits)
        if row >= first and (row == first or page.splits[row - 1] != split)
    ]
    svg = curves.plot_times(title, lines, marks, "time" if page.step else "row", curve.target)
    return plots.Plot(title, markupsafe.Markup(svg))  # noqa: S704 (drawn here; its texts are escaped)


def _format(row: Mapping[str, Any]) -> dict[str, Any]:
    """Formats a row of the table; `best` is the name of the smallest RMSE."""
    names = ("rmse", "mae", "mse", "mase", "persistence_rmse", "seasonal_rmse")
    errors = {name: row[name] for name in ("rmse", "persistence_rmse", "seasonal_rmse") if row.get(name) is not None}
    return {
        "target": row["target"],
        "horizon": row["horizon"],
        "steps": _steps(row["horizon"]),
        "count": row["count"],
        **{name: _number(row.get(name)) for name in names},
        "best": min(errors, key=lambda name: errors[name]) if len(errors) > 1 else None,
    }


def _steps(horizon: int) -> str:
    return f"{horizon} step{'' if horizon == 1 else 's'}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
