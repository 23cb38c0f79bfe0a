"""Selection of lines: filters, and the split that each line belongs to.

All are pure functions of one line, so any worker decides the same.
"""

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from core.config import corpus_settings

_DRAW_SEED = 0  # not that of a run: runs with other seeds show the same lines


@dataclass(frozen=True)
class Splitting:
    """Assignment of the lines of one source to splits.

    Attributes:
        split: the split of the source; with `by: none`, that of all its lines.
        by: `tail` sets the last lines aside; `source` and `line` compare a hash of the source side, or of the line
            number, with the shares. With `source`, equal source sides are never in two splits.
        seed: of the hashes.
        valid, test: shares of the lines, for the hashes.
        valid_start, test_start: the first validation and test line, for `tail`.
        num_lines: number of lines that are used. Lines beyond it may be counted for the vocabulary, as `train`.
    """

    split: str
    by: Literal["none", "source", "line", "tail"] = "none"
    seed: int = 0
    valid: float = 0.0
    test: float = 0.0
    valid_start: int = 0
    test_start: int = 0
    num_lines: int = 0

    def assign(self, number: int, source_text: str) -> str:
        """Returns the split of a line, given its number and its cleaned text (of a pair, the source side)."""
        if self.by == "none":
            return self.split
        if self.by == "tail":
            # Lines beyond the limit follow the test lines: counted for the vocabulary, they are training lines.
            if not self.valid_start <= number < self.num_lines:
                return "train"
            return "test" if number >= self.test_start else "valid"
        uniform = _uniform(source_text if self.by == "source" else str(number), self.seed)
        # The test lines have the lowest numbers, so another share of validation lines leaves them as they are.
        return "test" if uniform < self.test else "valid" if uniform < self.test + self.valid else "train"


def make_splitting(source: str, corpus: corpus_settings.CorpusConfig, seed: int, num_lines: int) -> Splitting:
    """Returns the assignment for a source; only the training source is divided.

    Args:
        source: `train`, `valid` or `test`.
        corpus: the settings, with the shares of the splits.
        seed: of the hashes.
        num_lines: number of lines of the source that are used.
    """
    shares = corpus.split
    # Held-out sources of their own are never divided.
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
    """Returns True if a line belongs to a seeded sample of about this share of all lines."""
    # The prefix makes this independent of a split by the hash of the same line number.
    return share >= 1 or _uniform(f"sample {number}", seed) < share


def draw_by_length(lengths: Sequence[int], count: int) -> list[int]:
    """Returns the numbers of `count` lines of all lengths, in ascending order: one of each quantile of the lengths.

    What is drawn depends on the lengths alone, so that all runs that hold out the same lines show the same ones.

    Args:
        lengths: of each line, in any unit.
        count: number of lines to draw; all where there are not more.
    """
    num_lines = len(lengths)
    if count == 0 or count >= num_lines:
        return list(range(num_lines))[:count]
    # Lines of equal length are in an order of their own, not in that of the file.
    in_order = sorted(range(num_lines), key=lambda number: (lengths[number], _uniform(f"line {number}", _DRAW_SEED)))
    bounds = [quantile * num_lines // count for quantile in range(count + 1)]
    return sorted(
        in_order[start + int(_uniform(f"quantile {quantile}", _DRAW_SEED) * (stop - start))]
        for quantile, (start, stop) in enumerate(itertools.pairwise(bounds))
    )


def line_filter(filters: corpus_settings.FiltersConfig, num_eos: int) -> Callable[[Sequence[int]], str | None]:
    """Returns the function that returns the reason to drop a line of given lengths, or None to keep it.

    The lengths are the numbers of tokens of each side, without `<eos>`.

    Args:
        filters: the limits.
        num_eos: number of `<eos>` tokens at the end of a side, 0 or 1; they count for `max_length` alone.
    """
    # Read once: a corpus has many more lines than settings.
    min_length, max_ratio = filters.min_length, filters.max_ratio
    drops_longest = filters.max_length is not None and filters.too_long == "drop"
    max_length = (filters.max_length or 0) - num_eos

    def reason_to_drop(lengths: Sequence[int]) -> str | None:
        # The order matters: a line is counted under the first reason that holds.
        shortest, longest = min(lengths), max(lengths)
        if shortest < min_length:
            return "empty" if shortest == 0 else "too_short"
        if drops_longest and longest > max_length:
            return "too_long"
        if max_ratio is not None and longest > max_ratio * shortest:
            return "ratio"
        return None

    return reason_to_drop


def _uniform(text: str, seed: int) -> float:
    """Returns a uniform pseudo-random number in [0, 1), a function of the text and the seed."""
    # Keyed, so that another seed gives an unrelated assignment; Python's own `hash` differs between processes.
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=str(seed).encode()).digest()
    # The upper 53 bits, the precision of a double.
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)
