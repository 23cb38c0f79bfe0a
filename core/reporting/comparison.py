"""Several runs on one page: what differs in their settings, and what came of it."""

from collections.abc import Sequence
from typing import Any

from core.reporting import content, page, page_frame, plots

_LOWEST, _HIGHEST = min, max
# Which end of a figure is the good one; of those that are not here, none is.
_BEST = {
    "BLEU": _HIGHEST,
    "chrF": _HIGHEST,
    "TER": _LOWEST,
    "held-out perplexity": _LOWEST,
    "bits per character": _LOWEST,
    "validation perplexity": _LOWEST,
    "valid error, MSE": _LOWEST,
}
_OF_TRANSLATIONS = ("BLEU", "chrF", "TER")
_OF_TOKENS = ("held-out perplexity", "validation perplexity")
_SECONDS = ", seconds"
_TITLES = ("Loss (nats per token)", "Perplexity", "Next-token accuracy, validation", "BLEU, validation, greedy")
_OTHERS = ("Gradient norm before clipping", "Learning rate", plots.THROUGHPUT)
# Where a run lies and what it is called differs always, and says nothing.
_NAMES = ("name", "root")

TEMPLATE = """{% extends "frame" %}
{% import "parts" as parts %}
{% block title %}{{ names|join(", ") }}: Raycurrent runs{% endblock %}
{% block body %}
<h1>{{ names|length }} runs</h1>
<p class="quiet">{{ names|join(" · ") }}</p>
{%- for warning in warnings %}
<p>{{ warning }}</p>
{%- endfor %}
<div class="wide"><table class="narrow runs">
<tr><th></th>{% for name in names %}<th class="number">{{ name }}</th>{% endfor %}</tr>
{%- for row in figures %}
<tr><td>{{ row.label }}</td>
{%- for cell in row.cells %}<td class="number{{ " best" if cell.best }}">{{ cell.text }}</td>{% endfor %}</tr>
{%- endfor %}
</table></div>
{%- if with_best %}
<p class="quiet">Bold: the best of a row.</p>
{%- endif %}
{%- if settings %}
<h2>Settings that differ</h2>
<div class="wide"><table class="names runs">
<tr><th></th>{% for name in names %}<th>{{ name }}</th>{% endfor %}</tr>
{%- for row in settings %}
<tr><td>{{ row.name }}</td>{% for text in row.cells %}<td class="value">{{ text }}</td>{% endfor %}</tr>
{%- endfor %}
</table></div>
{%- endif %}
{%- if pictures %}
<h2>Training</h2>
{{ parts.plots(pictures) }}
{%- endif %}
{%- if quality_pictures %}
<h2>Quality</h2>
{{ parts.plots(quality_pictures) }}
{%- endif %}
{%- if lines %}
<h2>Translations</h2>
<p>The first held-out lines that all have. <mark>Underlined</mark>: a word that the reference has not, or not as
often.</p>
<div class="cards">
{%- for line in lines %}
<div class="card"><dl>
<dt>source</dt><dd>{{ line.source }}</dd>
{%- for name, pieces in line.outputs %}
<dt>{{ name }}</dt><dd>{{ parts.marked(pieces) }}</dd>
{%- endfor %}
{%- if line.reference is not none %}
<dt>reference</dt><dd>{{ line.reference }}</dd>
{%- endif %}
</dl></div>
{%- endfor %}
</div>
{%- endif %}
<h2>Where they are</h2>
<div class="wide"><table class="names">
{%- for name, root in roots %}
<tr><td>{{ name }}</td><td class="value">{{ root }}</td></tr>
{%- endfor %}
</table></div>
{% endblock %}
"""


def render(reports: Sequence[content.Report]) -> str:
    """Returns a page on which the runs stand side by side; what none of them has is not on it."""
    names = labels(reports)
    quality = {
        name: (report["quality"] or {}).get("by_length", ()) for name, report in zip(names, reports, strict=True)
    }
    by_length = plots.by_length(quality)
    table = rows(reports)
    return page_frame.page(
        TEMPLATE,
        names=names,
        warnings=warnings(reports),
        figures=table,
        with_best=any(cell["best"] for row in table for cell in row["cells"]),
        settings=differing(reports),
        pictures=_curves(names, reports),
        quality_pictures=[by_length] if by_length else [],
        lines=_lines(names, reports),
        roots=[(name, report["root"]) for name, report in zip(names, reports, strict=True)],
    )


def labels(reports: Sequence[content.Report]) -> list[str]:
    """Names the runs so that each name stands for one: where names are equal, by where they lie."""
    names = [report["name"] for report in reports]
    if len(set(names)) == len(names):
        return names
    roots = [report["root"].rstrip("/").split("/") for report in reports]
    depth = next(
        (
            depth
            for depth in range(1, max(map(len, roots)))
            if len({tuple(root[-depth:]) for root in roots}) == len(roots)
        ),
        max(map(len, roots)),
    )
    return ["/".join(root[-depth:]) for root in roots]


def rows(reports: Sequence[content.Report]) -> list[dict[str, Any]]:
    """The figures of all runs, a row for each, and which of a row is the best, where they can be compared."""
    found = [{**page.figures(report), **_effort(report)} for report in reports]
    beyond = {
        *(_OF_TRANSLATIONS if _differ(_translated(reports)) else ()),
        *(_OF_TOKENS if _differ(_sizes(reports)) else ()),
    }
    table = []
    for label in found[0]:
        values = [figures[label] for figures in found]
        known = [value for value in values if value is not None]
        is_rankable = label in _BEST and label not in beyond and _differ(known)
        best = _BEST[label](known) if is_rankable else None
        cells = [{"text": _text(label, value), "best": best is not None and value == best} for value in values]
        if known:
            table.append({"label": label, "cells": cells})
    return table


def _text(label: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1f}" if label.endswith(_SECONDS) else page.figure(value)


def _effort(report: content.Report) -> dict[str, float | None]:
    """What it took. The seconds of training are told if one start did it all: they are those of the last."""
    training = report["training"] or {}
    elapsed_s = {stage["name"]: stage["elapsed_s"] for stage in report["stages"]}
    if training.get("restarts"):
        elapsed_s.pop("train", None)
    return {
        "steps": training.get("steps"),
        "target tokens trained on": (training.get("last") or {}).get("num_tokens"),
        **{f"{name}{_SECONDS}": elapsed_s.get(name) for name in ("train", "translate", "score")},
    }


def differing(reports: Sequence[content.Report]) -> list[dict[str, Any]]:
    """The settings that are not the same in all runs, with the value in each."""
    found = [content.flat(report["settings"]) for report in reports]
    table = []
    every = list(dict.fromkeys(name for settings in found for name in settings))
    sections = list(dict.fromkeys(map(_section, every)))
    for name in sorted(every, key=lambda name: sections.index(_section(name))):
        values = [page_frame.setting(settings[name]) if name in settings else "–" for settings in found]
        if name not in _NAMES and len(set(values)) > 1:
            table.append({"name": name, "cells": values})
    return table


def _section(name: str) -> str:
    return name.partition(".")[0]


def warnings(reports: Sequence[content.Report]) -> list[str]:
    """What keeps figures from being compared, in sentences."""
    said = []
    if _differ([(report["data"] or {}).get("fingerprint") for report in reports]):
        said.append("The runs learnt from different datasets.")
    if _differ(_sizes(reports)):
        said.append("Their vocabularies differ: a perplexity is of tokens, and their tokens are not the same.")
    if _differ(_translated(reports)):
        said.append("They did not translate the same held-out lines: BLEU, chrF and TER are of different texts.")
    return said


def _sizes(reports: Sequence[content.Report]) -> list[dict[str, int]]:
    return [report["data"]["vocabulary_sizes"] for report in reports if report["data"]]


def _translated(reports: Sequence[content.Report]) -> list[list[str]]:
    """The first source lines of each run that has translated any."""
    found = ([one["source"] for one in report["samples"]["translations"]] for report in reports)
    return [sources for sources in found if sources]


def _differ(values: Sequence[object]) -> bool:
    return any(value != values[0] for value in values)


def _curves(names: Sequence[str], reports: Sequence[content.Report]) -> list[plots.Picture]:
    """Draws each curve with all runs in it: of the validation where there is one, else of training."""
    drawn = []
    for title in (*_TITLES, *_OTHERS):
        by_run = [(report["training"] or {}).get("curves", {}).get(title, {}) for report in reports]
        for which in ("training", "validation"):
            series = [plots.series(name, named.get(which, ())) for name, named in zip(names, by_run, strict=True)]
            both = all(named.get("training") and named.get("validation") for named in by_run if named)
            shown = f"{title}, {which}" if both else title
            drawn.append(plots.lines(title, series, called=shown))
    return [picture for picture in drawn if picture]


def _lines(names: Sequence[str], reports: Sequence[content.Report]) -> list[dict[str, Any]]:
    """The lines at the same place in all runs whose source is the same, with each run's translation."""
    found = []
    for ones in zip(*(report["samples"]["translations"] for report in reports), strict=False):
        first = ones[0]
        if any((one["source"], one["reference"]) != (first["source"], first["reference"]) for one in ones):
            continue
        outputs = [
            (
                name,
                page.marked(one["hypothesis"], first["reference"])
                if first["reference"]
                else [(one["hypothesis"], False)],
            )
            for name, one in zip(names, ones, strict=True)
        ]
        found.append({"source": first["source"], "reference": first["reference"], "outputs": outputs})
    return found
