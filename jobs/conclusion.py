"""Conclusion of a pipeline, for people: what was reached, where the page is, how to use the model."""

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from core.storage import location, root_layout
from jobs import console

_USES = {"pairs": "translate", "text": "score", "series": "forecast"}


def lines(report: Mapping[str, Any], kind: str) -> list[str]:
    """Returns the lines that end a pipeline: what was reached, the first hint if there is one, the page, the next step.

    Args:
        report: that of the pipeline.
        kind: of its corpus.
    """
    reached = ", ".join(_reached(report["stages"]))
    held_out = f" ({_held_out(report, kind)})" if reached and report["held_out"] is not None else ""
    verb, page = _USES[kind], location.Location.parse(report["root"]).join(root_layout.REPORT_HTML)
    command = f"{console.program()} {verb} --run {shlex.quote(report['root'])} --input FILE --output FILE.jsonl"
    return [
        f"{report['name']}: {reached or 'trained; nothing was held out to measure it'}{held_out}",
        *_hints(report["hints"]),
        f"page: {page}",
        f"{verb} a file: {command}",
    ]


def _held_out(report: Mapping[str, Any], kind: str) -> str:
    split, unit = report["held_out"], "rows" if kind == "series" else "lines"
    if split != "valid":
        return f"{split} {unit}"
    # A counted model, and one of a series, have a single checkpoint.
    chose = report["stages"].get("train", {}).get("best_validation")
    return f"validation {unit}, which chose the checkpoint" if chose else f"validation {unit}"


def _hints(hints: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Yields one line: the first hint, and how many more there are."""
    if hints:
        others = len(hints) - 1
        more = f" ({others} more hint{'' if others == 1 else 's'} on the page)" if others else ""
        yield f"hint: {hints[0]['text']}{more}"


def _reached(stages: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yields the figures of each corpus that say most."""
    # BLEU first: of a translation model it says more than the perplexity.
    for name, stage in sorted(stages.items(), key=lambda item: not item[0].startswith("evaluate")):
        verb, _, corpus = name.partition(".")
        of = f" of {corpus}" if corpus else ""
        if verb == "evaluate":
            yield f"BLEU{of} {stage['bleu']:.2f}"
        elif verb == "score" and "perplexity" in stage:
            by = f", by {stage['unit']}" if "unit" in stage else ""
            yield f"perplexity per token{of} {float(stage['perplexity']):.2f}{by}"
        elif verb == "forecast":
            headline = stage.get("headline", {})
            trained = ", on rows that it was trained on" if headline.get("split") == "train" else ""
            for row in headline.get("errors", [])[:1]:
                name, rmse = min(
                    (("persistence", row["persistence_rmse"]), ("seasonal naive", row.get("seasonal_rmse"))),
                    key=lambda item: math.inf if item[1] is None else item[1],
                )
                naive = f"{name} {rmse:.4g}"
                yield f"RMSE of {row['target']} {row['rmse']:.4g} at horizon {row['horizon']}, {naive}{trained}"
