"""Hints: what would make a run better, by rules over the figures of its report.

A rule has a threshold with its reason, and says which setting to change in which direction. It sees the report alone,
so that pages, the JSON document of a pipeline and its last lines say the same.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from core.reporting import page_frame

RISE = 1.05
"""Validation perplexity at the end over its lowest: below 5 %, it is noise between validations."""
RISE_OF_SQUARES = 1.1  # of mean squared errors, whose root rises by half as much
FALL, LAST_FIFTH = 1.05, 0.8
"""Fall of the validation perplexity in the last fifth of the steps, from which on training ended too early."""
FALL_OF_HALF, LAST_HALF = 1.07, 0.5
"""The same in the second half where the rate decays to the end, which lowers the loss and slows its fall down."""
LOSS_RISE = 1.15  # training loss at the end over its lowest; windows of a text differ by less, averaged
STANDSTILL = 1.01  # fall of both losses in the second half below which nothing was learned there
SOLVED = 1.2  # perplexity below which there is little left to learn
SKIPPED_SHARE = 0.001  # of the steps: one stray overflow in a long run is harmless
RARE = 5  # occurrences below which an embedding stays close to its random start
RARE_SHARE = 0.5  # of a vocabulary; words of a text are always rare in part (Zipf's law)
UNKNOWN_SHARE = 0.02
DROPPED_SHARE = 0.02
COPIED_SHARE, EMPTY_SHARE, CUT_SHARE = 0.02, 0.01, 0.02
MIN_TRANSLATIONS = 3  # of them; fewer are chance
SHORT, LONG = 0.9, 1.15  # words of the translations over those of the references; BLEU punishes the short ones alone
OVERLAP_SHARE = 0.01
OVERLAP_SHARE_OF_TEXT = 0.05  # texts repeat headings and phrases
FEW_LINES = 100  # held-out lines below which BLEU varies by several points by chance
BARELY = 0.98  # RMSE over that of the best naive forecast, above which a model has learned nothing more
MIN_VALIDATIONS = 4

DROP_REASONS = {
    "too_long": ("longer than corpus.filters.max_length", "raise it"),
    "too_short": ("shorter than corpus.filters.min_length", "lower it"),
    "ratio": ("with sides of unequal length (corpus.filters.max_ratio)", "look whether the sides are aligned"),
    "empty": ("with an empty side or line (corpus.filters.min_length)", "look at the source files"),
    "duplicate": ("equal to an earlier one (corpus.filters.duplicates)", ""),
    "limit": ("beyond corpus.limit", ""),
}
"""Of each reason for which lines are dropped: the words for it, and what to do about many of them."""
_OF_BAD_LINES = ("that cannot be read: {reason} (corpus.on_bad_line)", "look at the source files")

Report = Mapping[str, Any]
Points = Sequence[tuple[float, float]]


class Hint(NamedTuple):
    """One thing to change.

    Attributes:
        rule: name of the rule.
        setting: the setting to change first.
        text: what the figures show, and the change.
    """

    rule: str
    setting: str
    text: str


def find(report: Report) -> list[Hint]:
    """Returns the hints that follow from a report, those that question its figures first."""
    hints = [hint for rule in _RULES for hint in rule(report)]
    if not report["settings"]["corpora"]:
        return hints
    # Each of several corpora has these settings under its own name.
    return [Hint(*(part.replace("corpus.", "corpora.NAME.") for part in hint)) for hint in hints]


def describe_drop(reason: str) -> tuple[str, str]:
    """Returns the words for a reason for which lines are dropped, and what to do about many of them."""
    if reason in DROP_REASONS:
        return DROP_REASONS[reason]
    words, remedy = _OF_BAD_LINES
    return words.format(reason=reason.replace("_", " ")), remedy


def _measure(report: Report) -> Iterator[Hint]:
    """Yields a hint if nothing is held out, or if only the lines by which the checkpoint was chosen are."""
    if not (report["training"] or report["fitted"] or report["counted"]):
        return
    splits = _held_out_splits(report)
    if not splits:
        yield Hint("measure", "corpus.split.test", "Nothing is held out to measure the model by; set "
                   "corpus.split.valid and corpus.split.test, such as 0.05 each.")  # fmt: skip
    elif "test" not in splits and not report["counted"]:
        yield Hint("measure", "corpus.split.test", "There is no test split: the figures are of the validation split, "
                   "by which the checkpoint was chosen, and flatter it; set corpus.split.test.")  # fmt: skip


def _held_out_splits(report: Report) -> set[str]:
    if report["data"]:
        return set(report["data"]["splits"]) - {"train"}
    corpus = report["settings"]["corpus"] or {}
    return {name for name in ("valid", "test") if corpus.get(name) or (corpus.get("split") or {}).get(name)}


def _few_lines(report: Report) -> Iterator[Hint]:
    lines = (report["quality"] or {}).get("lines", FEW_LINES)
    if lines < FEW_LINES:
        yield Hint("few_lines", "corpus.split.test", f"BLEU of {_count(lines)} lines varies by several points by "
                   "chance; hold out more (corpus.split.test).")  # fmt: skip


def _overlap(report: Report) -> Iterator[Hint]:
    overlap = report["overlap"]
    if not overlap or not overlap["lines"]:
        return
    share = overlap["in_training"] / overlap["lines"]
    is_text = "text" in (report["data"] or {}).get("vocabulary_sizes", ())
    if share < (OVERLAP_SHARE_OF_TEXT if is_text else OVERLAP_SHARE):
        return
    lines = "held-out lines" if is_text else "held-out source lines"
    remedy = (
        "remove repeated passages" if is_text else "hold out by corpus.split.by: source, or remove them from the corpus"
    )
    yield Hint("overlap", "corpus.split.by", f"{_count(overlap['in_training'])} of {_count(overlap['lines'])} {lines} "
               f"({_percent(share)}) are in the training data, too: their figures flatter the model; "
               f"{remedy}.")  # fmt: skip


def _learning_rate(report: Report) -> Iterator[Hint]:
    training = report["training"]
    if not training:
        return
    rate = f"training.learning_rate ({report['settings']['training']['learning_rate']:g})"
    skipped = (training["last"] or {}).get("num_skipped", 0)
    if report["exit_code"] == 7 or skipped > SKIPPED_SHARE * training["steps"]:
        what = "Training diverged" if report["exit_code"] == 7 else "Gradients were not finite"
        yield Hint("learning_rate", "training.learning_rate", f"{what}: {_count(skipped)} of "
                   f"{_count(training['steps'])} steps were skipped; lower {rate}, or raise "
                   "training.schedule.warmup_steps.")  # fmt: skip
        return
    losses = _means(training["curves"]["Loss (nats per token)"]["training"])
    # Scheduled sampling makes its inputs harder from step to step.
    if len(losses) < 10 or report["settings"]["training"]["scheduled_sampling"]:
        return
    lowest = min(losses, key=lambda point: point[1])
    if losses[-1][1] > LOSS_RISE * lowest[1]:
        yield Hint("learning_rate", "training.learning_rate", f"The training loss rose from {_number(lowest[1])} at "
                   f"step {_count(lowest[0])} to {_number(losses[-1][1])} at the end; lower {rate}, or let it decay: "
                   "training.schedule: cosine.")  # fmt: skip
    elif standstill := _standstill(report, losses):
        yield standstill


def _standstill(report: Report, losses: Points) -> Hint | None:
    """Returns a hint if neither the training nor the validation loss fell in the second half."""
    valid = report["training"]["curves"]["Perplexity"]["validation"]
    half = losses[-1][0] / 2
    early, late = ([value for step, value in valid if (step > half) == is_late] for is_late in (False, True))
    before = [value for step, value in losses if step <= half]
    if min(len(early), len(late)) < MIN_VALIDATIONS // 2 or not before or min(late) < SOLVED:
        return None
    if min(early) > STANDSTILL * min(late) or min(before) > STANDSTILL * losses[-1][1]:
        return None
    kind = report["settings"]["training"]["schedule"]["kind"]
    remedy = (
        "let the rate decay (training.schedule: plateau)"
        if kind == "constant"
        else "raise training.learning_rate or model.hidden_size, or save the time with training.early_stop"
    )
    return Hint("standstill", "training.schedule", "Neither the training nor the validation loss fell in the second "
                f"half of the steps; {remedy}.")  # fmt: skip


def _fit(report: Report) -> Iterator[Hint]:
    """Yields over-fitting (validation rises while training falls) or under-training (validation still falls)."""
    fitted, training = report["fitted"], report["training"]
    if fitted:
        # The settings of a series count in epochs.
        valid, train = (_means(list(enumerate(fitted.get(name) or (), start=1))) for name in ("valid_mse", "train_mse"))
        yield from _fit_of(report, valid, train, "validation MSE", RISE_OF_SQUARES)
    elif training:
        curves = training["curves"]
        valid = _means(curves["Perplexity"]["validation"])
        yield from _fit_of(report, valid, _means(curves["Loss (nats per token)"]["training"]), "validation perplexity",
                           RISE)  # fmt: skip


def _fit_of(report: Report, valid: Points, train: Points, name: str, rise: float) -> Iterator[Hint]:
    if len(valid) < MIN_VALIDATIONS or not train:
        return
    unit = "epoch" if report["fitted"] else "step"
    best, last = min(valid, key=lambda point: point[1]), valid[-1]
    if last[1] >= rise * best[1]:
        if _at(train, last[0]) < _at(train, best[0]):
            used = "" if report["fitted"] else " The best checkpoint is used all the same."
            dropout = _dropout(report["settings"]["model"])
            yield Hint("over_fitting", "model.output_dropout" if dropout else "training.epochs",
                       f"Over-fitting: the {name} was lowest, {_number(best[1])}, at {unit} {_count(best[0])}, and "
                       f"rose to {_number(last[1])} while the training loss fell; {dropout}lower training.epochs or "
                       f"model.hidden_size, or add data.{used}")  # fmt: skip
        return
    settings = report["settings"]["training"]
    decays = settings["schedule"]["kind"] in ("cosine", "step", "plateau")
    fall, part, words = (FALL_OF_HALF, LAST_HALF, "second half") if decays else (FALL, LAST_FIFTH, "last fifth")
    before = _at(valid, part * last[0])
    if best == last and before >= fall * last[1] and last[1] >= SOLVED:
        setting = "training.max_steps" if settings["max_steps"] else "training.epochs"
        yield Hint("under_training", setting, f"Training ended early: the {name} still fell, from {_number(before)} to "
                   f"{_number(last[1])} in the {words} of the {unit}s; raise {setting}.")  # fmt: skip


def _dropout(model: Mapping[str, Any]) -> str:
    """Returns the advice to raise the dropout rates that have an effect; empty for models without one."""
    if "output_dropout" not in model:
        return ""
    between_layers = "model.dropout, " if model["num_layers"] > 1 else ""
    return f"raise {between_layers}model.embedding_dropout and model.output_dropout, "


def _vocabulary(report: Report) -> Iterator[Hint]:
    columns = (report["words"] or {}).get("columns") or {}
    # Sides that share a vocabulary may have different entries: what one of them has often enough is learned.
    is_shared = report["settings"]["tokenizer"]["shared"] or len(columns) == 1
    groups = {"": list(columns.values())} if is_shared else {f"{name}: ": [column] for name, column in columns.items()}
    for name, members in groups.items():
        orders = [column["orders"][0] for column in members]
        frequent = sum(rank_of_count(order["ranks"], RARE) for order in orders)
        distinct = max((order["distinct"] for order in orders), default=0)
        rare = 1 - frequent / max(1, distinct)
        if distinct and rare >= RARE_SHARE:
            yield Hint("vocabulary", "tokenizer.max_size", f"{name}about {_percent(rare)} of the {_count(distinct)} "
                       f"vocabulary entries occur fewer than {RARE} times in training, too few to learn them; lower "
                       "tokenizer.max_size or raise tokenizer.min_freq.")  # fmt: skip


def rank_of_count(ranks: Sequence[Sequence[int]], count: int) -> float:
    """Returns how many entries occur at least `count` times, from some (rank, occurrences) of the frequency curve.

    Between two known ranks the curve is a straight line in logarithms (Zipf's law).
    """
    above = [rank for rank, occurrences in ranks if occurrences >= count]
    below = [rank for rank, occurrences in ranks if occurrences < count]
    if not above:
        return 0.0
    return float(above[-1]) if not below else (above[-1] * below[0]) ** 0.5


def _unknown_words(report: Report) -> Iterator[Hint]:
    scores, tokenizer = report["scores"] or {}, report["settings"]["tokenizer"]
    if not scores.get("tokens") or tokenizer["kind"] not in ("word", "char"):
        return
    share = scores.get("unk", 0) / scores["tokens"]
    column = "text" if "text" in (report["data"] or {}).get("vocabulary_sizes", ()) else "target"
    trained = ((report["words"] or {}).get("columns") or {}).get(column)
    if trained and tokenizer["min_freq"] == 1 and tokenizer["max_size"] is None:
        # Every word of the training text has an entry, so these are written as <unk> in the text itself.
        share -= trained["unknown"] / max(1, trained["tokens"])
    if share >= UNKNOWN_SHARE:
        yield Hint("unknown_words", "tokenizer.kind", f"{_percent(share)} of the held-out tokens are unknown; use "
                   "subwords (tokenizer.kind: bpe with a max_size), or a larger vocabulary.")  # fmt: skip


def _dropped_lines(report: Report) -> Iterator[Hint]:
    data = report["data"] or {}
    is_text = "text" in data.get("vocabulary_sizes", ())
    for reason, count in sorted(data.get("drops", {}).items(), key=lambda item: -item[1]):
        words, remedy = describe_drop(reason)
        share = count / max(1, data["lines_read"] or 0)
        # Empty lines of a text separate its paragraphs.
        if remedy and share >= DROPPED_SHARE and not (is_text and reason == "empty"):
            setting = "corpus.filters" if reason in DROP_REASONS else "corpus.on_bad_line"
            yield Hint("dropped_lines", setting, f"{_count(count)} of {_count(data['lines_read'])} lines "
                       f"({_percent(share)}) were dropped, {words}; {remedy}.")  # fmt: skip
    if cut := count_cut(report):
        lines = data["splits"]["train"]["lines"]
        if cut >= DROPPED_SHARE * lines:
            yield Hint("cut_lines", "corpus.filters.max_length", f"About {_percent(cut / lines)} of the training lines "
                       "were cut at corpus.filters.max_length, so the model learns to stop early; raise it, or drop "
                       "them (too_long: drop).")  # fmt: skip


def count_cut(report: Report) -> int:
    """Returns how many training lines were cut at `corpus.filters.max_length`, on the side with the most."""
    corpus = report["settings"]["corpus"] or {}
    filters = corpus.get("filters") or {}
    # A line that was cut has no <eos>; without one, cut lines look like others.
    has_eos = corpus.get("kind") == "pairs" or corpus.get("line_end") == "eos"
    if filters.get("too_long") != "cut" or not filters.get("max_length") or not has_eos:
        return 0
    columns = ((report["words"] or {}).get("columns") or {}).values()
    return max(
        (sum(count for length, count in column["lengths"] if length >= filters["max_length"]) for column in columns),
        default=0,
    )


def _translations(report: Report) -> Iterator[Hint]:
    held_out = report["held_out"] or {}
    if report["quality"] and held_out.get("lines"):
        lines = held_out["lines"]
        for name, share, setting, what in (
            ("copied", COPIED_SHARE, "corpus.train", "repeat their source although the reference does not; remove "
             "pairs with equal sides from the training data"),
            ("empty", EMPTY_SHARE, "decoding.min_length", "are empty; raise decoding.min_length, and look for empty "
             "targets in the training data"),
            ("cut", CUT_SHARE, "decoding.max_length", "reached decoding.max_length; raise it, or, if they repeat "
             "themselves, set decoding.no_repeat_ngram: 3"),
        ):  # fmt: skip
            count = held_out.get(name) or 0
            if count >= share * lines and count >= MIN_TRANSLATIONS:
                yield Hint(f"{name}_translations", setting, f"{_count(count)} of {_count(lines)} translations "
                           f"{what}.")  # fmt: skip
    faults = (report["quality"] or {}).get("faults")
    faults = ((report["quality"] or {}).get("cleaned") or {}).get("faults", faults)
    if not faults or not faults["reference_words"]:
        return
    ratio = faults["words"] / faults["reference_words"]
    penalty = f"decoding.length_penalty ({report['settings']['decoding']['length_penalty']:g})"
    if ratio < SHORT:
        yield Hint("short_translations", "decoding.length_penalty", "Translations have "
                   f"{_percent(1 - ratio)} fewer words than their references, which lowers BLEU; raise {penalty}. "
                   "Short translations of a model that has not learned enough get longer with training.")  # fmt: skip
    elif ratio > LONG:
        yield Hint("long_translations", "decoding.length_penalty", f"Translations have {_percent(ratio - 1)} more "
                   f"words than their references; lower {penalty}, or set decoding.no_repeat_ngram: 3.")  # fmt: skip


def _forecasts(report: Report) -> Iterator[Hint]:
    headline = (report["forecasts"] or {}).get("headline") or {}
    if headline.get("split") in (None, "train"):
        return
    for row in headline["errors"]:
        name, naive = best_naive(row)
        if naive is not None and row["rmse"] > BARELY * naive:
            lags, period = report["settings"]["model"]["lags"], row.get("period") or 1
            remedy = f"raise model.lags ({lags})" + (f" to a season, {period}" if period > lags else "")
            yield Hint("naive_forecasts", "model.lags", f"{row['target']}, {row['horizon']} ahead: RMSE "
                       f"{row['rmse']:.4g} is not better than that of the {name} forecast, {naive:.4g}; {remedy}, "
                       "or model.hidden_size.")  # fmt: skip
            return  # one is enough: others have the same remedy


def best_naive(row: Mapping[str, Any]) -> tuple[str, float | None]:
    """Returns the name and RMSE of the better naive forecast of a row of errors; None where there is none."""
    naive = {
        name: row[key]
        for name, key in (("persistence", "persistence_rmse"), ("seasonal naive", "seasonal_rmse"))
        if row.get(key) is not None
    }
    name = min(naive, key=lambda name: naive[name], default="persistence")
    return name, naive.get(name)


def _means(points: Points) -> Points:
    """Returns means of a tenth of the points each, at the last step of each: single batches and epochs vary."""
    size = max(1, len(points) // 10)
    return [
        (points[stop - 1][0], sum(value for _, value in points[stop - size : stop]) / size)
        for stop in range(size, len(points) + 1)
    ]


def _at(points: Points, step: float) -> float:
    """Returns the value at the last point that is not after a step."""
    return [value for at, value in points if at <= step or at == points[0][0]][-1]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"


_count = page_frame.format_count


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1000 else _count(value)


_RULES: tuple[Callable[[Report], Iterator[Hint]], ...] = (
    _measure,
    _overlap,
    _learning_rate,
    _fit,
    _translations,
    _few_lines,
    _forecasts,
    _unknown_words,
    _dropped_lines,
    _vocabulary,
)
