"""Lines as a page shows them: translations beside their references with their differences marked, scored lines."""

import collections
import re
from collections.abc import Mapping, Sequence
from typing import Any

import markupsafe

from core.data.text import scripts
from core.reporting import attention_map, figures

# Spaces are kept, so that the text is shown unchanged. Of text without them, each character is a word.
_WORD_OR_SPACES = re.compile(rf"\s+|[{scripts.LETTERS}]|[^\s{scripts.LETTERS}]+")


def mark_differences(text: str, other: str) -> list[tuple[str, bool]]:
    """Splits a text into words and spaces; marks words that the other text lacks or has less often."""
    remaining = collections.Counter(_WORD_OR_SPACES.findall(other))
    words = []
    for word in _WORD_OR_SPACES.findall(text):
        is_marked = not word.isspace() and remaining[word] <= 0
        remaining[word] -= 1  # each occurrence there excuses one here
        words.append((word, is_marked))
    return words


def translation(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a held-out line with its translation and reference, ready to be shown."""
    hypothesis, reference, attention = row["hypothesis"] or "", row["reference"], row["attention"]
    # The model writes text as cleaned: what cleaning took away is not an error of the translation.
    cleaned = row.get("cleaned_reference")
    expected = reference if cleaned is None else cleaned
    notes = [f"score {row['score_nats']:.2f} nats"] if row["score_nats"] is not None else []
    notes += [f"chrF {row['chrf']:.1f}"] if row["chrf"] is not None else []
    svg = attention_map.draw(f"attention map: {hypothesis}", attention) if attention else None
    return {
        **row,
        "hypothesis": [(hypothesis, False)] if expected is None else mark_differences(hypothesis, expected),
        "expected": None if expected is None else mark_differences(expected, hypothesis),
        "written": None if cleaned is None else reference,
        "is_same": attention is None or attention_map.matches(hypothesis, attention),
        "note": ", ".join(notes),
        "map": markupsafe.Markup(svg) if svg else None,  # noqa: S704 (its texts are escaped)
    }


def by_extreme(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Returns translations by title: those drawn, the worst and the best.

    A line may be in two of them; its attention map is with the first.
    """

    def is_of_all_lengths(row: Mapping[str, Any]) -> bool:
        # Besides the lines that were drawn, those with a map.
        return bool(row["is_drawn"]) or row["extreme"] is None

    def extreme(kind: str) -> list[Mapping[str, Any]]:
        chosen = sorted((row for row in rows if row["extreme"] == kind), key=lambda row: row["chrf"])
        return [{**row, "map": None} if is_of_all_lengths(row) else row for row in chosen]

    of_all_lengths = [row for row in rows if is_of_all_lengths(row)]
    groups = [
        ("", of_all_lengths),
        ("The worst, by chrF of the line", extreme("worst")),
        ("The best, by chrF of the line", extreme("best")[::-1]),
    ]
    return [(title, members) for title, members in groups if members]


def scored(samples: Mapping[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Returns scored lines of text by title."""
    titles = {
        "drawn": "Of all lengths",
        "worst": "The least expected",
        "best": "The most expected",
    }
    return [
        (title, [{**row, "perplexity": figures.format_number(row["perplexity"])} for row in samples[name]])
        for name, title in titles.items()
        if samples.get(name)
    ]
