"""The report of a run: one JSON document, and one HTML file that needs nothing beside it."""

import itertools
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jinja2
import markupsafe

from core import errors
from core.config import loading
from core.reporting import curves, history, template, words
from core.storage import location

FORMAT, VERSION = "raycurrent-report", 1
MAX_SAMPLES = 12

Report = dict[str, Any]

# title, columns of the run record in the training rows and the validation rows, logarithmic
_PICTURES = (
    ("Loss (nats per token)", "loss_nats", "nll_nats", False),
    ("Perplexity", "perplexity", "perplexity", True),
    ("Gradient norm before clipping", "gradient_norm", None, True),
    ("Learning rate", "learning_rate", None, False),
    ("Target tokens per second", "tokens_per_s", None, False),
)
_SPLITS = ("train", "valid", "test")
_THIN_SPACE = "\N{NARROW NO-BREAK SPACE}"


def build(root: location.Location) -> Report:
    """Gathers everything that is known about the run below this root.

    What a run has not made yet is absent from the report, not an error.

    Raises:
        UsageError: there is no run here.
        IntegrityError: a file of the run is damaged.
    """
    settings = _settings(root)
    run = _json(root.join("run.json")) or {}
    stages = run.get("stages", {})
    data = None if settings["corpus"]["kind"] == "series" else _json(root.join("dataset", "index.json"))
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": settings["name"],
        "root": str(root),
        "kind": settings["model"]["kind"],
        "data": _data(data) if data else None,
        "words": words.read(root.join("dataset"), data) if data else None,
        "training": _training(history.read(root)),
        "quality": _report_of(stages, "evaluate"),
        "scores": _report_of(stages, "score"),
        "fitted": _report_of(stages, "train") if settings["corpus"]["kind"] == "series" else None,
        "samples": {
            "translations": list(itertools.islice(_translations(root.join("outputs")), MAX_SAMPLES)),
            "generated": (_report_of(stages, "generate") or {}).get("samples", []),
        },
        "stages": [{"name": name, **_timing(stage)} for name, stage in stages.items()],
        "exit_code": run.get("exit_code"),
        "faults": run.get("faults", []),
        "changes": run.get("changes", []),
        "versions": run.get("versions", {}),
        "settings": settings,
    }


def render(report: Report) -> str:
    """Returns the HTML page of a report; every text in it is escaped."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["thousands"] = _thousands
    return environment.from_string(template.PAGE).render(
        report=report,
        sentence=_sentence(report),
        figures=_figures(report),
        pictures=_pictures(report["training"]),
        word_pictures=[
            {"title": title, "svg": markupsafe.Markup(svg)}  # noqa: S704 (drawn here, from numbers)
            for title, svg in (words.pictures(report["words"]) if report["words"] else ())
        ],
        word_sentences=words.sentences(report["words"]) if report["words"] else [],
        word_tables=words.tables(report["words"]) if report["words"] else [],
        quality_rows=_quality_rows(report["quality"] or {}),
        settings=json.dumps(report["settings"], indent=2, ensure_ascii=False),
    )


def _settings(root: location.Location) -> dict[str, Any]:
    place = root.join("config.yaml")
    try:
        text = place.read_bytes().decode()
    except errors.NotFoundError as error:
        raise errors.UsageError(f"{root}: holds no run (there is no config.yaml); name the root of a run") from error
    return loading.parse(text, str(place)).model_dump(mode="json")


def _json(place: location.Location) -> dict[str, Any] | None:
    try:
        content = place.read_json()
    except errors.NotFoundError:
        return None
    if not isinstance(content, dict):
        raise errors.IntegrityError(f"{place}: is no JSON object; restore or remove it")
    return content


def _report_of(stages: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    report: dict[str, Any] | None = stages.get(name, {}).get("report")
    return report


def _timing(stage: Mapping[str, Any]) -> dict[str, Any]:
    return {"elapsed_s": float(stage.get("elapsed_s", 0.0)), "outcome": str(stage.get("outcome", "unknown"))}


def _data(index: Mapping[str, Any]) -> dict[str, Any]:
    splits = {}
    for name in sorted(index["splits"], key=_SPLITS.index):
        shards = index["splits"][name]
        tokens: dict[str, int] = {}
        for shard in shards:
            for column, count in shard["tokens"].items():
                tokens[column] = tokens.get(column, 0) + count
        splits[name] = {"lines": sum(shard["rows"] for shard in shards), "shards": len(shards), "tokens": tokens}
    sizes = {column: record["vocabulary_size"] for column, record in index["tokenizers"].items()}
    drops = {reason: count for reason, count in index.get("drops", {}).items() if count}
    return {"kind": index["kind"], "splits": splits, "drops": drops, "vocabulary_sizes": sizes}


def _training(rows: Sequence[history.Row]) -> dict[str, Any] | None:
    if not rows:
        return None
    steps = [row for row in rows if row.get("kind") != "validation"]
    validations = [row for row in rows if row.get("kind") == "validation"]
    best = min(validations, key=lambda row: float(row["nll_nats"]), default=None)
    return {
        "steps": max(int(row["step"]) for row in rows),
        "last": dict(steps[-1]) if steps else None,
        "median_tokens_per_s": statistics.median(history.points(steps, "tokens_per_s")[1] or [0.0]),
        "best_validation": dict(best) if best else None,
        "curves": {
            title: {"training": _points(steps, own), "validation": _points(validations, other) if other else []}
            for title, own, other, _ in _PICTURES
        },
    }


def _points(rows: Sequence[history.Row], name: str) -> list[tuple[float, float]]:
    steps, values = history.points(rows, name)
    few = curves.thinned(curves.Series(name, steps, values))
    return list(zip(few.steps, few.values, strict=True))


def _translations(outputs: location.Location) -> Iterator[dict[str, Any]]:
    """Yields source, hypothesis and reference of the first test lines, as far as each is there."""
    place = outputs.join("translations.jsonl")
    if not place.exists():
        return
    sources, references = _lines(outputs.join("test.source.txt")), _lines(outputs.join("test.target.txt"))
    for line in _lines(place):
        row = json.loads(line)
        yield {
            "source": next(sources, ""),
            "hypothesis": row["text"],
            "reference": next(references, None),
            "score_nats": row.get("score_nats"),
        }


def _lines(place: location.Location) -> Iterator[str]:
    if place.exists():
        with place.open() as file:
            yield from (line.decode("utf-8", "replace").rstrip("\n") for line in file)


def _pictures(training: Mapping[str, Any] | None) -> list[dict[str, str]]:
    pictures = []
    for title, _, _, logarithmic in _PICTURES if training else ():
        assert training is not None
        named = training["curves"][title]
        series = [
            curves.Series(name, [step for step, _ in named[name]], [value for _, value in named[name]])
            for name in ("training", "validation")
            if named[name]
        ]
        if series:
            positive = all(value > 0 for one in series for value in one.values)
            svg = curves.draw(title, series, logarithmic and positive)
            pictures.append({"title": title, "svg": markupsafe.Markup(svg)})  # noqa: S704 (drawn here, from numbers)
    return pictures


def _sentence(report: Report) -> str:
    if report["kind"] == "ngram":
        counted = report["settings"]["model"]
        return f"An n-gram model of order {counted['order']}, smoothing {counted['smoothing'].replace('_', '-')}."
    if report["kind"] == "autoregressive":
        settings = report["settings"]
        names, model = ", ".join(settings["corpus"]["targets"]), settings["model"]
        return f"A forecaster of {names}: {model['network']} on the last {model['lags']} values."
    kind = {"seq2seq": "A translation model", "language_model": "A language model"}[report["kind"]]
    model = report["settings"]["model"]
    size = f"{model['cell'].upper()}, {model['num_layers']} × {model['hidden_size']} units"
    if report["training"] is None:
        return f"{kind} ({size}); not trained yet."
    return f"{kind} ({size}), {_thousands(report['training']['steps'])} steps."


def _figures(report: Report) -> list[dict[str, str]]:
    """The few numbers that a reader looks for first."""
    figures = [
        (name.upper() if name != "chrf" else "chrF", report["quality"].get(name))
        for name in ("bleu", "chrf", "ter")
        if report["quality"]
    ]
    scores = report["scores"] or {}
    figures.append(("held-out perplexity", scores.get("perplexity")))
    if scores.get("tokens"):
        figures.append(("of the held-out tokens unknown, %", 100 * scores.get("unk", 0) / scores["tokens"]))
    if not report["quality"]:
        figures.append(("bits per character", scores.get("bits_per_character")))
    fitted = report["fitted"] or {}
    figures += [(f"{name} error, MSE", (fitted.get(f"{name}_mse") or [None])[-1]) for name in ("train", "valid")]
    training = report["training"] or {}
    figures.append(("validation perplexity", (training.get("best_validation") or {}).get("perplexity")))
    figures.append(("training loss, nats", (training.get("last") or {}).get("loss_nats")))
    figures.append(("tokens per second, median", training.get("median_tokens_per_s")))
    return [{"label": label, "text": _figure(value)} for label, value in figures if isinstance(value, int | float)]


def _quality_rows(quality: Mapping[str, Any]) -> list[dict[str, str]]:
    signatures = quality.get("signatures", {})
    return [
        {"name": name, "text": _figure(value), "signature": str(signatures.get(name, ""))}
        for name, value in quality.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]


def _figure(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 1000:
        return _thousands(round(value))
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.4f}"


def _thousands(number: int) -> str:
    return f"{number:,}".replace(",", _THIN_SPACE)
