"""The report of a run as one JSON document, from which its page is rendered."""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from core import errors
from core.config import loading, schema, section, training_settings
from core.reporting import (
    curves,
    headline,
    held_out_lines,
    hints,
    metrics_summary,
    training_history,
    units,
    word_statistics,
)
from core.storage import location, root_layout

FORMAT, VERSION = "raycurrent-report", 1
MAX_SAMPLES = 12  # lines shown at each validation

Report = dict[str, Any]

# title, column of the training rows and column of the validation rows in the run log; the titles are keys of the report
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
_OF_GENERATION = ("method", "temperature", "top_k", "top_p")


def build(root: location.Location, overlap: Mapping[str, Any] | None = None) -> Report:
    """Builds the report of the run below this root.

    Results that the run has not produced yet are missing from the report; that is not an error.

    Args:
        root: of the run.
        overlap: that of its held-out lines with its training lines, if it was counted.

    Raises:
        UsageError: there is no run at this root.
        IntegrityError: a file of the run is damaged.
    """
    config = _config(root)
    settings = config.model_dump(mode="json")
    run = _json(root.join(root_layout.RUN_STATE)) or {}
    stages = run.get("stages", {})
    data = None if config.corpus_kind == "series" else _json(root.join(root_layout.DATASET, "index.json"))
    history = training_history.read_history(root)
    generated = _report_of(stages, "generate") or {}
    report = {
        "format": FORMAT,
        "version": VERSION,
        "name": settings["name"],
        "root": str(root),
        "kind": settings["model"]["kind"],
        "started_unix_s": run.get("started_unix_s"),
        "data": _data(data) if data else None,
        "words": word_statistics.read(root.join(root_layout.DATASET), data) if data else None,
        "training": _training(history, config),
        "tasks": [_corpus(corpus, stages, data, history.rows) for corpus in config.corpora],
        "gradients": _gradients(history.rows),
        "quality": _quality(stages, ""),
        "scores": _scores(stages, ""),
        "held_out": held_out_lines.summarize(root, config),
        "overlap": overlap,
        "counted": _report_of(stages, "train") if config.model.kind == "ngram" else None,
        "forecasts": _report_of(stages, "forecast"),
        "fitted": _report_of(stages, "train") if config.corpus_kind == "series" else None,
        "samples": _all_samples(root, config, stages, history.rows),
        "generation": {name: generated.get(name) for name in _OF_GENERATION} if "method" in generated else None,
        "stages": [{"name": name, **_timing(stage)} for name, stage in stages.items()],
        "measured": metrics_summary.read(root),
        "starts": run.get("starts"),
        "exit_code": run.get("exit_code"),
        "faults": run.get("faults", []),
        "changes": run.get("changes", []),
        "versions": run.get("versions", {}),
        "settings": settings,
        "chosen": flat(section.non_default_settings(config)),
    }
    found_hints = [hint._asdict() for hint in hints.find(report)]
    return {**report, "headline": headline.of(report), "hints": found_hints}


def _all_samples(
    root: location.Location,
    config: schema.RunConfig,
    stages: Mapping[str, Any],
    rows: Sequence[training_history.Row],
) -> dict[str, Any]:
    """Returns outputs of the model for lines that a page shows."""
    evaluated = {name: _quality(stages, name) or {} for name in config.corpora_by_name}
    # The model writes text as cleaned for training: against references cleaned alike its errors are its own.
    analysed = {name: quality.get("cleaned") or quality for name, quality in evaluated.items()}
    forecast = (_report_of(stages, "forecast") or {}).get("headline") or {}
    return {
        "translations": held_out_lines.sample_translations(root, config, analysed),
        "scored": held_out_lines.sample_scores(root, config),
        "forecast": held_out_lines.sample_forecasts(root, forecast),
        "generated": (_report_of(stages, "generate") or {}).get("samples", []),
        "training": _samples(rows),
    }


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns settings by their full name, such as `training.epochs`, as `--set` accepts them."""
    by_name: dict[str, Any] = {}
    for name, value in settings.items():
        # An empty mapping is a value: it has no names of its own.
        if isinstance(value, Mapping) and value:
            by_name |= flat(value, f"{prefix}{name}.")
        else:
            by_name[f"{prefix}{name}"] = value
    return by_name


def _config(root: location.Location) -> schema.RunConfig:
    # Written at the first start of a run, so that a root without it has none.
    path = root.join(root_layout.SETTINGS)
    try:
        stored = path.read_bytes()
    except errors.NotFoundError as error:
        raise errors.UsageError(f"{root}: holds no run (there is no config.yaml); name the root of a run") from error
    return loading.parse_stored(stored, str(path))


def _json(path: location.Location) -> dict[str, Any] | None:
    try:
        content = path.read_json()
    except errors.NotFoundError:
        return None
    if not isinstance(content, dict):
        raise errors.IntegrityError(f"{path}: is not a JSON object; restore or remove it")
    return content


def _report_of(stages: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    report: dict[str, Any] | None = stages.get(name, {}).get("report")
    return report


def _scores(stages: Mapping[str, Any], corpus: str) -> dict[str, Any] | None:
    """Returns the report of the scoring of held-out lines, that by line within that by stream."""
    suffix = f".{corpus}" if corpus else ""
    scores, by_line = (_report_of(stages, f"{stage}{suffix}") for stage in ("score", "score_by_line"))
    return {**scores, "by_line": by_line} if scores and by_line else scores


def _quality(stages: Mapping[str, Any], corpus: str) -> dict[str, Any] | None:
    """Returns the report of an evaluation, with the new names of values that release 0.1 stored under old ones."""
    quality = _report_of(stages, f"evaluate.{corpus}" if corpus else "evaluate")
    if quality is None:
        return None
    renamed = {"documents_bleu": "d2l_bleu", "documents_bleu_k": "d2l_bleu_k"}
    return quality | {new: quality[old] for old, new in renamed.items() if old in quality}


def _timing(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the duration and outcome of a stage, and how many lines and tokens it processed."""
    report = stage.get("report") or {}
    # Release 0.1 kept the seconds of the last start alone.
    is_of_all_starts = "last_start_s" in report and not report["untimed_steps"]
    return {
        "elapsed_s": float(stage.get("elapsed_s", 0.0)),
        "is_of_all_starts": is_of_all_starts,
        "lines_per_s": report.get("lines_per_s"),
        "outcome": str(stage.get("outcome", "unknown")),
        "lines": report.get("lines", report.get("lines_read")),
        "tokens": report.get("tokens", report.get("num_tokens")),
        # The errors of forecasts are no failed lines, but a list of figures.
        "failed_lines": errors if isinstance(errors := report.get("errors"), int) else 0,
    }


def _data(index: Mapping[str, Any]) -> dict[str, Any]:
    splits = {}
    for name in sorted(index["splits"], key=_SPLITS.index):
        shards = index["splits"][name]
        tokens: dict[str, int] = {}
        for shard in shards:
            for column, count in shard["tokens"].items():
                tokens[column] = tokens.get(column, 0) + count
        # Since version 2 an entry has the totals of a corpus.
        num_shards = sum(shard.get("shards", 1) for shard in shards)
        splits[name] = {"lines": sum(shard["rows"] for shard in shards), "shards": num_shards, "tokens": tokens}
    sizes = {column: tokenizer["vocabulary_size"] for column, tokenizer in index["tokenizers"].items()}
    drops = {reason: count for reason, count in index.get("drops", {}).items() if count}
    return {
        "kind": index["kind"],
        "fingerprint": index.get("fingerprint"),
        "lines_read": index.get("lines_read"),
        "splits": splits,
        "drops": drops,
        "repairs": {name: count for name, count in index.get("repairs", {}).items() if count},
        "vocabulary_sizes": sizes,
    }


def _of_kind(rows: Sequence[training_history.Row], kind: str) -> list[training_history.Row]:
    return [row for row in rows if row.get("kind") == kind]


def _best(validations: Sequence[training_history.Row], metric: training_settings.Metric) -> training_history.Row | None:
    """Returns the best validation by the metric of the run; inference uses the weights of its checkpoint."""
    return min(validations, key=lambda row: training_settings.selection_key(metric, row), default=None)


def _training(history: training_history.History, config: schema.RunConfig) -> dict[str, Any] | None:
    rows = history.rows
    if not rows:
        return None
    steps, validations = _of_kind(rows, "step"), _of_kind(rows, "validation")
    best = _best(validations, config.training.best_by)
    # Release 0.1 did not write the unit of a validation, which was the same.
    lanes = {"unit": "stream", "lanes": config.training.num_lanes}
    unit = lanes if config.corpus_kind == "text" else {"unit": "line"}
    best = None if best is None else {**unit, **best}
    return {
        "steps": max(int(row["step"]) for row in rows),
        "last": dict(steps[-1]) if steps else None,
        "unit": units.of(steps[-1]) if steps else {},
        # The median, on which a start-up or a pause has no influence.
        "median_tokens_per_s": statistics.median(training_history.finite_points(steps, "tokens_per_s")[1] or [0.0]),
        "best_validation": best,
        "restarts": history.restarts,
        "curves": {
            title: {"training": _points(steps, training), "validation": _points(validations, validation)}
            for title, training, validation in CURVES
        },
    }


def _corpus(
    name: str, stages: Mapping[str, Any], index: Mapping[str, Any] | None, rows: Sequence[training_history.Row]
) -> dict[str, Any]:
    """Returns the results of one of several corpora: its size, training curves and quality on its held-out lines."""
    splits = index["splits"] if index else {}
    # The stored key is "task", in the run log, the dataset index and the report.
    own_rows = [row["tasks"][name] | {"step": row["step"]} for row in rows if name in row.get("tasks", ())]
    # Only a validation counts the tokens that the model ranked first.
    validations = [row for row in own_rows if "accuracy" in row]
    steps = [row for row in own_rows if "accuracy" not in row]
    quality, scores = _report_of(stages, f"evaluate.{name}") or {}, _scores(stages, name) or {}
    return {
        "task": name,
        "train_lines": sum(shard["rows"] for shard in splits.get("train", ()) if shard.get("task") == name),
        "training_perplexity": steps[-1]["perplexity"] if steps else None,
        "validation_perplexity": validations[-1]["perplexity"] if validations else None,
        **{metric: quality.get(metric) for metric in ("bleu", "chrf", "ter")},
        "perplexity": scores.get("perplexity"),
        "perplexity_by_line": (scores.get("by_line") or {}).get("perplexity"),
        "units": {
            "training": units.of(_of_kind(rows, "step")[-1]) if steps else {},
            "validation": units.of(validations[-1]) if validations else {},
            "held_out": units.of(scores),
        },
        "curves": {"training": _points(steps, "perplexity"), "validation": _points(validations, "perplexity")},
    }


def _points(rows: Sequence[training_history.Row], name: str | None) -> list[tuple[float, float]]:
    if name is None:
        return []
    steps, values = training_history.finite_points(rows, name)
    # A report stays small, however long the run was.
    few = curves.thin(curves.Series(name, steps, values))
    return list(zip(few.steps, few.values, strict=True))


def _gradients(rows: Sequence[training_history.Row]) -> dict[str, Any] | None:
    """Returns the logged gradients by layer and by lag, spectral radii and forget gates; None if there are none."""
    gradient_rows = _of_kind(rows, "gradients")
    content = {
        "layer_norms": _by_layer(_of_kind(rows, "step"), "layer_norms"),
        "cosines": _by_layer(_of_kind(rows, "step"), "cosines"),
        "spectral_radii": _by_layer(gradient_rows, "spectral_radii"),
        "forget_gates": _by_layer(gradient_rows, "forget_gates"),
        "norms_by_lag": [
            {"step": row["step"], "norms": row["norms_by_lag"]} for row in gradient_rows if row.get("norms_by_lag")
        ],
    }
    return content if any(content.values()) else None


def _by_layer(rows: Sequence[training_history.Row], name: str) -> dict[str, list[tuple[float, float]]]:
    """Returns the points of each layer; of a list with one value per gate, the largest."""
    layers: dict[str, list[training_history.Row]] = {}
    for row in rows:
        for layer, value in (row.get(name) or {}).items():
            largest = max(value) if isinstance(value, list) else value
            layers.setdefault(layer, []).append({"step": row["step"], "value": largest})
    return {layer: _points(layer_rows, "value") for layer, layer_rows in layers.items()}


def _samples(rows: Sequence[training_history.Row]) -> list[dict[str, Any]]:
    """Returns the outputs for each sample line at all validations."""
    lines: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in _of_kind(rows, "samples"):
        for sample in row["samples"]:
            # A line is known by its text: validations translate the same lines each time.
            outputs = lines.setdefault((sample["source"], sample["reference"]), [])
            outputs.append({"step": row["step"], "output": sample["output"]})
    return [
        {"source": source, "reference": reference, "outputs": outputs}
        for (source, reference), outputs in itertools.islice(lines.items(), MAX_SAMPLES)
    ]
