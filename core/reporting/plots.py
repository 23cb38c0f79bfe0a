"""Plots on the pages of one run and of several."""

import datetime
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import markupsafe

from core.reporting import curves, figures, word_statistics

Points = Sequence[Sequence[float]]

THROUGHPUT = "Target tokens per second"
_RADIUS, _FORGET = "Spectral radius of W_hh, largest gate", "Mean forget gate"
_COSINES = "Gradient cosine of two corpora"
_LAGS = "Gradient norm by lag"
# Plots without a logarithmic scale: their values are shares, or may be 0 or negative.
_ONLY_LINEAR = {
    "Next-token accuracy, validation",
    "BLEU, validation, greedy",
    "Learning rate",
    THROUGHPUT,
    _RADIUS,
    _FORGET,
    _COSINES,
}
# Plots that open with the logarithmic scale, because their relative changes matter; the others open linear.
_LOGARITHMIC = {"Perplexity", "Gradient norm before clipping", "Gradient norm by layer", _LAGS}
_MAX_LAG_SERIES = 6


class Plot(NamedTuple):
    """One plot with its title; if it has a logarithmic version, the reader can switch between both."""

    title: str
    linear: markupsafe.Markup
    logarithmic: markupsafe.Markup | None = None
    opens_logarithmic: bool = False


def to_series(name: str, points: Points) -> curves.Series:
    """Converts (step, value) points to a series; infinite values, which have no place on an axis, are left out."""
    finite = [point for point in points if math.isfinite(point[1])]
    return curves.Series(name, [point[0] for point in finite], [point[1] for point in finite])


def plot_lines(
    title: str,
    series: Sequence[curves.Series],
    restarts: Sequence[float] = (),
    x_label: str = "step",
    shown_title: str | None = None,
    best: float | None = None,
) -> Plot | None:
    """Plots series linearly and, if all values are above 0, logarithmically; None if there are no values.

    Args:
        title: decides which scales the plot has and which one it opens with.
        series: the lines.
        restarts: steps to mark.
        x_label: label of the x axis.
        shown_title: title on the page, if it is another one.
        best: step of the best checkpoint, to mark.
    """
    values = [value for line in series for value in line.values]
    if not values:
        return None
    linear = curves.plot_lines(title, series, False, restarts, x_label, best)
    logarithmic = None
    if title not in _ONLY_LINEAR and all(value > 0 for value in values):
        logarithmic = _safe(curves.plot_lines(title, series, True, restarts, x_label, best))
    return Plot(shown_title or title, _safe(linear), logarithmic, title in _LOGARITHMIC and logarithmic is not None)


def plot_training(training: Mapping[str, Any] | None) -> list[Plot]:
    """Plots the training and validation curves of a run."""
    if training is None:
        return []
    best = (training["best_validation"] or {}).get("step")
    plots = [
        plot_lines(
            title,
            [to_series(name, curve[name]) for name in ("training", "validation")],
            training["restarts"],
            best=best if curve["validation"] else None,
        )
        for title, curve in training["curves"].items()
    ]
    return [plot for plot in plots if plot]


def plot_fit(fitted: Mapping[str, Any] | None) -> list[Plot]:
    """Plots the errors of a series' training and validation rows over the epochs of its fit."""
    if fitted is None:
        return []
    series = [
        to_series(name, list(enumerate(fitted.get(key) or (), start=1)))
        for name, key in (("training", "train_mse"), ("validation", "valid_mse"))
    ]
    plot = plot_lines("Mean squared error", series, x_label="epoch")
    return [plot] if plot else []


def plot_forecast(sample: Mapping[str, Any] | None) -> list[Plot]:
    """Plots forecast and actual values of the held-out rows."""
    if not sample:
        return []
    rows = sample["rows"]
    has_times = all(row["time"] for row in rows)
    times = [_instant(row["time"]) if has_times else row["line"] for row in rows]
    known = [number for number, row in enumerate(rows) if row["actual"] is not None]
    lines = [
        curves.TimeLine("actual", [times[number] for number in known], [rows[number]["actual"] for number in known]),
        curves.TimeLine("forecast", times, [row["forecast"] for row in rows]),
    ]
    title = f"{sample['target']}, {figures.steps_ahead(sample)}, {sample['split']} rows"
    svg = curves.plot_times(title, lines, [], "time" if has_times else "row", sample["target"])
    return [Plot(title, _safe(svg))]


def _instant(label: str) -> float | datetime.datetime:
    """Returns the time that a forecast is labelled with: a number, or a date in ISO 8601."""
    try:
        return float(label)
    except ValueError:
        return datetime.datetime.fromisoformat(label)


def plot_gradients(gradients: Mapping[str, Any] | None) -> list[Plot]:
    """Plots gradient norms by layer and by lag, and the recurrent weights and gates on which they depend."""
    if gradients is None:
        return []
    names = ("layer_norms", "cosines", "spectral_radii", "forget_gates")
    by_layer = {name: [to_series(layer, points) for layer, points in gradients[name].items()] for name in names}
    # Of many validations: the first, the last, and evenly spaced ones in between.
    lags = gradients["norms_by_lag"]
    count = min(len(lags), _MAX_LAG_SERIES)
    selected = [lags[round(number * (len(lags) - 1) / max(1, count - 1))] for number in range(count)]
    # Norms of 0, or not finite in the run log, have no point on a logarithmic axis.
    by_lag = [
        curves.Series(
            f"step {row['step']}",
            [lag for lag, norm in enumerate(row["norms"]) if norm],
            [norm for norm in row["norms"] if norm],
        )
        for row in selected
    ]
    plots = (
        plot_lines("Gradient norm by layer", by_layer["layer_norms"]),
        plot_lines(_COSINES, by_layer["cosines"]),
        plot_lines(_LAGS, by_lag, x_label="lag (steps back)"),
        plot_lines(_RADIUS, by_layer["spectral_radii"]),
        plot_lines(_FORGET, by_layer["forget_gates"]),
    )
    return [plot for plot in plots if plot]


def plot_corpora(corpora: Sequence[Mapping[str, Any]]) -> list[Plot]:
    """Plots the perplexity of each of several corpora during training."""
    plots = [
        plot_lines(f"Perplexity by corpus, {split}", [to_series(row["task"], row["curves"][split]) for row in corpora])
        for split in ("training", "validation")
    ]
    return [plot for plot in plots if plot]


def plot_words(statistics: Mapping[str, Any] | None) -> list[Plot]:
    """Plots the word statistics of a dataset."""
    return [Plot(title, _safe(svg)) for title, svg in word_statistics.make_plots(statistics)] if statistics else []


def plot_by_length(runs: Mapping[str, Sequence[Mapping[str, Any]]], metric: str = "bleu") -> Plot | None:
    """Plots quality by length of the reference for one or several runs; None for fewer than two buckets.

    Args:
        runs: buckets of lengths by name of a run.
        metric: key of the value in a bucket.
    """
    # Of all runs: a bucket that one of them lacks leaves a gap in its bars.
    ranges = sorted({_range(bucket) for buckets in runs.values() for bucket in buckets})
    if len(ranges) < 2:
        return None
    series = [
        curves.Series(name, [ranges.index(_range(row)) for row in buckets], [row[metric] for row in buckets])
        for name, buckets in runs.items()
    ]
    title = "BLEU by length of the reference"
    labels = [format_range(*bounds) for bounds in ranges]
    return Plot(title, _safe(curves.plot_bars(title, labels, series, "words in the reference")))


def _range(bucket: Mapping[str, Any]) -> tuple[int, float]:
    longest = bucket["longest"]
    return bucket["shortest"], float("inf") if longest is None else longest


def format_range(shortest: int, longest: float | None) -> str:
    """Formats the range of lengths of a bucket."""
    if longest is None or longest == float("inf"):
        return f"≥ {shortest}"
    return f"{shortest}–{longest}"


def _safe(svg: str) -> markupsafe.Markup:
    return markupsafe.Markup(svg)  # noqa: S704 (drawn here, from numbers; its texts are escaped)
