"""Key figures of a run: labels, values, units, and the group that says how far each may be trusted."""

import math
from collections.abc import Mapping
from typing import Any

from core.reporting import page_frame, units
from core.storage import json_values

BLEU_CLEANED = "BLEU, cleaned references"
CHOSE = "chose the checkpoint"
_OF_TRAINING = ("training MSE", "training loss, nats per token", "target tokens per second, median")
_OF_VALIDATION = ("validation MSE", "validation perplexity", "unknown validation tokens, %")

Report = Mapping[str, Any]


def key_figures(report: Report) -> dict[str, float | None]:
    """Returns the main results of a run by label, in the order of the page; None for those that a run lacks."""
    quality, scores, fitted = (report[name] or {} for name in ("quality", "scores", "fitted"))
    training, best = report["training"] or {}, best_validation(report)
    numbers: dict[str, Any] = {"BLEU": quality.get("bleu"), "chrF": quality.get("chrf"), "TER": quality.get("ter")}
    numbers[BLEU_CLEANED] = (quality.get("cleaned") or {}).get("bleu")
    numbers["held-out perplexity"] = scores.get("perplexity")
    numbers["held-out perplexity by line"] = (scores.get("by_line") or {}).get("perplexity")
    num_tokens = scores.get("tokens")
    numbers["unknown held-out tokens, %"] = 100 * scores.get("unk", 0) / num_tokens if num_tokens else None
    numbers["bits per character"] = None if quality else scores.get("bits_per_character")
    headline = (report["forecasts"] or {}).get("headline") or {}
    for row in headline.get("errors", ()):
        numbers[f"RMSE of {row['target']}, {steps_ahead(row)}, {headline['split']} rows"] = row["rmse"]
    for label, name in (("training MSE", "train_mse"), ("validation MSE", "valid_mse")):
        numbers[label] = (fitted.get(name) or [None])[-1]
    numbers["validation perplexity"] = best.get("perplexity")
    num_unk = best.get("num_unk")
    numbers["unknown validation tokens, %"] = None if num_unk is None else 100 * num_unk / best["num_tokens"]
    numbers["training loss, nats per token"] = (training.get("last") or {}).get("loss_nats")
    numbers["target tokens per second, median"] = training.get("median_tokens_per_s")
    return {label: json_values.parse_number(value) for label, value in numbers.items()}


def groups(report: Report) -> list[tuple[str, dict[str, float]]]:
    """Returns the key figures that a run has in groups, each with its title: held out, validation, training."""
    known = {label: value for label, value in key_figures(report).items() if value is not None}
    trained_on = ((report["forecasts"] or {}).get("headline") or {}).get("split") == "train"
    by_group: dict[str, dict[str, float]] = {"held out": {}, "validation": {}, "training": {}}
    for label, value in known.items():
        is_training = label in _OF_TRAINING or (trained_on and label.startswith("RMSE"))
        group = "training" if is_training else "validation" if label in _OF_VALIDATION else "held out"
        by_group[group][label] = value
    titles = {
        "held out": f"Measured on held-out {_held_out_lines(report)}",
        "validation": f"Validation, which {CHOSE}" if chose_by_validation(report) else "Validation",
        "training": "Training: no measure of quality",
    }
    return [(titles[group], values) for group, values in by_group.items() if values]


def _held_out_lines(report: Report) -> str:
    held_out, headline = report["held_out"], (report["forecasts"] or {}).get("headline") or {}
    if headline.get("errors"):
        split = "validation" if headline["split"] == "valid" else headline["split"]
        return f"rows: {page_frame.format_count(headline['errors'][0]['count'])} of the {split} split"
    if held_out is None:
        return "lines"
    if held_out["split"] == "valid":
        return f"lines: {page_frame.format_count(held_out['lines'])} {validation_lines(report)}"
    return f"lines: {page_frame.format_count(held_out['lines'])} of the test split"


def units_of_figures(report: Report) -> dict[str, str | None]:
    """Returns the units of figures by the labels of `key_figures`; None where an older release did not say."""
    scores = report["scores"] or {}
    by_line = units.describe(scores.get("by_line") or {})
    held_out, validation = units.describe(scores), units.describe(best_validation(report))
    known: dict[str, str | None] = {
        "held-out perplexity": held_out,
        "held-out perplexity by line": by_line,
        "bits per character": held_out,
        "validation perplexity": "; ".join(filter(None, (validation, CHOSE)))
        if chose_by_validation(report)
        else validation,
        "training loss, nats per token": units.describe((report["training"] or {}).get("unit") or {}),
    }
    if (report["held_out"] or {}).get("split") != "valid":
        return known
    measured = ("BLEU", "chrF", "TER", BLEU_CLEANED, *list(known)[:3])
    return known | {label: "; ".join(filter(None, (known.get(label), validation_lines(report)))) for label in measured}


def best_validation(report: Report) -> dict[str, Any]:
    """Returns the best validation; of an n-gram model the only one."""
    best = (report["training"] or {}).get("best_validation") or (report.get("counted") or {}).get("validation")
    return best or {}


def chose_by_validation(report: Report) -> bool:
    """Returns whether validation chose among checkpoints; a counted model and one without validation have one alone."""
    return bool((report["training"] or {}).get("best_validation"))


def validation_lines(report: Report) -> str:
    """Returns what held-out lines of the validation split are called."""
    return f"validation lines, which {CHOSE}" if chose_by_validation(report) else "validation lines"


def steps_ahead(row: Mapping[str, Any]) -> str:
    """Returns the horizon of a row of errors in words."""
    return f"{row['horizon']} step{'' if row['horizon'] == 1 else 's'} ahead"


def format_number(value: float) -> str:
    """Formats a number with two decimals, with more if it is small and with none if it is large."""
    if not math.isfinite(value):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return page_frame.format_count(value)
    return f"{value:.2f}" if abs(value) >= 1 or value == 0 else f"{value:.4f}"
