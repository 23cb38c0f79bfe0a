"""Headline of a run: the one figure that says most, what it was measured on, and what it means.

Only figures of lines that were held out count. Those of training lines are never a headline, and those of validation
lines say that validation chose the checkpoint.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from core.evaluation import expected_quality
from core.reporting import figures, hints, page_frame
from core.storage import json_values

_UNITS = {"char": "character", "word": "word"}  # of tokenizers; the others make subwords
_MEANING_OF_BLEU = (
    "0 to 100, by words and short phrases in common with the reference. By a rule of thumb (Lavie 2010) translations "
    "are understandable from 30 on, good and fluent from 50 on. Comparable on the same lines alone."
)
_MEANING_OF_CHRF = "0 to 100, by short runs of characters in common with the reference. Comparable on the same lines."

_WORD_CHARACTERS = 5.2  # of a word and its space, in WikiText-2

_VISIBLE = 0.1  # difference of BLEU that is worth a sentence

Report = Mapping[str, Any]
Headline = dict[str, Any]


def of(report: Report) -> Headline | None:
    """Returns the headline of a report; None before anything was trained.

    Its keys: `label`, `value` (None where nothing was measured), `measured_on`, and `meaning`, a list of sentences.
    """
    if not (report["training"] or report["fitted"] or report["counted"]):
        return None
    for make in (_of_translations, _of_text, _of_forecasts, _of_corpora, _of_validation):
        if found_headline := make(report):
            return found_headline
    meaning = ["No held-out line has been measured; figures of training data say nothing of new data."]
    return {"label": "quality", "value": None, "measured_on": "", "meaning": meaning}


def _headline(label: str, value: Any, measured_on: str, meaning: list[str]) -> Headline:
    return {
        "label": label,
        "value": json_values.number(value) if isinstance(value, float) else value,
        "measured_on": measured_on,
        "meaning": meaning,
    }


def _of_translations(report: Report) -> Headline | None:
    quality = report["quality"]
    if not quality:
        return None
    lines = quality.get("lines")
    means = [_MEANING_OF_BLEU]
    if "cleaned" in quality and abs(quality["cleaned"]["bleu"] - quality["bleu"]) >= _VISIBLE:
        means.append(f"Against references cleaned as the training data it is {quality['cleaned']['bleu']:.1f}.")
    if quality.get("warnings"):
        # BLEU says nothing of these translations, as the warning says.
        return _headline("chrF", quality["chrf"], _held_out(report, lines), [*quality["warnings"], _MEANING_OF_CHRF])
    if report["settings"]["evaluation"]["tokenize"] == "13a":
        num_pairs = _num_training(report)
        means += [expected_quality.sentence("pairs", num_pairs)] if num_pairs else []
    return _headline("BLEU", quality["bleu"], _held_out(report, lines), means)


def _of_text(report: Report) -> Headline | None:
    scores = report["scores"]
    perplexity = json_values.parse_number((scores or {}).get("perplexity"))
    if not scores or perplexity is None or report["kind"] == "seq2seq":
        return None
    return _headline("perplexity per " + _token(report), perplexity, _held_out(report, scores.get("lines")),
                     list(_meaning_of_perplexity(report, perplexity, scores)))  # fmt: skip


def _meaning_of_perplexity(report: Report, perplexity: float, scores: Mapping[str, Any]) -> Iterator[str]:
    token = _token(report)
    size = next(iter(((report["data"] or {}).get("vocabulary_sizes") or {}).values()), None)
    chance = f"; a guess among the whole vocabulary has {page_frame.format_count(size)}" if size else ""
    yield (
        f"At each {token} the model is as unsure as between {figures.format_number(perplexity)} equally likely "
        f"{token}s{chance}. Lower is better; it compares models with the same vocabulary alone."
    )
    bits = json_values.parse_number(scores.get("bits_per_character"))
    accuracy = scores.get("accuracy")
    parts = [f"{bits:.2f} bits per character"] if bits is not None else []
    parts += [f"{100 * accuracy:.0f} % of the {token}s are its first guess"] if accuracy is not None else []
    if parts:
        yield f"{', '.join(parts)}.".capitalize()
    characters = {"word": _WORD_CHARACTERS, "char": 1.0}.get(report["settings"]["tokenizer"]["kind"])
    if bits is not None and characters:
        num_words = round(_num_training(report, "text") * characters / _WORD_CHARACTERS)
        yield from [expected_quality.sentence("text", num_words)] if num_words else []


def _of_forecasts(report: Report) -> Headline | None:
    headline = (report["forecasts"] or {}).get("headline") or {}
    if not headline.get("errors") or headline["split"] == "train":
        return None
    row = headline["errors"][0]
    name, naive = hints.best_naive(row)
    meaning = ["RMSE is the typical error, in units of the column."]
    if naive:
        gain = 1 - row["rmse"] / naive
        relation = f"{100 * abs(gain):.0f} % {'below' if gain >= 0 else 'above'}"
        kind = "the better naive forecast" if row.get("seasonal_rmse") is not None else "the naive forecast"
        meaning.insert(0, f"{relation} that of {kind}, {name}: {naive:.4g}.".capitalize())
    count = page_frame.format_count(row["count"])
    rows = f"{count} {'validation' if headline['split'] == 'valid' else headline['split']} rows"
    return _headline(f"RMSE of {row['target']}, {figures.steps_ahead(row)}", row["rmse"], rows, meaning)


def _of_corpora(report: Report) -> Headline | None:
    """Returns that of several corpora: the mean, with the figure of each."""
    for name, label in (("bleu", "BLEU"), ("perplexity", "perplexity per token")):
        values = {row["task"]: value for row in report["tasks"] if (value := json_values.parse_number(row[name]))}
        if values:
            each = ", ".join(f"{corpus} {figures.format_number(value)}" for corpus, value in values.items())
            mean = sum(values.values()) / len(values)
            measured_on = f"mean over {len(values)} corpora, {_held_out(report, None)}"
            return _headline(label, mean, measured_on, [f"{each}.", *([_MEANING_OF_BLEU] if name == "bleu" else [])])
    return None


def _of_validation(report: Report) -> Headline | None:
    best = figures.best_validation(report)
    perplexity = json_values.parse_number(best.get("perplexity"))
    if perplexity is None:
        return None
    meaning = ["The pipeline measures the test split, if there is one."]
    if not figures.chose_by_validation(report):
        return _headline("validation perplexity", perplexity, "validation lines", meaning)
    meaning.insert(0, f"Validation {figures.CHOSE}, so that this figure flatters it.")
    return _headline("validation perplexity", perplexity, "the best of all validations", meaning)


def _num_training(report: Report, tokens: str | None = None) -> int:
    """Returns the number of training lines, or of their tokens in a column; 0 where it is not known."""
    split = ((report["data"] or {}).get("splits") or {}).get("train") or {}
    return int(split.get("tokens", {}).get(tokens, 0) if tokens else split.get("lines", 0))


def _held_out(report: Report, lines: int | None) -> str:
    split = (report["held_out"] or {}).get("split")
    words = {"valid": figures.validation_lines(report), "test": "test lines"}.get(split or "", "held-out lines")
    return words if lines is None else f"{page_frame.format_count(lines)} {words}"


def _token(report: Report) -> str:
    return _UNITS.get(report["settings"]["tokenizer"]["kind"], "token")
