"""The page of a run: one HTML file that needs nothing beside it."""

import collections
import datetime
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import markupsafe

from core.reporting import attention_map, content, page_frame, plots, template, word_statistics

_PIECE = re.compile(r"\s+|\S+")
_FAULTS = {
    "omitted": "left out of the translation",
    "added": "not in the reference",
    "repeated": "of these, said again",
    "swapped": "pairs of words in the other order",
}
_SECTIONS = (
    ("training", "Training"),
    ("tasks", "Corpora"),
    ("gradients", "Gradients"),
    ("samples", "Samples"),
    ("translations", "Translations"),
    ("generated", "Generated"),
    ("quality", "Quality"),
    ("data", "Data"),
    ("throughput", "Throughput"),
    ("faults", "Faults"),
    ("settings", "Settings"),
    ("versions", "Versions"),
)


def render(report: content.Report) -> str:
    """Returns the HTML page of a report; every text in it is escaped. What a run lacks has no section."""
    training = plots.of_training(report["training"])
    speed = [picture for picture in training if picture.title == plots.THROUGHPUT]
    quality = report["quality"] or {}
    found = report["words"]
    shown: dict[str, Any] = {
        "training_pictures": [picture for picture in training if picture not in speed],
        "task_pictures": plots.of_tasks(report["tasks"]),
        "task_rows": _task_rows(report["tasks"]),
        "gradient_pictures": plots.of_gradients(report["gradients"]),
        "translations": [_translation(one) for one in report["samples"]["translations"]],
        "quality_rows": _quality_rows(quality),
        "length_picture": plots.by_length({"BLEU": quality.get("by_length", ())}),
        "length_rows": _length_rows(quality),
        "fault_rows": _fault_rows(quality.get("faults", {})),
        "word_pictures": plots.of_words(found),
        "word_sentences": word_statistics.sentences(found) if found else [],
        "word_tables": word_statistics.tables(found) if found else [],
        "stage_rows": _stage_rows(report),
        "worker_rows": _worker_rows(report["measured"] or {}),
        "speed_pictures": speed,
        "troubles": list(_troubles(report)),
        "chosen": _spelt(report["chosen"]),
        "settings": _spelt(content.flat(report["settings"])),
    }
    return page_frame.page(
        template.PAGE,
        report=report,
        sentence=sentence(report),
        started=_instant(report["started_unix_s"]),
        figures=[
            {"label": label, "text": figure(value)} for label, value in figures(report).items() if value is not None
        ],
        sections=_sections(report, shown),
        smoothing=report["settings"]["training"]["label_smoothing"],
        with_maps=any(one["map"] for one in shown["translations"]),
        **shown,
    )


def _sections(report: content.Report, shown: Mapping[str, Any]) -> list[tuple[str, str]]:
    has = {
        "training": shown["training_pictures"],
        "tasks": shown["task_rows"],
        "gradients": shown["gradient_pictures"],
        "samples": report["samples"]["training"],
        "translations": shown["translations"],
        "generated": report["samples"]["generated"],
        "quality": shown["quality_rows"],
        "data": report["data"],
        "throughput": shown["stage_rows"] or shown["speed_pictures"],
        "versions": report["versions"],
    }
    return [(name, title) for name, title in _SECTIONS if has.get(name, True)]


def sentence(report: content.Report) -> str:
    """Says in a sentence what was made."""
    settings = report["settings"]
    model = settings["model"]
    if report["kind"] == "ngram":
        return f"An n-gram model of order {model['order']}, smoothing {model['smoothing'].replace('_', '-')}."
    if report["kind"] == "autoregressive":
        names = ", ".join(settings["corpus"]["targets"])
        return f"A forecaster of {names}: {model['network']} on the last {model['lags']} values."
    kind = {"seq2seq": "A translation model", "language_model": "A language model"}[report["kind"]]
    size = f"{model['cell'].upper()}, {model['num_layers']} × {model['hidden_size']} units"
    if report["training"] is None:
        return f"{kind} ({size}); not trained yet."
    return f"{kind} ({size}), {page_frame.thousands(report['training']['steps'])} steps."


def figures(report: content.Report) -> dict[str, float | None]:
    """The few numbers that a reader looks for first, by what they are; None where a run has none."""
    quality, scores, fitted = (report[name] or {} for name in ("quality", "scores", "fitted"))
    training = report["training"] or {}
    found: dict[str, Any] = {"BLEU": quality.get("bleu"), "chrF": quality.get("chrf"), "TER": quality.get("ter")}
    found["held-out perplexity"] = scores.get("perplexity")
    known = scores.get("tokens")
    found["of the held-out tokens unknown, %"] = 100 * scores.get("unk", 0) / known if known else None
    found["bits per character"] = None if quality else scores.get("bits_per_character")
    found |= {f"{name} error, MSE": (fitted.get(f"{name}_mse") or [None])[-1] for name in ("train", "valid")}
    best = training.get("best_validation") or {}
    found["validation perplexity"] = best.get("perplexity")
    if (num_unk := best.get("num_unk")) is not None:
        found["of the validation tokens unknown, %"] = 100 * num_unk / best["num_tokens"]
    found["training loss, nats"] = (training.get("last") or {}).get("loss_nats")
    found["tokens per second, median"] = training.get("median_tokens_per_s")
    return {label: _number(value) for label, value in found.items()}


def _task_rows(tasks: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A row for each corpus; what it lacks stays blank."""
    names = ("train_lines", "training_perplexity", "validation_perplexity", "perplexity", "bleu", "chrf", "ter")
    return [
        [one["task"], *("" if (value := _number(one[name])) is None else figure(value) for name in names)]
        for one in tasks
    ]


def _number(value: Any) -> float | None:
    """Takes a number, or one that JSON has no sign for, spelt out."""
    if isinstance(value, str) and value.lstrip("-") in ("inf", "nan"):
        return float(value)
    return value if isinstance(value, int | float) else None


def figure(value: float) -> str:
    """Writes a number with as many digits as a reader wants."""
    if not math.isfinite(value):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return page_frame.thousands(value)
    return f"{value:.2f}" if abs(value) >= 1 or value == 0 else f"{value:.4f}"


def marked(text: str, other: str) -> list[tuple[str, bool]]:
    """Cuts a text into words and spaces, and says which words the other text has not, or not as often."""
    left = collections.Counter(other.split())
    pieces = []
    for piece in _PIECE.findall(text):
        is_odd = not piece.isspace() and left[piece] <= 0
        left[piece] -= 1
        pieces.append((piece, is_odd))
    return pieces


def _translation(one: Mapping[str, Any]) -> dict[str, Any]:
    hypothesis, reference, found = one["hypothesis"] or "", one["reference"], one["attention"]
    picture = attention_map.draw(f"attention of: {hypothesis}", found) if found else None
    return {
        **one,
        "hypothesis": [(hypothesis, False)] if reference is None else marked(hypothesis, reference),
        "reference": None if reference is None else marked(reference, hypothesis),
        "is_same": found is None or attention_map.is_of(hypothesis, found),
        "map": markupsafe.Markup(picture) if picture else None,  # noqa: S704 (its texts are escaped)
    }


def _quality_rows(quality: Mapping[str, Any]) -> list[dict[str, str]]:
    signatures = quality.get("signatures", {})
    names = {"bleu": "BLEU", "chrf": "chrF", "ter": "TER (lower is better)"}
    rows = [
        {"name": names[name], "text": figure(quality[name]), "signature": str(signatures.get(name, ""))}
        for name in names
        if name in quality
    ]
    for value in quality.get("documents_bleu", ()):
        k = quality.get("documents_bleu_k")
        rows.append({"name": f"sentence BLEU, k = {k}, mean", "text": figure(value), "signature": "cut at spaces"})
    return rows


def _length_rows(quality: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {**bucket, "words": plots.words_from_to(bucket["shortest"], bucket["longest"])}
        for bucket in quality.get("by_length", ())
    ]


def _fault_rows(faults: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": says, "count": faults[name], "share": faults[f"{name}_share"]}
        for name, says in _FAULTS.items()
        if name in faults
    ]


def _stage_rows(report: content.Report) -> list[dict[str, Any]]:
    """The stages with their rates; what a stage does not count stays blank."""
    rows = []
    for stage in report["stages"]:
        row: dict[str, Any] = {"name": stage["name"], "elapsed_s": stage["elapsed_s"], "outcome": stage["outcome"]}
        for name in ("lines", "tokens"):
            count = stage[name]
            rate = count / stage["elapsed_s"] if count and stage["elapsed_s"] else 0.0
            # Training counts the tokens of all its starts, and the seconds of the last.
            if stage["name"] == "train" and count and report["training"]:
                rate = report["training"]["median_tokens_per_s"]
            row[name] = "" if count is None else page_frame.thousands(count)
            row[f"{name}_per_s"] = page_frame.thousands(rate) if rate else ""
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


def _troubles(report: content.Report) -> Iterator[str]:
    """What happened to a run, and did not end it, in sentences."""
    training = report["training"] or {}
    if (report["starts"] or 1) > 1:
        yield f"The run was started {report['starts']} times."
    if training.get("restarts"):
        places = ", ".join(page_frame.thousands(step) for step in training["restarts"])
        yield f"Training went on from a checkpoint; first recorded steps afterwards: {places}."
    skipped = (training.get("last") or {}).get("num_skipped", 0)
    if skipped:
        yield f"{_counted(skipped, 'step was', 'steps were')} skipped: the gradient was not finite."
    for fault in report["faults"]:
        yield f"A checkpoint was passed over: {fault}"
    for name, counts in ((report["measured"] or {}).get("stages", {})).items():
        if counts.get("worker_deaths"):
            yield f"{name}: {_counted(counts['worker_deaths'], 'worker', 'workers')} died."
        if counts.get("retried"):
            yield f"{name}: {_counted(counts['retried'], 'part was', 'parts were')} tried again."
    for stage in report["stages"]:
        if stage["failed_lines"]:
            yield f"{stage['name']}: {_counted(stage['failed_lines'], 'line', 'lines')} could not be done."
    if report["exit_code"]:
        yield f"The last command ended with exit code {report['exit_code']}."


def _counted(number: float, one: str, many: str) -> str:
    return f"{page_frame.thousands(number)} {one if number == 1 else many}"


def _spelt(settings: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    return [(name, page_frame.setting(value)) for name, value in settings.items()]


def _instant(unix_s: float | None) -> str | None:
    if unix_s is None:
        return None
    return datetime.datetime.fromtimestamp(unix_s, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
