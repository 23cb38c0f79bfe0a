"""The page that compares several runs: key figures, differing settings, curves and translations."""

from collections.abc import Mapping, Sequence
from typing import Any

from core.reporting import content, figures, page_frame, plots, shown_lines, significance_tables

_LOWEST, _HIGHEST = min, max
# Figures of which the lowest or highest is the best; the others are not ranked.
_BEST = {
    "BLEU": _HIGHEST,
    figures.BLEU_CLEANED: _HIGHEST,
    "chrF": _HIGHEST,
    "TER": _LOWEST,
    "held-out perplexity": _LOWEST,
    "held-out perplexity by line": _LOWEST,
    "bits per character": _LOWEST,
    "validation perplexity": _LOWEST,
    "validation MSE": _LOWEST,
}
_OF_TRANSLATIONS = ("BLEU", figures.BLEU_CLEANED, "chrF", "TER")
_OF_TOKENS = ("held-out perplexity", "held-out perplexity by line", "validation perplexity")
_OF_SCORED_TEXT = ("held-out perplexity", "held-out perplexity by line", "bits per character")
_SECONDS = ", seconds"
_TITLES = ("Loss (nats per token)", "Perplexity", "Next-token accuracy, validation", "BLEU, validation, greedy")
_OTHERS = ("Gradient norm before clipping", "Learning rate", plots.THROUGHPUT)
# Settings that differ between any two runs.
_NAMES = ("name", "root")

TEMPLATE = """{% extends "frame" %}
{% import "parts" as parts %}
{% block title %}{{ names|join(", ") }}: Raycurrent runs{% endblock %}
{% block body %}
<h1>{{ names|length }} runs</h1>
<p class="quiet">{{ names|join(" · ") }}</p>
<div class="verdict">
<div><h3>Which is better</h3>
<p>{{ verdict }}</p>
{%- for warning in warnings %}
<p class="quiet">{{ warning }}</p>
{%- endfor %}
</div>
<div><h3>What would make them better</h3>
<ul>
{%- for name, hints in hints %}
<li><b>{{ name }}</b>: {{ hints|join(" ") if hints else "no rule applies." }}</li>
{%- endfor %}
</ul></div>
</div>
<h2>Figures</h2>
<div class="wide"><table class="narrow runs">
<tr><th></th>{% for name in names %}<th class="number">{{ name }}</th>{% endfor %}</tr>
{%- for row in figures %}
<tr><td>{{ row.label }}</td>
{%- for cell in row.cells %}<td class="number{{ " best" if cell.best }}">{{ cell.text }}
{%- if cell.unit %}<span class="unit">{{ cell.unit }}</span>{% endif %}</td>{% endfor %}</tr>
{%- endfor %}
</table></div>
{%- if with_best %}
<p class="quiet">Bold: best value of the row.</p>
{%- endif %}
{%- if significance %}
<h2>Significance</h2>
<p>{{ significance.sentence }}</p>
<div class="wide"><table class="narrow runs">
<tr><th></th>{% for name in names %}<th class="number">{{ name }}</th>{% endfor %}</tr>
{%- for row in significance.rows %}
<tr><td>{{ row.label }}</td>
{%- for cell in row.cells %}<td class="number{{ " best" if cell.best }}">{{ cell.text }}</td>{% endfor %}</tr>
{%- endfor %}
</table></div>
{%- endif %}
{%- if improvement %}
<h2>Improvement by sentence length</h2>
<p>{{ improvement.sentence }}</p>
<div class="wide"><table class="narrow runs">
<tr><th>words of the reference</th><th class="number">lines</th><th></th>
{%- for name in improvement.names %}<th class="number">{{ name }}</th>{% endfor %}</tr>
{%- for row in improvement.rows %}
<tr><td>{{ row.length }}</td><td class="number">{{ row.lines }}</td><td>{{ row.label }}</td>
{%- for cell in row.cells %}<td class="number{{ " best" if cell.best }}">{{ cell.text }}</td>{% endfor %}</tr>
{%- endfor %}
</table></div>
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
{%- if training_plots %}
<h2>Training</h2>
{{ parts.figures(training_plots) }}
{%- endif %}
{%- if quality_plots %}
<h2>Quality</h2>
{{ parts.figures(quality_plots) }}
{%- endif %}
{%- if lines %}
<h2>Translations</h2>
<p>Held-out lines of all lengths that all runs share. <mark>Underlined</mark>: words that the reference, cleaned as
the training data of that run, lacks or has less often.</p>
<div class="cards">
{%- for line in lines %}
<div class="card"><dl>
<dt>source</dt><dd>{{ line.source }}</dd>
{%- for name, words in line.outputs %}
<dt>{{ name }}</dt><dd>{{ parts.marked(words) }}</dd>
{%- endfor %}
{%- if line.reference is not none %}
<dt>reference</dt><dd>{{ line.reference }}</dd>
{%- endif %}
</dl></div>
{%- endfor %}
</div>
{%- endif %}
<h2>Roots</h2>
<div class="wide"><table class="names">
{%- for name, root in roots %}
<tr><td>{{ name }}</td><td class="value">{{ root }}</td></tr>
{%- endfor %}
</table></div>
{% endblock %}
"""


def render(reports: Sequence[content.Report], significance: Mapping[str, Any] | None = None) -> str:
    """Renders the page that compares runs side by side; sections that no run has are omitted.

    Args:
        reports: of the runs.
        significance: for runs that translated the same lines, "lines", "level", and "systems" as `evaluate` has them,
            None for a run without translations; "improvement_by_length" likewise, of the runs with translations.
    """
    names = label_runs(reports)
    quality = {
        name: (report["quality"] or {}).get("by_length", ()) for name, report in zip(names, reports, strict=True)
    }
    by_length = plots.plot_by_length(quality)
    table = compare_figures(reports)
    return page_frame.render(
        TEMPLATE,
        names=names,
        warnings=find_warnings(reports),
        verdict=describe_best(names, table, significance),
        hints=[(name, [hint["text"] for hint in report["hints"]]) for name, report in zip(names, reports, strict=True)],
        figures=table,
        significance=None if significance is None else significance_tables.of_runs(names, significance),
        improvement=None if significance is None else significance_tables.by_length(names, significance),
        with_best=any(cell["best"] for row in table for cell in row["cells"]),
        settings=compare_settings(reports),
        training_plots=_plot_curves(names, reports),
        quality_plots=[by_length] if by_length else [],
        lines=_common_lines(names, reports),
        roots=[(name, report["root"]) for name, report in zip(names, reports, strict=True)],
    )


def label_runs(reports: Sequence[content.Report]) -> list[str]:
    """Returns a unique label for each run: its name, or the last parts of its root if names repeat."""
    names = [report["name"] for report in reports]
    if len(set(names)) == len(names):
        return names
    roots = [report["root"].rstrip("/").split("/") for report in reports]
    # The shortest ends of the roots that tell all of them apart.
    depth = next(
        (
            depth
            for depth in range(1, max(map(len, roots)))
            if len({tuple(root[-depth:]) for root in roots}) == len(roots)
        ),
        max(map(len, roots)),
    )
    return ["/".join(root[-depth:]) for root in roots]


def compare_figures(reports: Sequence[content.Report]) -> list[dict[str, Any]]:
    """Returns a table row for each key figure, with the best value marked if the runs are comparable."""
    columns = [{**figures.key_figures(report), **_cost(report)} for report in reports]
    units_of_runs = [figures.units_of_figures(report) for report in reports]
    incomparable = {
        *_labels_of_different_units(reports),
        *(_OF_TRANSLATIONS if _differ(_translated_lines(reports)) or _differ(_signatures(reports)) else ()),
        *((figures.BLEU_CLEANED,) if _differ(_cleanings(reports)) else ()),
        *(_OF_TOKENS if _differ(_vocabulary_sizes(reports)) else ()),
        *(_OF_SCORED_TEXT if _differ(_scored_characters(reports)) else ()),
    }
    table = []
    # Runs of series have figures for their own columns and horizons.
    for label in dict.fromkeys(label for column in columns for label in column):
        values = [column.get(label) for column in columns]
        known = [value for value in values if value is not None]
        # Where all values are equal none of them is the best.
        is_rankable = label in _BEST and label not in incomparable and _differ(known)
        best = _BEST[label](known) if is_rankable else None
        cells = [
            {
                "text": _format(label, value),
                "best": best is not None and value == best,
                "unit": None if value is None else units.get(label),
            }
            for value, units in zip(values, units_of_runs, strict=True)
        ]
        if known:
            table.append({"label": label, "cells": cells})
    return table


def describe_best(
    names: Sequence[str], table: Sequence[Mapping[str, Any]], significance: Mapping[str, Any] | None
) -> str:
    """Returns a sentence on the best run by the first figure by which the runs can be ranked."""
    row = next((row for row in table if any(cell["best"] for cell in row["cells"])), None)
    if row is None:
        return "No held-out figure tells the runs apart."
    values = ", ".join(
        f"{name} {cell['text']}" for name, cell in zip(names, row["cells"], strict=True) if cell["text"] != "–"
    )
    best = [name for name, cell in zip(names, row["cells"], strict=True) if cell["best"]]
    sentence = f"{' and '.join(best)}, by {row['label']}: {values}."
    if significance is None or row["label"] != "BLEU":
        return sentence
    p_values = [system["p_values"]["bleu"] for system in significance["systems"] if system and system["p_values"]]
    # Of two runs the only difference; of several each is to the first.
    if len(names) == len(p_values) + 1 == 2:
        word = "significant" if p_values[0] < significance["level"] else "not significant"
        return f"{sentence} The difference is {word} (p = {p_values[0]:.4f})."
    return f"{sentence} Whether the differences are significant is shown below."


def _format(label: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1f}" if label.endswith(_SECONDS) else figures.format_number(value)


def _cost(report: content.Report) -> dict[str, float | None]:
    """Returns steps, tokens and seconds; those of training only if they are of all starts, as the tokens are."""
    training = report["training"] or {}
    elapsed_s = {stage["name"]: stage["elapsed_s"] for stage in report["stages"]}
    if training.get("restarts") and not all(
        stage["is_of_all_starts"] for stage in report["stages"] if stage["name"] == "train"
    ):
        del elapsed_s["train"]
    return {
        "steps": training.get("steps"),
        "target tokens trained on": (training.get("last") or {}).get("num_tokens"),
        **{f"{name}{_SECONDS}": elapsed_s.get(name) for name in ("train", "translate", "score")},
    }


def compare_settings(reports: Sequence[content.Report]) -> list[dict[str, Any]]:
    """Returns the settings that differ between runs, with the value in each."""
    by_run = [content.flat(report["settings"]) for report in reports]
    table = []
    names = list(dict.fromkeys(name for settings in by_run for name in settings))
    sections = list(dict.fromkeys(map(_section, names)))
    # Stable: settings that only later runs have join the others of their section.
    for name in sorted(names, key=lambda name: sections.index(_section(name))):
        values = [page_frame.format_setting(settings[name]) if name in settings else "–" for settings in by_run]
        if name not in _NAMES and len(set(values)) > 1:
            table.append({"name": name, "cells": values})
    return table


def _section(name: str) -> str:
    return name.partition(".")[0]


def find_warnings(reports: Sequence[content.Report]) -> list[str]:
    """Returns sentences on differences between runs that make their figures incomparable."""
    warnings = []
    if _differ([(report["data"] or {}).get("fingerprint") for report in reports]):
        warnings.append("The runs were trained on different datasets.")
    if _differ(_vocabulary_sizes(reports)):
        warnings.append("The vocabularies differ: perplexities per token are not comparable.")
    if labels := _labels_of_different_units(reports):
        warnings.append(f"The runs differ in the unit of {', '.join(labels)}: these are not comparable.")
    if _differ(_scored_characters(reports)):
        warnings.append("The runs were scored on different held-out text: its perplexities are not comparable.")
    if _differ(_translated_lines(reports)):
        warnings.append("The runs translated different held-out lines: BLEU, chrF and TER are not comparable.")
    if _differ(_signatures(reports)):
        warnings.append("The signatures of the runs' BLEU, chrF and TER differ: these figures are not comparable.")
    return warnings


def _labels_of_different_units(reports: Sequence[content.Report]) -> list[str]:
    """Returns the labels of the perplexities that the runs measured by different units."""
    units_of_runs = [figures.units_of_figures(report) for report in reports]
    columns = [figures.key_figures(report) for report in reports]
    return [
        label
        for label in units_of_runs[0]
        if _differ([units[label] for units, known in zip(units_of_runs, columns, strict=True) if known[label]])
    ]


def _vocabulary_sizes(reports: Sequence[content.Report]) -> list[dict[str, int]]:
    return [report["data"]["vocabulary_sizes"] for report in reports if report["data"]]


def _scored_characters(reports: Sequence[content.Report]) -> list[tuple[int, int]]:
    """Returns lines and characters of the held-out text that each run scored; other numbers are of another text."""
    scored = (report["scores"] for report in reports)
    return [(scores.get("lines", 0), scores["characters"]) for scores in scored if scores and scores.get("characters")]


def _signatures(reports: Sequence[content.Report]) -> list[dict[str, str]]:
    """Returns how each run with translations was evaluated."""
    return [quality["signatures"] for report in reports if (quality := report["quality"]) and quality.get("signatures")]


def _cleanings(reports: Sequence[content.Report]) -> list[list[str]]:
    """Returns the steps after which the references of each run were compared, too."""
    return [cleaned["cleaning"] for report in reports if (cleaned := (report["quality"] or {}).get("cleaned"))]


def _translated_lines(reports: Sequence[content.Report]) -> list[list[tuple[int, str]]]:
    """Returns the source lines that each run with translations shows, with their numbers."""
    # Reports hold few lines: equal ones are taken as equal texts.
    by_run = ([(row["line"], row["source"]) for row in _drawn_rows(report)] for report in reports)
    return [sources for sources in by_run if sources]


def _drawn_rows(report: content.Report) -> list[dict[str, Any]]:
    """Returns the translations that every run of the same held-out lines shows; others are there for their maps."""
    return [row for row in report["samples"]["translations"] if row["is_drawn"]]


def _differ(values: Sequence[object]) -> bool:
    return any(value != values[0] for value in values)


def _plot_curves(names: Sequence[str], reports: Sequence[content.Report]) -> list[plots.Plot]:
    """Plots each curve of all runs together; training and validation are separate plots."""
    curves = []
    for title in (*_TITLES, *_OTHERS):
        by_run = [(report["training"] or {}).get("curves", {}).get(title, {}) for report in reports]
        for split in ("training", "validation"):
            series = [plots.to_series(name, curve.get(split, ())) for name, curve in zip(names, by_run, strict=True)]
            # The split is named only where one title has a plot of each.
            has_both = all(curve.get("training") and curve.get("validation") for curve in by_run if curve)
            shown_title = f"{title}, {split}" if has_both else title
            curves.append(plots.plot_lines(title, series, shown_title=shown_title))
    return [plot for plot in curves if plot]


def _common_lines(names: Sequence[str], reports: Sequence[content.Report]) -> list[dict[str, Any]]:
    """Returns the lines with the same number, source and reference in all runs, with the translation of each run."""
    lines = []
    # Not strict: runs may show different numbers of lines.
    for rows in zip(*map(_drawn_rows, reports), strict=False):
        first = rows[0]
        # Of different texts there is nothing to compare side by side.
        if any((row["source"], row["reference"]) != (first["source"], first["reference"]) for row in rows):
            continue
        outputs = [(name, _mark(row)) for name, row in zip(names, rows, strict=True)]
        lines.append({"source": first["source"], "reference": first["reference"], "outputs": outputs})
    return lines


def _mark(row: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """Returns the words of a translation, marked where the reference of its run lacks them."""
    cleaned = row["cleaned_reference"]
    expected = row["reference"] if cleaned is None else cleaned
    return shown_lines.mark_differences(row["hypothesis"], expected) if expected else [(row["hypothesis"], False)]
