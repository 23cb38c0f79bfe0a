"""Rows of the table of effects: two values of a setting, and what differs between them."""

from collections.abc import Callable
from typing import NamedTuple

from tests.jobs.effects import experiments


class Effect(NamedTuple):
    """Difference that two values of a setting make, and what they leave equal.

    Attributes:
        values: two values in YAML; None for the setting left out.
        run: the experiment.
        base: its base.
        given: overrides for both values.
        differs: the result that differs.
        same: a result that is equal; empty for none.
    """

    values: tuple[str | None, str | None]
    run: Callable[[str, tuple[str, ...]], experiments.Results]
    base: str
    given: tuple[str, ...] = ()
    differs: str = "weights"
    same: str = ""


class Elsewhere(NamedTuple):
    """The name of another test, of which the setting's effect is a part: it needs processes, a network or a cluster."""

    test: str


def trained(
    base: str, low: str | None, high: str | None, *given: str, differs: str = "weights", same: str = ""
) -> Effect:
    """Returns the effect on a training."""
    return Effect((low, high), experiments.training, base, given, differs, same)


def text(low: str | None, high: str | None, *given: str, differs: str = "weights", same: str = "") -> Effect:
    """Returns the effect on the training of a language model."""
    return trained("text", low, high, *given, differs=differs, same=same)


def pairs(low: str | None, high: str | None, *given: str, differs: str = "weights", same: str = "") -> Effect:
    """Returns the effect on the training of a translation model."""
    return trained("pairs", low, high, *given, differs=differs, same=same)


def dataset(base: str, low: str | None, high: str | None, *given: str) -> Effect:
    """Returns the effect on a dataset."""
    return Effect((low, high), experiments.dataset, base, given, "dataset")


def translated(low: str | None, high: str | None, *given: str, base: str = "") -> Effect:
    """Returns the effect on translations."""
    return Effect((low, high), experiments.translation, base, given, "rows")


def generated(low: str | None, high: str | None, *given: str) -> Effect:
    """Returns the effect on generated text."""
    return Effect((low, high), experiments.generation, "", given, "text")


def scored(low: str | None, high: str | None, *given: str, base: str = "") -> Effect:
    """Returns the effect on scores."""
    return Effect((low, high), experiments.scoring, base, given, "rows")
