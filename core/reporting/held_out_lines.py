"""Held-out lines of a run with what the model made of them: samples of all lengths, the best and the worst."""

import collections
import heapq
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from core import errors
from core.config import schema
from core.data.text import cleaning, selection
from core.storage import json_values, location, root_layout

MAX_SAMPLES = 20
MAX_MAPS = 12
"""Attention maps shown at most: each is as large as a translation."""
MAX_LINES = 100_000
"""Lines that are counted and drawn from at most, those at the beginning; the figures of the evaluation are of all."""
MAX_ROWS = 2_000  # of a series, in the plot
NUM_EXTREMES = 5  # best and worst lines of a text
_MIN_TOKENS = 5  # of a line of text that may be the best or the worst: of shorter ones chance decides
_SPLITS = ("test", "valid")  # the split that is measured: the test split, if there is one, as in `jobs.held_out`

Row = dict[str, Any]


def summarize(root: location.Location, config: schema.RunConfig) -> Row | None:
    """Returns the held-out split, its lines, and the translations that are copied, empty or cut; None if there is none.

    A copy repeats its source where the reference does not; one that is cut has `decoding.max_length` tokens. Of several
    corpora they are added up.
    """
    outputs = root.join(root_layout.OUTPUTS)
    side = "source" if config.corpus_kind == "pairs" else "text"
    prefixes = [f"{name}." if name else "" for name in config.corpora_by_name]
    splits = {prefix: split for prefix in prefixes if (split := _split(outputs, prefix, side))}
    if not splits:
        return None
    counts = [_counts(outputs, prefix, split, config) for prefix, split in splits.items()]
    return {"split": next(iter(splits.values())), **{key: sum(row[key] for row in counts) for key in counts[0]}}


def _split(outputs: location.Location, prefix: str, side: str) -> str | None:
    return next((split for split in _SPLITS if outputs.join(f"{prefix}{split}.{side}.txt").exists()), None)


def _counts(outputs: location.Location, prefix: str, split: str, config: schema.RunConfig) -> dict[str, int]:
    if config.corpus_kind != "pairs":
        return {"lines": sum(1 for _ in _lines(outputs.join(f"{prefix}{split}.text.txt")))}
    counts = dict.fromkeys(("lines", "copied", "empty", "cut"), 0)
    for line, source, reference in itertools.islice(_joined(outputs, prefix, split), MAX_LINES):
        counts["lines"] += 1
        if line is None:
            continue
        row = json.loads(line)
        text = row["text"].strip()
        counts["empty"] += not text
        counts["copied"] += bool(text) and text == (source or "").strip() != (reference or "").strip()
        counts["cut"] += (row.get("num_tokens") or 0) >= config.decoding.max_length
    return counts


def _joined(outputs: location.Location, prefix: str, split: str) -> Iterator[tuple[str | None, ...]]:
    """Yields the row of the translation, the source and the reference of each line."""
    files = [outputs.join(f"{prefix}{name}") for name in ("translations.jsonl", f"{split}.source.txt")]
    files.append(outputs.join(f"{prefix}{split}.target.txt"))
    return itertools.zip_longest(*map(_lines, files))


def sample_translations(root: location.Location, config: schema.RunConfig, quality: Mapping[str, Any]) -> list[Row]:
    """Returns held-out lines of all lengths with their translations, the same number of each corpus.

    Besides the lines that are drawn, some with an attention map are among them, and those that an evaluation found to
    be the best and the worst.

    Args:
        root: of the run.
        config: its settings.
        quality: reports of evaluations by the name of a corpus.
    """
    outputs = root.join(root_layout.OUTPUTS)
    # Rounded up: each corpus shows at least one.
    num_each = -(-MAX_SAMPLES // len(config.corpora_by_name))
    return [
        row
        for name, corpus in config.corpora_by_name.items()
        for row in _translations(
            outputs, f"{name}." if name else "", num_each, corpus.cleaning, quality.get(name) or {}
        )
    ]


def _translations(
    outputs: location.Location, prefix: str, count: int, steps: Sequence[str], quality: Mapping[str, Any]
) -> Iterator[Row]:
    """Yields source, hypothesis, reference (or None) and attention (or None) of held-out lines.

    `cleaned_reference` is None where the cleaning of the training data does not change the reference.
    """
    path = outputs.join(f"{prefix}translations.jsonl")
    if not path.exists():
        return
    split = _split(outputs, prefix, "source") or "test"
    maps = _attention_maps(outputs.join(f"{prefix}translations.jsonl.attention.json"))
    sources = itertools.islice(_lines(outputs.join(f"{prefix}{split}.source.txt")), MAX_LINES)
    drawn_lines = set(selection.draw_by_length([len(line) for line in sources], count))
    extremes = {row["line"]: (kind, row["chrf"]) for kind in ("best", "worst") for row in quality.get(kind, ())}
    numbers = sorted(maps)
    sizes = [len(maps[number]["source"]) for number in numbers]
    mapped = {numbers[index] for index in selection.draw_by_length(sizes, min(count, MAX_MAPS))}
    shown = drawn_lines | mapped | set(extremes)
    rows = itertools.islice(_joined(outputs, prefix, split), max(shown, default=-1) + 1)
    for number, (line, source, reference) in enumerate(rows):
        if number not in shown or line is None:
            continue
        row = json.loads(line)
        cleaned = None if reference is None else cleaning.clean(reference, steps)
        kind, chrf = extremes.get(number, (None, None))
        yield {
            "line": number,
            "is_drawn": number in drawn_lines,
            "extreme": kind,
            "chrf": chrf,
            "source": source or "",
            "hypothesis": row["text"],
            "reference": reference,
            "cleaned_reference": None if cleaned == reference else cleaned,
            "score_nats": row.get("score_nats"),
            "attention": maps.get(number),
        }


def sample_scores(root: location.Location, config: schema.RunConfig) -> dict[str, list[Row]]:
    """Returns held-out lines of text with their perplexity: drawn over all lengths, the worst and the best.

    Empty for pairs, and for a run that has not scored lines. Lines are in the unit of the scores.
    """
    outputs = root.join(root_layout.OUTPUTS)
    split = _split(outputs, "", "text")
    scores = outputs.join("scores.jsonl")
    if config.corpus_kind != "text" or split is None or not scores.exists():
        return {}
    text = outputs.join(f"{split}.text.txt")
    lengths = [len(line) for line in itertools.islice(_lines(text), MAX_LINES)]
    drawn_lines = set(selection.draw_by_length(lengths, MAX_SAMPLES))
    pairs = itertools.islice(zip(_lines(scores), _lines(text), strict=False), MAX_LINES)
    shown, whole = [], []
    for number, (line, words) in enumerate(pairs):
        row = json.loads(line)
        nll_nats, num_tokens = json_values.parse_number(row["nll_nats"]), row["num_tokens"]
        if nll_nats is None or not num_tokens:
            continue
        mean = nll_nats / num_tokens
        scored = {
            "line": number,
            "text": words,
            "num_tokens": num_tokens,
            "num_unk": row["num_unk"],
            "perplexity": math.exp(min(mean, 700.0)),  # math.exp raises an OverflowError beyond 709
        }
        if number in drawn_lines:
            shown.append(scored)
        if num_tokens >= _MIN_TOKENS:
            whole.append(scored)
    return {
        "drawn": shown,
        "worst": heapq.nlargest(NUM_EXTREMES, whole, key=lambda row: row["perplexity"]),
        "best": heapq.nsmallest(NUM_EXTREMES, whole, key=lambda row: row["perplexity"]),
    }


def sample_forecasts(root: location.Location, headline: Mapping[str, Any]) -> Row | None:
    """Returns forecast and actual values of the rows of the headline, of its first column and horizon.

    The last `MAX_ROWS`, in the order of the series; None without forecasts of rows that were held out.
    """
    path = root.join(root_layout.OUTPUTS, "forecasts.jsonl")
    if not headline.get("errors") or headline["split"] == "train" or not path.exists():
        return None
    first = headline["errors"][0]
    wanted = {"target": first["target"], "horizon": first["horizon"], "split": headline["split"]}
    rows: collections.deque[Row] = collections.deque(maxlen=MAX_ROWS)
    for line in _lines(path):
        row = json.loads(line)
        if all(row.get(name) == value for name, value in wanted.items()):
            shown = {"line": row["line"], "time": row.get("time")}
            rows.append(shown | {name: json_values.parse_number(row[name]) for name in ("forecast", "actual")})
    known = [row for row in rows if row["forecast"] is not None]
    return {**wanted, "rows": known} if known else None


def _attention_maps(path: location.Location) -> dict[int, dict[str, Any]]:
    try:
        content = path.read_json()
    except errors.NotFoundError:
        return {}
    return {row["line"]: {name: row[name] for name in ("source", "target", "weights")} for row in content}


def _lines(path: location.Location) -> Iterator[str]:
    if path.exists():
        with path.open() as file:
            yield from (line.decode("utf-8", "replace").rstrip("\n") for line in file)
