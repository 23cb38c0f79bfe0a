"""The report page of a run, a self-contained HTML file."""

import collections
import datetime
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import markupsafe

from core.data.text import scripts
from core.reporting import attention_map, content, page_frame, plots, template, units, word_statistics
from core.storage import json_values

# Spaces are kept, so that the text is shown unchanged. Of text without them, each character is a word.
_WORD_OR_SPACES = re.compile(rf"\s+|[{scripts.LETTERS}]|[^\s{scripts.LETTERS}]+")
BLEU_CLEANED = "BLEU, cleaned references"
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
    training = plots.plot_training(report["training"])
    throughput = [plot for plot in training if plot.title == plots.THROUGHPUT]
    quality = report["quality"] or {}
    cleaned = quality.get("cleaned") or {}
    analysed = cleaned or quality  # the model writes cleaned text: only against it are differences errors of the model
    words = report["words"]
    sections: dict[str, Any] = {
        "training_plots": [plot for plot in training if plot not in throughput],
        "corpus_plots": plots.plot_corpora(report["tasks"]),
        "corpus_rows": _corpus_rows(report["tasks"]),
        "corpus_units": _corpus_units(report["tasks"]),
        "gradient_plots": plots.plot_gradients(report["gradients"]),
        "translations": [_translation(row) for row in report["samples"]["translations"]],
        "forecast_rows": _forecast_rows(report["forecasts"] or {}),
        "quality_rows": _quality_rows(quality),
        "cleaned_by": ", ".join(cleaned.get("cleaning", ())),
        "length_plot": plots.plot_by_length({"BLEU": analysed.get("by_length", ())}),
        "length_rows": _length_rows(analysed),
        "error_rows": _error_rows(analysed.get("faults", {})),
        "word_plots": plots.plot_words(words),
        "word_sentences": word_statistics.describe(words) if words else [],
        "word_tables": word_statistics.make_tables(words) if words else [],
        "stage_rows": _stage_rows(report),
        "all_timed": all(stage["is_of_all_starts"] for stage in report["stages"] if stage["name"] == "train"),
        "worker_rows": _worker_rows(report["measured"] or {}),
        "throughput_plots": throughput,
        "failures": list(_failures(report)),
        "chosen": _format_settings(report["chosen"]),
        "settings": _format_settings(content.flat(report["settings"])),
    }
    return page_frame.render(
        template.PAGE,
        report=report,
        sentence=describe(report),
        started=_format_time(report["started_unix_s"]),
        figures=[
            {"label": label, "text": format_number(value), "unit": units_of_figures(report).get(label)}
            for label, value in key_figures(report).items()
            if value is not None
        ],
        training_units=_training_units(report["training"]),
        sections=_section_titles(report, sections),
        smoothing=report["settings"]["training"]["label_smoothing"],
        bleu_signature=_best_validation(report).get("bleu_signature"),
        generation=describe_generation(report["generation"]),
        warnings=quality.get("warnings", []),
        with_maps=any(row["map"] for row in sections["translations"]),
        with_cleaned=any(row["written"] is not None for row in sections["translations"]),
        **sections,
    )


def _section_titles(report: content.Report, sections: Mapping[str, Any]) -> list[tuple[str, str]]:
    has = {
        "training": sections["training_plots"],
        "corpora": sections["corpus_rows"],
        "gradients": sections["gradient_plots"],
        "samples": report["samples"]["training"],
        "translations": sections["translations"],
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
    if report["training"] is None:
        return f"{kind} ({size}), not trained yet."
    return f"{kind} ({size}), trained for {page_frame.format_count(report['training']['steps'])} steps."


def key_figures(report: content.Report) -> dict[str, float | None]:
    """Returns the main results of a run by label, in the order of the page; None for those that a run lacks."""
    quality, scores, fitted = (report[name] or {} for name in ("quality", "scores", "fitted"))
    training, best = report["training"] or {}, _best_validation(report)
    numbers: dict[str, Any] = {"BLEU": quality.get("bleu"), "chrF": quality.get("chrf"), "TER": quality.get("ter")}
    numbers[BLEU_CLEANED] = (quality.get("cleaned") or {}).get("bleu")
    numbers["held-out perplexity"] = scores.get("perplexity")
    numbers["held-out perplexity by line"] = (scores.get("by_line") or {}).get("perplexity")
    num_tokens = scores.get("tokens")
    numbers["unknown held-out tokens, %"] = 100 * scores.get("unk", 0) / num_tokens if num_tokens else None
    numbers["bits per character"] = None if quality else scores.get("bits_per_character")
    headline = (report["forecasts"] or {}).get("headline") or {}
    for row in headline.get("errors", ()):
        steps = f"{row['horizon']} step{'' if row['horizon'] == 1 else 's'}"
        numbers[f"RMSE of {row['target']}, {steps} ahead, {headline['split']} rows"] = row["rmse"]
    for label, name in (("training MSE", "train_mse"), ("validation MSE", "valid_mse")):
        numbers[label] = (fitted.get(name) or [None])[-1]
    numbers["validation perplexity"] = best.get("perplexity")
    num_unk = best.get("num_unk")
    numbers["unknown validation tokens, %"] = None if num_unk is None else 100 * num_unk / best["num_tokens"]
    numbers["training loss, nats per token"] = (training.get("last") or {}).get("loss_nats")
    numbers["target tokens per second, median"] = training.get("median_tokens_per_s")
    return {label: json_values.parse_number(value) for label, value in numbers.items()}


def units_of_figures(report: content.Report) -> dict[str, str | None]:
    """Returns the units of perplexities by the labels of `key_figures`; None where an older release did not say."""
    scores = report["scores"] or {}
    held_out, validation = units.describe(scores), units.describe(_best_validation(report))
    return {
        "held-out perplexity": held_out,
        "held-out perplexity by line": units.describe(scores.get("by_line") or {}),
        "bits per character": held_out,
        "validation perplexity": validation,
        "training loss, nats per token": units.describe((report["training"] or {}).get("unit") or {}),
    }


def _best_validation(report: content.Report) -> dict[str, Any]:
    """Returns the best validation; of an n-gram model the only one."""
    best = (report["training"] or {}).get("best_validation") or (report.get("counted") or {}).get("validation")
    return best or {}


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
            *("" if row[name] is None else format_number(row[name]) for name in names),
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
                "" if (value := json_values.parse_number(corpus[name])) is None else format_number(value)
                for name in names
            ),
        ]
        for corpus in corpora
    ]


def format_number(value: float) -> str:
    """Formats a number with two decimals, with more if it is small and with none if it is large."""
    if not math.isfinite(value):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return page_frame.format_count(value)
    return f"{value:.2f}" if abs(value) >= 1 or value == 0 else f"{value:.4f}"


def mark_differences(text: str, other: str) -> list[tuple[str, bool]]:
    """Splits a text into words and spaces; marks words that the other text lacks or has less often."""
    remaining = collections.Counter(_WORD_OR_SPACES.findall(other))
    words = []
    for word in _WORD_OR_SPACES.findall(text):
        is_marked = not word.isspace() and remaining[word] <= 0
        remaining[word] -= 1  # each occurrence there excuses one here
        words.append((word, is_marked))
    return words


def _translation(row: Mapping[str, Any]) -> dict[str, Any]:
    hypothesis, reference, attention = row["hypothesis"] or "", row["reference"], row["attention"]
    # The model writes text as cleaned: what cleaning took away is not an error of the translation.
    cleaned = row.get("cleaned_reference")
    expected = reference if cleaned is None else cleaned
    svg = attention_map.draw(f"attention map: {hypothesis}", attention) if attention else None
    return {
        **row,
        "hypothesis": [(hypothesis, False)] if expected is None else mark_differences(hypothesis, expected),
        "expected": None if expected is None else mark_differences(expected, hypothesis),
        "written": None if cleaned is None else reference,
        "is_same": attention is None or attention_map.matches(hypothesis, attention),
        "map": markupsafe.Markup(svg) if svg else None,  # noqa: S704 (its texts are escaped)
    }


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
        {"name": names[name] + against, "text": format_number(scores[name]), "signature": str(signatures.get(name, ""))}
        for name in names
        if name in scores
    ]
    for value in scores.get("d2l_bleu", ()):
        name = f"mean sentence BLEU of D2L, k = {scores.get('d2l_bleu_k')}{against}"
        rows.append({"name": name, "text": format_number(value), "signature": "0 to 1, tokens split at spaces"})
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
