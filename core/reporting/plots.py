"""Which pictures tell how a run went, or how several compare."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import markupsafe

from core.reporting import curves, word_statistics

Points = Sequence[Sequence[float]]

THROUGHPUT = "Target tokens per second"
_RADIUS, _FORGET = "Spectral radius of W_hh, largest gate", "Share of its memory that a layer keeps"
_COSINES = "Cosine between the gradients of two corpora"
_LAGS = "Gradient of the last loss, by lag"
_ONLY_LINEAR = {
    "Next-token accuracy, validation",
    "BLEU, validation, greedy",
    "Learning rate",
    THROUGHPUT,
    _RADIUS,
    _FORGET,
    _COSINES,
}
# Those whose changes are easier to see by ratio open logarithmic, the others linear.
_LOGARITHMIC = {"Perplexity", "Gradient norm before clipping", "Gradient norm by layer", _LAGS}
_MOST_LAGS = 6


class Picture(NamedTuple):
    """One picture under its title; where there are two, a reader may choose the scale."""

    title: str
    linear: markupsafe.Markup
    logarithmic: markupsafe.Markup | None = None
    opens_logarithmic: bool = False


def series(name: str, points: Points) -> curves.Series:
    """Returns points as a series."""
    return curves.Series(name, [point[0] for point in points], [point[1] for point in points])


def lines(
    title: str,
    found: Sequence[curves.Series],
    restarts: Sequence[float] = (),
    over: str = "step",
    called: str | None = None,
) -> Picture | None:
    """Draws series linearly and, if all values are above 0, logarithmically; None where there is nothing to draw.

    What is drawn by ratio, or only linearly, goes by the title; `called` is another one to show.
    """
    values = [value for one in found for value in one.values]
    if not values:
        return None
    linear = curves.draw(title, found, False, restarts, over)
    logarithmic = None
    if title not in _ONLY_LINEAR and all(value > 0 for value in values):
        logarithmic = _safe(curves.draw(title, found, True, restarts, over))
    return Picture(called or title, _safe(linear), logarithmic, title in _LOGARITHMIC and logarithmic is not None)


def of_training(training: Mapping[str, Any] | None) -> list[Picture]:
    """Draws the curves of a run."""
    drawn = []
    for title, named in training["curves"].items() if training else ():
        found = [series(name, named[name]) for name in ("training", "validation")]
        assert training is not None
        drawn.append(lines(title, found, training["restarts"]))
    return [picture for picture in drawn if picture]


def of_gradients(gradients: Mapping[str, Any] | None) -> list[Picture]:
    """Draws what was recorded of gradients: by layer, through time, and the recurrent weights that decide it."""
    if gradients is None:
        return []
    found = {name: gradients[name] for name in ("layer_norms", "cosines", "spectral_radii", "forget_gates")}
    by_layer = {name: [series(layer, points) for layer, points in layers.items()] for name, layers in found.items()}
    # Of many validations the first, the last and some between them, evenly.
    lags = gradients["norms_by_lag"]
    count = min(len(lags), _MOST_LAGS)
    chosen = [lags[round(number * (len(lags) - 1) / max(1, count - 1))] for number in range(count)]
    by_lag = [
        curves.Series(
            f"step {row['step']}",
            [lag for lag, norm in enumerate(row["norms"]) if norm],
            [norm for norm in row["norms"] if norm],
        )
        for row in chosen
    ]
    drawn = (
        lines("Gradient norm by layer", by_layer["layer_norms"]),
        lines(_COSINES, by_layer["cosines"]),
        lines(_LAGS, by_lag, over="steps back"),
        lines(_RADIUS, by_layer["spectral_radii"]),
        lines(_FORGET, by_layer["forget_gates"]),
    )
    return [picture for picture in drawn if picture]


def of_tasks(tasks: Sequence[Mapping[str, Any]]) -> list[Picture]:
    """Draws how each of several corpora was learnt."""
    drawn = [
        lines(f"Perplexity by corpus, {which}", [series(one["task"], one["curves"][which]) for one in tasks])
        for which in ("training", "validation")
    ]
    return [picture for picture in drawn if picture]


def of_words(found: Mapping[str, Any] | None) -> list[Picture]:
    """Draws the statistics of words."""
    return [Picture(title, _safe(svg)) for title, svg in word_statistics.pictures(found)] if found else []


def by_length(named: Mapping[str, Sequence[Mapping[str, Any]]], measure: str = "bleu") -> Picture | None:
    """Draws the quality of lines by their length, for one or several runs."""
    spans = sorted({_span(bucket) for buckets in named.values() for bucket in buckets})
    if len(spans) < 2:
        return None
    found = [
        curves.Series(name, [spans.index(_span(one)) for one in buckets], [one[measure] for one in buckets])
        for name, buckets in named.items()
    ]
    title = "BLEU by length of the reference"
    labels = [words_from_to(*span) for span in spans]
    return Picture(title, _safe(curves.bars(title, labels, found, "words of the reference")))


def _span(bucket: Mapping[str, Any]) -> tuple[int, float]:
    longest = bucket["longest"]
    return bucket["shortest"], float("inf") if longest is None else longest


def words_from_to(shortest: int, longest: float | None) -> str:
    """Names the lengths of a bucket."""
    if longest is None or longest == float("inf"):
        return f"≥ {shortest}"
    return f"{shortest}–{longest}"


def _safe(svg: str) -> markupsafe.Markup:
    return markupsafe.Markup(svg)  # noqa: S704 (drawn here, from numbers; its texts are escaped)
