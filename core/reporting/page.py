"""The report page of a run, a self-contained HTML file."""

import datetime
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from core.reporting import content, figures, hints, page_frame, plots, shown_lines, template, units, word_statistics
from core.storage import json_values

_WORD_ERRORS = {
    "omitted": "omitted: missing from the translation",
    "added": "added: missing from the reference",
    "repeated": "added by repetition",
    "swapped": "swapped pairs of words",
}
_SECTIONS = (
    ("training", "Training"),
    ("corpora", "Corpora"),
    ("gradients", "Gradients"),
    ("samples", "Samples"),
    ("translations", "Translations"),
    ("scored", "Held-out lines"),
    ("generated", "Generated text"),
    ("forecasts", "Forecasts"),
    ("quality", "Quality"),
    ("data", "Data"),
    ("throughput", "Throughput"),
    ("failures", "Failures"),
    ("settings", "Settings"),
    ("versions", "Versions"),
)


def render(report: content.Report) -> str:
    """Renders the HTML page of a report; all texts are escaped. Results that a run does not have get no section."""
    quality, best = report["quality"] or {}, figures.best_validation(report)
    cleaned = quality.get("cleaned") or {}
    sections = _results(report) | _data(report) | _run(report)
    return page_frame.render(
        template.PAGE,
        report=report,
        sentence=describe(report),
        started=_format_time(report["started_unix_s"]),
        headline=_headline(report["headline"]),
        figure_groups=_figure_groups(report),
        best_step=best.get("step") if report["training"] else None,
        best_by="highest BLEU" if _is_best_by_bleu(report) else "lowest perplexity",
        training_units=_training_units(report["training"]),
        sections=_section_titles(report, sections),
        smoothing=report["settings"]["training"]["label_smoothing"],
        bleu_signature=best.get("bleu_signature"),
        generation=describe_generation(report["generation"]),
        warnings=quality.get("warnings", []),
        cleaned_by=", ".join(cleaned.get("cleaning", ())),
        **sections,
    )


def _results(report: content.Report) -> dict[str, Any]:
    """Returns what the sections on training and quality show."""
    training, quality = plots.plot_training(report["training"]), report["quality"] or {}
    # The model writes cleaned text: only against cleaned references are differences errors of the model.
    analysed = quality.get("cleaned") or quality
    translations = [shown_lines.translation(row) for row in report["samples"]["translations"]]
    return {
        "training_plots": [
            *(plot for plot in training if plot.title != plots.THROUGHPUT),
            *plots.plot_fit(report["fitted"]),
        ],
        "throughput_plots": [plot for plot in training if plot.title == plots.THROUGHPUT],
        "corpus_plots": plots.plot_corpora(report["tasks"]),
        "corpus_rows": _corpus_rows(report["tasks"]),
        "corpus_units": _corpus_units(report["tasks"]),
        "gradient_plots": plots.plot_gradients(report["gradients"]),
        "translations": shown_lines.by_extreme(translations),
        "with_maps": any(row["map"] for row in translations),
        "with_cleaned": any(row["written"] is not None for row in translations),
        "scored": shown_lines.scored(report["samples"]["scored"]),
        "forecast_rows": _forecast_rows(report["forecasts"] or {}),
        "forecast_plots": plots.plot_forecast(report["samples"]["forecast"]),
        "quality_rows": _quality_rows(quality),
        "length_plot": plots.plot_by_length({"BLEU": analysed.get("by_length", ())}),
        "length_rows": _length_rows(analysed),
        "error_rows": _error_rows(analysed.get("faults", {})),
    }


def _data(report: content.Report) -> dict[str, Any]:
    """Returns what the section on the data shows."""
    words = report["words"]
    return {
        "drop_rows": _drop_rows(report["data"] or {}),
        "num_cut": hints.count_cut(report),
        "word_plots": plots.plot_words(words),
        "word_sentences": word_statistics.describe(words) if words else [],
        "word_tables": word_statistics.make_tables(words) if words else [],
    }


def _run(report: content.Report) -> dict[str, Any]:
    """Returns what the sections on throughput, failures and settings show."""
    return {
        "stage_rows": _stage_rows(report),
        "all_timed": all(stage["is_of_all_starts"] for stage in report["stages"] if stage["name"] == "train"),
        "worker_rows": _worker_rows(report["measured"] or {}),
        "failures": list(_failures(report)),
        "chosen": _format_settings(report["chosen"]),
        "settings": _format_settings(content.flat(report["settings"])),
    }


def _headline(headline: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if headline is None:
        return None
    value = json_values.parse_number(headline["value"])
    return {**headline, "text": "not measured" if value is None else figures.format_number(value)}


def _figure_groups(report: content.Report) -> list[tuple[str, list[dict[str, Any]]]]:
    units_by_label = figures.units_of_figures(report)
    return [
        (
            title,
            [
                {"label": label, "text": figures.format_number(value), "unit": units_by_label.get(label)}
                for label, value in values.items()
            ],
        )
        for title, values in figures.groups(report)
    ]


def _is_best_by_bleu(report: content.Report) -> bool:
    early_stop = report["settings"]["training"]["early_stop"]
    return early_stop is not None and early_stop["metric"] == "bleu"


def _section_titles(report: content.Report, sections: Mapping[str, Any]) -> list[tuple[str, str]]:
    has = {
        "training": sections["training_plots"],
        "corpora": sections["corpus_rows"],
        "gradients": sections["gradient_plots"],
        "samples": report["samples"]["training"],
        "translations": sections["translations"],
        "scored": sections["scored"],
        "generated": report["samples"]["generated"],
        "forecasts": sections["forecast_rows"],
        "quality": sections["quality_rows"],
        "data": report["data"],
        "throughput": sections["stage_rows"] or sections["throughput_plots"],
        "versions": report["versions"],
    }
    # Sections without a condition, such as the settings, are always there.
    return [(name, title) for name, title in _SECTIONS if has.get(name, True)]


def describe(report: content.Report) -> str:
    """Returns a sentence on the model of a run and its size."""
    settings = report["settings"]
    model = settings["model"]
    if report["kind"] == "ngram":
        return f"An n-gram model of order {model['order']}, smoothing {model['smoothing'].replace('_', '-')}."
    if report["kind"] == "autoregressive":
        names = ", ".join(settings["corpus"]["targets"])
        return f"An autoregressive model of {names}: {model['network']} network on the last {model['lags']} values."
    kind = {"seq2seq": "A translation model", "language_model": "A language model"}[report["kind"]]
    size = f"{model['cell'].upper()}, {model['num_layers']} × {model['hidden_size']} units"
    if model["cell"] == "feedforward":
        size = f"feed-forward, context of {model['context']} tokens, {model['hidden_size']} units"
    if report["training"] is None:
        return f"{kind} ({size}), not trained yet."
    return f"{kind} ({size}), trained for {page_frame.format_count(report['training']['steps'])} steps."


def _training_units(training: Mapping[str, Any] | None) -> str | None:
    """Returns a sentence on the units of the perplexities of the curves."""
    if training is None:
        return None
    best = training["best_validation"] or {}
    by_split: dict[str, Mapping[str, Any]] = {"training": training.get("unit") or {}, "validation": best}
    known = [f"{split} {text}" for split, figures in by_split.items() if (text := units.describe(figures))]
    return f"Loss and perplexity: {'; '.join(known)}." if known else None


def _corpus_units(corpora: Sequence[Mapping[str, Any]]) -> str | None:
    """Returns a sentence on the units of the perplexities of several corpora, which have the same."""
    by_split: dict[str, Any] = next((corpus["units"] for corpus in corpora if corpus["units"]["held_out"]), {})
    known = [
        f"{split.replace('_', '-')} {text}" for split, figures in by_split.items() if (text := units.describe(figures))
    ]
    return f"Perplexities: {'; '.join(known)}." if known else None


def _forecast_rows(forecasts: Mapping[str, Any]) -> list[list[str]]:
    """Returns a table row for each split, column and horizon, the split of the headline first; none is blank."""
    by_split, headline = forecasts.get("errors_by_split", {}), (forecasts.get("headline") or {}).get("split")
    names = ("rmse", "persistence_rmse", "seasonal_rmse", "mase")
    return [
        [
            split,
            row["target"],
            str(row["horizon"]),
            page_frame.format_count(row["count"]),
            *("" if row[name] is None else figures.format_number(row[name]) for name in names),
        ]
        # The training rows, whose errors say least, come last.
        for split in sorted(by_split, key=lambda split: (split != headline, split == "train"))
        for row in by_split[split]
    ]


def _corpus_rows(corpora: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Returns a table row for each corpus; missing values are blank."""
    names = ("train_lines", "training_perplexity", "validation_perplexity", "perplexity", "bleu", "chrf", "ter")
    return [
        [
            corpus["task"],
            *(
                "" if (value := json_values.parse_number(corpus[name])) is None else figures.format_number(value)
                for name in names
            ),
        ]
        for corpus in corpora
    ]


def _drop_rows(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns a table row for each reason for which lines were dropped, the most frequent first."""
    drops = sorted(data.get("drops", {}).items(), key=lambda item: -item[1])
    read = data.get("lines_read") or 0
    return [
        {
            "words": hints.describe_drop(reason)[0],
            "count": count,
            "share": f"{100 * count / read:.1f} %" if read else "",
        }
        for reason, count in drops
    ]


def _quality_rows(quality: Mapping[str, Any]) -> list[dict[str, str]]:
    cleaned = quality.get("cleaned")
    if cleaned is None:
        return _metric_rows(quality, "")
    return [
        *_metric_rows(quality, ", references as written"),
        *_metric_rows({"d2l_bleu_k": quality.get("d2l_bleu_k"), **cleaned}, ", references cleaned"),
    ]


def _metric_rows(scores: Mapping[str, Any], against: str) -> list[dict[str, str]]:
    # With its signature each score can be computed again by others.
    signatures = scores.get("signatures", {})
    names = {"bleu": "BLEU", "chrf": "chrF", "ter": "TER (lower is better)"}
    rows = [
        {
            "name": names[name] + against,
            "text": figures.format_number(scores[name]),
            "signature": str(signatures.get(name, "")),
        }
        for name in names
        if name in scores
    ]
    for value in scores.get("d2l_bleu", ()):
        name = f"mean sentence BLEU of D2L, k = {scores.get('d2l_bleu_k')}{against}"
        rows.append({"name": name, "text": figures.format_number(value), "signature": "0 to 1, tokens split at spaces"})
    return rows


def _length_rows(quality: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {**bucket, "words": plots.format_range(bucket["shortest"], bucket["longest"])}
        for bucket in quality.get("by_length", ())
    ]


def describe_generation(settings: Mapping[str, Any] | None) -> str | None:
    """Returns a sentence on how text was generated; None where an older release did not record it."""
    if settings is None:
        return None
    if settings["method"] != "sample":
        return "Greedy: always the most likely token."
    limits = [f"{name.replace('_', '-')} {settings[name]}" for name in ("top_k", "top_p") if settings[name] is not None]
    return ", ".join([f"Sampled at temperature {settings['temperature']:g}", *limits]) + "."


def _error_rows(faults: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": label, "count": faults[name], "share": faults[f"{name}_share"]}
        for name, label in _WORD_ERRORS.items()
        if name in faults
    ]


def _stage_rows(report: content.Report) -> list[dict[str, Any]]:
    """Returns a table row for each stage with its rates; counts that a stage does not have are blank."""
    rows = []
    for stage in report["stages"]:
        row: dict[str, Any] = {"name": stage["name"], "elapsed_s": stage["elapsed_s"], "outcome": stage["outcome"]}
        for name in ("lines", "tokens"):
            count = stage[name]
            rate = count / stage["elapsed_s"] if count and stage["elapsed_s"] else 0.0
            if stage["name"] == "train" and count and report["training"]:
                rate = report["training"]["median_tokens_per_s"]
            elif count and stage["lines"] and stage["lines_per_s"] is not None:
                # The speed of the last command, which may have found parts done: the counts are those of all.
                rate = count / stage["lines"] * stage["lines_per_s"]
            row[name] = "" if count is None else page_frame.format_count(count)
            row[f"{name}_per_s"] = page_frame.format_count(rate) if rate else ""
        rows.append(row)
    return rows


def _worker_rows(measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            **worker,
            "tokens_per_s": worker["tokens"] / worker["elapsed_s"] if worker["elapsed_s"] else 0,
            "step_ms": 1000 * worker["elapsed_s"] / worker["steps"],
        }
        for worker in measured.get("workers", ())
    ]


def _failures(report: content.Report) -> Iterator[str]:
    """Yields sentences on failures during a run and how it recovered."""
    training = report["training"] or {}
    if (report["starts"] or 1) > 1:
        yield f"The run was started {report['starts']} times."
    # Other than starts of the command: a worker group is started again within one.
    if training.get("restarts"):
        steps = ", ".join(page_frame.format_count(step) for step in training["restarts"])
        yield f"Training resumed from a checkpoint; first logged steps afterwards: {steps}."
    skipped = (training.get("last") or {}).get("num_skipped", 0)
    if skipped:
        yield f"{_count(skipped, 'step was', 'steps were')} skipped because the gradient norm was not finite."
    for fault in report["faults"]:
        yield f"A damaged checkpoint was skipped: {fault}"
    for name, counts in ((report["measured"] or {}).get("stages", {})).items():
        if counts.get("worker_deaths"):
            yield f"{name}: {_count(counts['worker_deaths'], 'worker', 'workers')} died, in the last command."
        if counts.get("retried"):
            yield f"{name}: {_count(counts['retried'], 'part was', 'parts were')} retried, in the last command."
    for stage in report["stages"]:
        if stage["failed_lines"]:
            yield f"{stage['name']}: {_count(stage['failed_lines'], 'line', 'lines')} failed."
    if report["exit_code"]:
        yield f"The last command ended with exit code {report['exit_code']}."


def _count(number: float, singular: str, plural: str) -> str:
    return f"{page_frame.format_count(number)} {singular if number == 1 else plural}"


def _format_settings(settings: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    return [(name, page_frame.format_setting(value)) for name, value in settings.items()]


def _format_time(unix_s: float | None) -> str | None:
    if unix_s is None:
        return None
    return datetime.datetime.fromtimestamp(unix_s, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
