"""Quality to expect of a model that is trained as `init` chooses, by the size of its corpus.

Measured on public corpora cut to sizes, with the presets of `core.config.presets`, on held-out text that is the same
for all sizes (`tests/benchmarks/README.md`, "Quality by size").
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Expected(NamedTuple):
    """Quality that was measured on a corpus, at a size.

    Attributes:
        corpus: what it is, for a reader who compares it with a corpus of their own.
        value: BLEU with the tokenizer 13a and one reference, or bits per character; between two measured sizes
            interpolated by the logarithm of the size.
        bound: `about`; `less than` or `more than`, where the size lies outside those that were measured.
    """

    corpus: str
    value: float
    bound: str


# Sizes are of what `init` is given: pairs, or words.
BLEU: Mapping[str, Sequence[tuple[int, float]]] = {
    "everyday sentences (Tatoeba, English–French)": ((1_000, 5.1), (3_000, 12.2), (10_000, 24.6)),
    "captions (Multi30k, German–English)": ((1_000, 19.5), (3_000, 28.0)),
}
BITS_PER_CHARACTER: Mapping[str, Sequence[tuple[int, float]]] = {
    "encyclopedic text (WikiText-2)": ((30_000, 2.304), (100_000, 2.138)),
}


def of_pairs(num_pairs: int) -> list[Expected]:
    """Returns the BLEU to expect, for each corpus that was measured."""
    return [_expected(corpus, rows, num_pairs, grows=True) for corpus, rows in BLEU.items()]


def of_text(num_words: int) -> list[Expected]:
    """Returns the bits per character to expect, for each corpus that was measured."""
    return [_expected(corpus, rows, num_words, grows=False) for corpus, rows in BITS_PER_CHARACTER.items()]


def _expected(corpus: str, rows: Sequence[tuple[int, float]], size: int, grows: bool) -> Expected:
    """Returns a value from the measured sizes, which ascend.

    Args:
        corpus: its description.
        rows: sizes and measured values.
        size: of the corpus at hand.
        grows: whether the value grows with the size.
    """
    (smallest, first), (largest, last) = rows[0], rows[-1]
    if size < smallest:
        return Expected(corpus, first, "less than" if grows else "more than")
    if size > largest:
        return Expected(corpus, last, "more than" if grows else "less than")
    for (low, before), (high, after) in itertools.pairwise(rows):
        if size <= high:
            share = math.log(size / low) / math.log(high / low)
            return Expected(corpus, before + share * (after - before), "about")
    return Expected(corpus, last, "about")


def sentence(kind: str, size: int) -> str:
    """Returns what models reached on corpora of a size, in a sentence.

    Args:
        kind: `pairs` or `text`.
        size: number of pairs, or of words.
    """
    expected = of_pairs(size) if kind == "pairs" else of_text(size)
    name, digits = ("BLEU", 0) if kind == "pairs" else ("bits per character", 1)
    values = " and ".join(f"{each.bound} {each.value:.{digits}f} for {each.corpus}" for each in expected)
    unit = "pairs" if kind == "pairs" else "words"
    return (
        f"With as many {unit}, models that init configured reached {name} {values}; more varied text is harder, "
        "text that repeats itself easier."
    )
