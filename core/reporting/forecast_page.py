"""Pictures of forecasts beside what came, and their errors, as one page that needs nothing else."""

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
<h1>Forecasts, {{ method }}</h1>
<table>
<tr><th>column</th><th>steps ahead</th><th>mean squared error</th><th>residuals beyond 3 σ</th></tr>
{% for one in forecasts %}
<tr><td>{{ one.target }}</td><td>{{ one.horizon }}</td><td>{{ one.mse }}</td><td>{{ one.anomalies }}</td></tr>
{% endfor %}
</table>
{% for picture in pictures %}
<figure><figcaption>{{ picture.title }}</figcaption>{{ picture.svg }}</figure>
{% endfor %}
</html>
"""


@dataclasses.dataclass(frozen=True)
class Shown:
    """What was forecast of a column so many steps ahead: by row of the series, with what came there."""

    target: str
    horizon: int
    mse: str
    anomalies: str
    forecast: curves.Series
    actual: curves.Series


def render(method: str, forecasts: Sequence[Shown]) -> str:
    """Returns the page: a table of errors by horizon, and a picture for each column and horizon."""
    pictures = []
    for one in forecasts:
        steps = "the next step" if one.horizon == 1 else f"{one.horizon} steps ahead"
        title = f"{one.target}, {steps}"
        svg = curves.draw(title, [one.actual, one.forecast])
        pictures.append({"title": title, "svg": markupsafe.Markup(svg)})  # noqa: S704 (drawn here, from numbers)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(_PAGE).render(method=method, forecasts=forecasts, pictures=pictures)
