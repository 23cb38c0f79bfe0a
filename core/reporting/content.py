"""Everything that is known about a run, as one JSON document: what its page shows, and others may read."""

import itertools
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from core import errors
from core.config import loading, schema, training_settings
from core.reporting import curves, metrics_summary, training_history, word_statistics
from core.storage import location

FORMAT, VERSION = "raycurrent-report", 1
MAX_SAMPLES = 12

Report = dict[str, Any]

# title, columns of the run record in the training rows and the validation rows
CURVES = (
    ("Loss (nats per token)", "loss_nats", "nll_nats"),
    ("Perplexity", "perplexity", "perplexity"),
    ("Next-token accuracy, validation", None, "accuracy"),
    ("BLEU, validation, greedy", None, "bleu"),
    ("Gradient norm before clipping", "gradient_norm", None),
    ("Learning rate", "learning_rate", None),
    ("Target tokens per second", "tokens_per_s", None),
)
_SPLITS = ("train", "valid", "test")


def build(root: location.Location) -> Report:
    """Gathers everything that is known about the run below this root.

    What a run has not made yet is absent from the report, not an error.

    Raises:
        UsageError: there is no run here.
        IntegrityError: a file of the run is damaged.
    """
    config = _config(root)
    settings = config.model_dump(mode="json")
    run = _json(root.join("run.json")) or {}
    stages = run.get("stages", {})
    data = None if config.corpus_kind == "series" else _json(root.join("dataset", "index.json"))
    record = training_history.read_all(root)
    return {
        "format": FORMAT,
        "version": VERSION,
        "name": settings["name"],
        "root": str(root),
        "kind": settings["model"]["kind"],
        "started_unix_s": run.get("started_unix_s"),
        "data": _data(data) if data else None,
        "words": word_statistics.read(root.join("dataset"), data) if data else None,
        "training": _training(record, config.training.best_by),
        "tasks": [_task(task, stages, data, record.rows) for task in config.corpora],
        "gradients": _gradients(record.rows),
        "quality": _report_of(stages, "evaluate"),
        "scores": _report_of(stages, "score"),
        "fitted": _report_of(stages, "train") if config.corpus_kind == "series" else None,
        "samples": {
            "translations": _first_translations(root.join("outputs"), list(config.tasks)),
            "generated": (_report_of(stages, "generate") or {}).get("samples", []),
            "training": _samples(record.rows),
        },
        "stages": [{"name": name, **_timing(stage)} for name, stage in stages.items()],
        "measured": metrics_summary.read(root),
        "starts": run.get("starts"),
        "exit_code": run.get("exit_code"),
        "faults": run.get("faults", []),
        "changes": run.get("changes", []),
        "versions": run.get("versions", {}),
        "settings": settings,
        "chosen": flat(config.model_dump(mode="json", exclude_defaults=True)),
    }


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns settings by their full name, as `--set` takes them."""
    named: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            named |= flat(value, f"{prefix}{name}.")
        else:
            named[f"{prefix}{name}"] = value
    return named


def _config(root: location.Location) -> schema.RunConfig:
    place = root.join("config.yaml")
    try:
        text = place.read_bytes().decode()
    except errors.NotFoundError as error:
        raise errors.UsageError(f"{root}: holds no run (there is no config.yaml); name the root of a run") from error
    return loading.parse(text, str(place))


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
    """How long a stage took, and what it got done in that time."""
    report = stage.get("report") or {}
    done = {name: report[name] for name in ("lines", "lines_read", "tokens", "num_tokens") if name in report}
    made = {"lines": done.get("lines", done.get("lines_read")), "tokens": done.get("tokens", done.get("num_tokens"))}
    failed = report.get("errors") or 0
    return {
        "elapsed_s": float(stage.get("elapsed_s", 0.0)),
        "outcome": str(stage.get("outcome", "unknown")),
        **made,
        "failed_lines": failed,
    }


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
    return {
        "kind": index["kind"],
        "fingerprint": index.get("fingerprint"),
        "lines_read": index.get("lines_read"),
        "splits": splits,
        "drops": drops,
        "repairs": {what: count for what, count in index.get("repairs", {}).items() if count},
        "vocabulary_sizes": sizes,
    }


def _of_kind(rows: Sequence[training_history.Row], kind: str) -> list[training_history.Row]:
    return [row for row in rows if row.get("kind") == kind]


def _best(validations: Sequence[training_history.Row], metric: training_settings.Metric) -> training_history.Row | None:
    """Finds the validation that training took for the best one, so the one whose weights translate."""
    return min(
        validations,
        key=lambda row: (-float(row.get("bleu", -math.inf)) if metric == "bleu" else 0.0, float(row["nll_nats"])),
        default=None,
    )


def _training(record: training_history.History, best_by: training_settings.Metric) -> dict[str, Any] | None:
    rows = record.rows
    if not rows:
        return None
    steps, validations = _of_kind(rows, "step"), _of_kind(rows, "validation")
    best = _best(validations, best_by)
    return {
        "steps": max(int(row["step"]) for row in rows),
        "last": dict(steps[-1]) if steps else None,
        "median_tokens_per_s": statistics.median(training_history.points(steps, "tokens_per_s")[1] or [0.0]),
        "best_validation": dict(best) if best else None,
        "restarts": record.restarts,
        "curves": {
            title: {"training": _points(steps, own), "validation": _points(validations, other)}
            for title, own, other in CURVES
        },
    }


def _task(
    task: str, stages: Mapping[str, Any], index: Mapping[str, Any] | None, rows: Sequence[training_history.Row]
) -> dict[str, Any]:
    """What is known of one of several corpora: its size, how it was learnt, and how good the model is at it."""
    splits = index["splits"] if index else {}
    learnt = [row["tasks"][task] | {"step": row["step"]} for row in rows if task in row.get("tasks", ())]
    validations = [row for row in learnt if "accuracy" in row]
    steps = [row for row in learnt if "accuracy" not in row]
    quality, scores = (_report_of(stages, f"{verb}.{task}") or {} for verb in ("evaluate", "score"))
    return {
        "task": task,
        "train_lines": sum(shard["rows"] for shard in splits.get("train", ()) if shard.get("task") == task),
        "training_perplexity": steps[-1]["perplexity"] if steps else None,
        "validation_perplexity": validations[-1]["perplexity"] if validations else None,
        **{name: quality.get(name) for name in ("bleu", "chrf", "ter")},
        "perplexity": scores.get("perplexity"),
        "curves": {"training": _points(steps, "perplexity"), "validation": _points(validations, "perplexity")},
    }


def _points(rows: Sequence[training_history.Row], name: str | None) -> list[tuple[float, float]]:
    if name is None:
        return []
    steps, values = training_history.points(rows, name)
    few = curves.thinned(curves.Series(name, steps, values))
    return list(zip(few.steps, few.values, strict=True))


def _gradients(rows: Sequence[training_history.Row]) -> dict[str, Any] | None:
    """What was recorded of gradients by layer, of recurrent weights and through time; None where nothing was."""
    found = _of_kind(rows, "gradients")
    content = {
        "layer_norms": _by_layer(_of_kind(rows, "step"), "layer_norms"),
        "cosines": _by_layer(_of_kind(rows, "step"), "cosines"),
        "spectral_radii": _by_layer(found, "spectral_radii"),
        "forget_gates": _by_layer(found, "forget_gates"),
        "norms_by_lag": [
            {"step": row["step"], "norms": row["norms_by_lag"]} for row in found if row.get("norms_by_lag")
        ],
    }
    return content if any(content.values()) else None


def _by_layer(rows: Sequence[training_history.Row], name: str) -> dict[str, list[tuple[float, float]]]:
    """The points of each layer; of a list, one value for each gate, the largest."""
    layers: dict[str, list[training_history.Row]] = {}
    for row in rows:
        for layer, value in (row.get(name) or {}).items():
            largest = max(value) if isinstance(value, list) else value
            layers.setdefault(layer, []).append({"step": row["step"], "value": largest})
    return {layer: _points(own, "value") for layer, own in layers.items()}


def _samples(rows: Sequence[training_history.Row]) -> list[dict[str, Any]]:
    """What the model made of the same lines at each validation."""
    lines: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in _of_kind(rows, "samples"):
        for sample in row["samples"]:
            outputs = lines.setdefault((sample["source"], sample["reference"]), [])
            outputs.append({"step": row["step"], "output": sample["output"]})
    return [
        {"source": source, "reference": reference, "outputs": outputs}
        for (source, reference), outputs in itertools.islice(lines.items(), MAX_SAMPLES)
    ]


def _first_translations(outputs: location.Location, tasks: Sequence[str]) -> list[dict[str, Any]]:
    """The first held-out lines with what they became, as many of each corpus."""
    each = -(-MAX_SAMPLES // len(tasks))
    prefixes = [f"{task}." if task else "" for task in tasks]
    return [found for prefix in prefixes for found in itertools.islice(_translations(outputs, prefix), each)]


def _translations(outputs: location.Location, prefix: str) -> Iterator[dict[str, Any]]:
    """Yields source, hypothesis, reference and attention of the first held-out lines, as far as each is there."""
    place = outputs.join(f"{prefix}translations.jsonl")
    if not place.exists():
        return
    splits = [split for split in ("test", "valid") if outputs.join(f"{prefix}{split}.source.txt").exists()]
    split = next(iter(splits), "test")
    sources, references = (_lines(outputs.join(f"{prefix}{split}.{side}.txt")) for side in ("source", "target"))
    maps = _maps(outputs.join(f"{prefix}translations.jsonl.attention.json"))
    for number, line in enumerate(_lines(place)):
        row = json.loads(line)
        yield {
            "source": next(sources, ""),
            "hypothesis": row["text"],
            "reference": next(references, None),
            "score_nats": row.get("score_nats"),
            "attention": maps.get(number),
        }


def _maps(place: location.Location) -> dict[int, dict[str, Any]]:
    try:
        content = place.read_json()
    except errors.NotFoundError:
        return {}
    return {one["line"]: {name: one[name] for name in ("source", "target", "weights")} for one in content}


def _lines(place: location.Location) -> Iterator[str]:
    if place.exists():
        with place.open() as file:
            yield from (line.decode("utf-8", "replace").rstrip("\n") for line in file)
