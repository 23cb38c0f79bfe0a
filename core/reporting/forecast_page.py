"""The page of forecasts: plots beside the actual values, and errors by horizon; a self-contained HTML file."""

import dataclasses
from collections.abc import Sequence

import jinja2
import markupsafe

from core.reporting import curves

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Forecasts</title>
<style>
:root { color-scheme: light dark; --grid: #d8d8d8; --series-1: #1f5fc4; --series-2: #c2570c; }
@media (prefers-color-scheme: dark) { :root { --grid: #444; --series-1: #6ea8ff; --series-2: #f2a057; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 2rem auto; padding: 0 1rem; }
td, th { padding: 0 1.5rem 0 0; text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 1.5rem 0; } figcaption { font-weight: 600; }
</style>
<h1>{{ method|capitalize }} forecasts</h1>
<table>
<tr><th>column</th><th>steps ahead</th><th>mean squared error</th><th>residuals beyond 3 σ</th></tr>
{% for row in forecasts %}
<tr><td>{{ row.target }}</td><td>{{ row.horizon }}</td><td>{{ row.mse }}</td><td>{{ row.anomalies }}</td></tr>
{% endfor %}
</table>
{% for plot in plots %}
<figure><figcaption>{{ plot.title }}</figcaption>{{ plot.svg }}</figure>
{% endfor %}
</html>
"""


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Forecasts of one column at one horizon.

    Attributes:
        target: name of the column.
        horizon: steps ahead.
        mse: mean squared error, formatted.
        anomalies: number of residuals beyond 3 standard deviations, formatted.
        forecast: forecast values, by row of the series.
        actual: actual values, by row of the series.
    """

    target: str
    horizon: int
    mse: str
    anomalies: str
    forecast: curves.Series
    actual: curves.Series


def render(method: str, forecasts: Sequence[Forecast]) -> str:
    """Renders the page: a table of errors by horizon, and a plot for each column and horizon."""
    plots = []
    for row in forecasts:
        title = f"{row.target}, {row.horizon} step{'' if row.horizon == 1 else 's'} ahead"
        svg = curves.plot_lines(title, [row.actual, row.forecast])
        plots.append({"title": title, "svg": markupsafe.Markup(svg)})  # noqa: S704 (drawn here, from numbers)
    # Names of columns are the user's own text, hence escaped.
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_PAGE).render(method=method, forecasts=forecasts, plots=plots)
