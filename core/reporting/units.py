"""Units of perplexities: their keys in reports, and in words for pages."""

from collections.abc import Mapping
from typing import Any

KEYS = ("unit", "lanes", "eos_counted", "unknown_words")


def of(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keys of the unit that stand beside a perplexity; fewer where an older release wrote the figures."""
    return {name: figures[name] for name in KEYS if name in figures}


def describe(figures: Mapping[str, Any]) -> str | None:
    """Returns a unit in words, such as `by stream in 20 lanes, <eos> counted, unknown words scored as <unk>`."""
    if "unit" not in figures:
        return None
    words = f"by {figures['unit']}"
    if figures.get("lanes") and figures["lanes"] > 1:
        words += f" in {figures['lanes']} lanes"
    if "eos_counted" in figures:
        words += ", <eos> counted" if figures["eos_counted"] else ", without <eos>"
    if "unknown_words" in figures:
        words += f", unknown words {figures['unknown_words']}"
    return words
