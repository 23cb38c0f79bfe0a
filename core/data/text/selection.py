"""Which lines of a corpus are kept, and which split each belongs to: pure functions of one line."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from core.config import corpus_settings


@dataclass(frozen=True)
class Splitting:
    """How the lines of one source are shared out.

    `by` is `none` where all go to `split`. Of `tail`, lines from `valid_start` on are validation lines and those
    from `test_start` up to `num_lines` test lines; what lies beyond is not used, but may be counted for the
    vocabulary. The hashes of the other ways are compared with the shares.
    """

    split: str
    by: Literal["none", "source", "line", "tail"] = "none"
    seed: int = 0
    valid: float = 0.0
    test: float = 0.0
    valid_start: int = 0
    test_start: int = 0
    num_lines: int = 0

    def of(self, number: int, source_text: str) -> str:
        """Returns the split of a line, by its number or its cleaned text (of pairs, the source side)."""
        if self.by == "none":
            return self.split
        if self.by == "tail":
            if not self.valid_start <= number < self.num_lines:
                return "train"
            return "test" if number >= self.test_start else "valid"
        chance = _chance(source_text if self.by == "source" else str(number), self.seed)
        return "test" if chance < self.test else "valid" if chance < self.test + self.valid else "train"


def splitting(source: str, corpus: corpus_settings.CorpusConfig, seed: int, num_lines: int) -> Splitting:
    """Returns how the lines of a source are shared out; only the training source is.

    Args:
        source: `train`, `valid` or `test`.
        corpus: says how.
        seed: of the hashes.
        num_lines: lines of the source that are used.
    """
    shares = corpus.split
    if source != "train" or not (shares.valid or shares.test):
        return Splitting(source)
    test_start = num_lines - int(num_lines * shares.test)
    return Splitting(
        split="train",
        by=shares.by or ("source" if corpus.kind == "pairs" else "tail"),
        seed=seed,
        valid=shares.valid,
        test=shares.test,
        valid_start=test_start - int(num_lines * shares.valid),
        test_start=test_start,
        num_lines=num_lines,
    )


def is_sampled(number: int, share: float, seed: int) -> bool:
    """Whether a line belongs to a seeded sample of about this share of all lines."""
    return share >= 1 or _chance(f"sample {number}", seed) < share


def reason_to_drop(filters: corpus_settings.FiltersConfig, lengths: Sequence[int], num_ends: int) -> str | None:
    """Says why a line is dropped, or None.

    Args:
        filters: the limits.
        lengths: tokens of each side, without what ends it.
        num_ends: tokens that end a side: 1 for `<eos>`.
    """
    shortest, longest = min(lengths), max(lengths)
    if shortest < filters.min_length:
        return "empty" if shortest == 0 else "too_short"
    if filters.max_length is not None and filters.too_long == "drop" and longest + num_ends > filters.max_length:
        return "too_long"
    if filters.max_ratio is not None and longest > filters.max_ratio * shortest:
        return "ratio"
    return None


def _chance(text: str, seed: int) -> float:
    """Returns a number in [0, 1) that is decided by the text and the seed."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=str(seed).encode()).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)
