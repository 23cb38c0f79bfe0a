"""Text of a configuration that `init` writes: the settings, what was seen in the files, and why each was chosen."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from core.config import presets, yaml_writer
from core.data.text import recognition, survey

WIDTH = 110
_REASON_COLUMN = 60
_SHOWN_CHARACTERS = 100  # of an example


Kind = Literal["pairs", "text", "series"]


class Plan(NamedTuple):
    """A configuration, chosen.

    Attributes:
        kind: kind of the corpus.
        num_lines: lines, pairs or rows.
        notes: sentences on how the files are read.
        usage: command that uses the trained model.
        seen: all sentences about the files.
        settings: content of the YAML file.
        why: the reason for a setting, by its dotted name.
        expected: sentence on the quality to expect; None where none was measured.
        minutes: estimate of the pipeline's time on this machine if nothing else computes on it.
    """

    kind: Kind
    num_lines: int
    notes: list[str]
    usage: str
    seen: list[str]
    settings: dict[str, Any]
    why: dict[str, str]
    expected: str | None
    minutes: float


def render(files: Sequence[str], output: str, plan: Plan, budget_minutes: float | None) -> str:
    """Returns the YAML text.

    Args:
        files: the files as the user named them.
        output: name of the YAML file.
        plan: what was chosen, and why.
        budget_minutes: what the user asked for, if anything.
    """
    lines = [
        f"# Written by `init` for {', '.join(files)}. Train, measure and make a report, then use the model:",
        f"#   python -m jobs pipeline {output}",
        f"#   {plan.usage}",
        "# All settings: jobs/configs/README.md",
        "#",
        "# Seen:",
        *_wrapped(plan.seen),
        f"# Time: about {_duration(plan.minutes)} on this machine if it is idle (a step was timed)"
        + (f", for a budget of {budget_minutes:g} minutes." if budget_minutes else "."),
    ]
    if plan.expected:
        lines += textwrap.wrap(plan.expected, WIDTH, initial_indent="# ", subsequent_indent="#   ")
    for section, value in plan.settings.items():
        lines += _section(section, value, plan.why)
    return "\n".join(lines) + "\n"


def _duration(minutes: float) -> str:
    if minutes < 1:
        return "a minute"
    if minutes < 90:
        return f"{max(1, round(minutes))} minutes"
    return f"{minutes / 60:.1f} hours"


def _wrapped(sentences: Iterable[str]) -> Iterator[str]:
    for sentence in sentences:
        yield from textwrap.wrap(sentence, WIDTH, initial_indent="#   ", subsequent_indent="#     ")


def _section(name: str, value: Any, why: Mapping[str, str]) -> Iterator[str]:
    """Yields a section: one line for each of its settings, with the reason where there is one."""
    if not isinstance(value, dict):
        yield _with_reason(f"{name}: {yaml_writer.flow(value)}", why.get(name))
        return
    yield _with_reason(f"{name}:", why.get(name))
    for key, inner in value.items():
        yield _with_reason(f"  {key}: {yaml_writer.flow(inner)}", why.get(f"{name}.{key}"))


def _with_reason(line: str, reason: str | None) -> str:
    return line if reason is None else f"{line:<{_REASON_COLUMN}} # {reason}"


def seen(recognized: recognition.Recognized, figures: survey.Survey) -> Iterator[str]:
    """Yields what was seen in text or pairs, in sentences."""
    unit = "pairs" if recognized.kind == "pairs" else "lines"
    yield from recognized.notes
    if figures.is_sample:
        yield f"{figures.num_lines:,} {unit}; figures of the first {figures.num_examined:,}."
    else:
        yield f"{figures.num_lines:,} {unit}."
    names = ("source", "target") if recognized.kind == "pairs" else ("text",)
    for name, side in zip(names, figures.sides, strict=True):
        yield _lengths(name, side)
        if side.script is not None:
            yield f"{name}: {side.script} without spaces between words."
    yield from _irregularities(figures)
    for example in figures.examples:
        yield "Example: " + "  →  ".join(_shortened(text) for text in example)


def _lengths(name: str, side: survey.SideSurvey) -> str:
    words, characters = side.words, side.characters
    return (
        f"{name}: {words.median} words a line (median), {words.p90} at the 90th percentile, {words.p99} at the 99th, "
        f"at most {words.longest}; {characters.median} characters (median), at most {characters.longest}; "
        f"{side.num_words:,} words, {len(side.distinct_words):,} of them different; "
        f"{side.distinct_characters:,} different characters."
    )


def _irregularities(figures: survey.Survey) -> Iterator[str]:
    """Yields a sentence for each irregularity that occurs."""
    unit = "pair" if len(figures.sides) == 2 else "line"
    dropped = "dropped by filters.duplicates" if unit == "pair" else "kept"
    counts = [
        (figures.duplicates, unit, f"equal to an earlier one: {dropped}"),
        (sum(side.empty for side in figures.sides), "line or side" if unit == "pair" else "line", "empty"),
        (figures.unequal, "pair", f"with one side more than {survey.RATIO:g} times as long as the other: misaligned?"),
        (figures.same, "pair", "with equal sides: not translated?"),
        (sum(side.odd for side in figures.sides), "line", "with control characters or U+FFFD, text lost before"),
        *((count, "line", f"that cannot be read ({reason}): skipped") for reason, count in figures.bad_lines.items()),
        (figures.repairs["crlf"], "line", "with a carriage return at the end: removed"),
        (figures.repairs["bom"], "byte order mark", "removed"),
    ]
    for count, name, what in counts:
        if count:
            yield f"{count:,} {name if count == 1 else _plural(name)} {what}."


def _plural(name: str) -> str:
    return " or ".join(f"{word}s" for word in name.split(" or "))


def _shortened(text: str) -> str:
    shown = "".join(char if char.isprintable() else " " for char in text)
    return shown if len(shown) <= _SHOWN_CHARACTERS else shown[: _SHOWN_CHARACTERS - 1] + "…"


def _held_out(figures: survey.Survey, share: float, how: str) -> str:
    return f"about {round(share * figures.num_lines):,} lines each, {how}"


def reasons_for_pairs(figures: survey.Survey, row: int, share: float, shared: bool) -> dict[str, str]:
    """Returns the reasons for the settings of pairs, by dotted name.

    Args:
        figures: of the corpus.
        row: of `presets.PAIRS`.
        share: of the validation split, and of the test split.
        shared: whether both sides have one vocabulary.
    """
    limit = presets.PAIRS[row].max_pairs
    size = f"up to {limit:,} pairs" if limit < float("inf") else "large corpora"
    return {
        "corpus.split": _held_out(figures, share, "by a hash of the source side"),
        "evaluation.tokenize": "of BLEU: the target side has no spaces between words",
        "corpus.filters": "in tokens; longer pairs and repeated ones are dropped",
        "tokenizer.kind": "subwords of bytes: any text can be written, nothing is unknown",
        "tokenizer.shared": "the sides have most letters in common" if shared else "the sides have different letters",
        "model.hidden_size": f"sizes for {size}",
        "training.epochs": "the checkpoint with the best validation loss is used",
        "training.batch_tokens": "of all workers together",
        "cluster.num_workers": "one for each core",
    }


def reasons_for_text(figures: survey.Survey, row: int, share: float, tokenizer: str) -> dict[str, str]:
    """Returns the reasons for the settings of text, by dotted name; the arguments are those of `reasons_for_pairs`."""
    limit = presets.TEXT[row].max_words
    size = f"up to {limit:,} words" if limit < float("inf") else "large corpora"
    units = {
        "char": "too little text for a model of words, or text without spaces",
        "word": "words seen once are <unk>",
        "bpe": "subwords of bytes: nothing is unknown",
    }
    return {
        "corpus.split": _held_out(figures, share, "the last ones of the text"),
        "corpus.line_end": "the end of a line is a token",
        "tokenizer.kind": units[tokenizer],
        "model.hidden_size": f"sizes for {size}",
        "training.epochs": "the checkpoint with the best validation loss is used",
        "training.num_lanes": "of all workers together",
        "scoring.unit": "the usual measure: the state is carried from line to line",
        "cluster.num_workers": "one for each core",
    }


def reasons_for_series(period: int, num_rows: int) -> dict[str, str]:
    """Returns the reasons for the settings of a series, by dotted name.

    Args:
        period: rows of a season; 1: none was seen.
        num_rows: rows of all splits.
    """
    season = f"a season of {period} rows was seen" if period > 1 else "no season was seen"
    return {
        "corpus.split": f"the last rows of {num_rows:,}: the newest are forecast from older ones",
        "corpus.targets": "every column is forecast, and an input of the next forecast",
        "model.lags": f"past rows in the input; {season}",
        "forecasting.horizons": "steps ahead",
        "cluster.num_workers": "a series is fitted in one process",
    }
