"""Smoothing of n-gram counts: interpolated modified Kneser-Ney, Katz back-off with Good-Turing discounts, Laplace.

In the formulas w is a token, h the context before it, h' that context without its first token, c a count, and V the
size of the vocabulary.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from core.config import ngram_settings
from core.data import columns, ngram_counts
from core.models import weights
from core.models.ngram import levels, ngram_model, pruning, tables

Array = npt.NDArray[Any]

KATZ_CUTOFF = 5  # higher counts are not discounted, as Katz 1987 recommends
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)  # as KenLM's --discount_fallback
_EPSILON = 1e-12  # relative; smaller differences are rounding errors


class Estimate(NamedTuple):
    """An estimated model and statistics of its estimation.

    Attributes:
        model: the model, whose tables are those of a mapped file.
        num_ngrams: number of distinct n-grams of each order, of those that stay.
        discounts: by order. Of kneser_ney, the discounts D₁, D₂ and D₃₊, subtracted from counts of 1, 2, and 3 or more;
            of good_turing, the factors d₁, d₂, … of counts of 1, 2, …; of laplace none.
    """

    model: ngram_model.Ngram
    num_ngrams: tuple[int, ...]
    discounts: tuple[tuple[float, ...], ...]


def estimate(
    config: ngram_settings.NgramConfig,
    vocabulary_size: int,
    blocks: Iterable[ngram_counts.Counts],
    beginning: tuple[int, ...],
    folder: Path,
    line_end: int | None = None,
) -> Estimate:
    """Estimates the model of a token stream from the counts of its n-grams of order N.

    Counts and probabilities are columns on disk, of which a range of contexts at a time is in memory.

    Args:
        config: order and smoothing.
        vocabulary_size: V; token ids are below it, the padding of n-grams at the end of the stream is V.
        blocks: its distinct n-grams of N tokens and their counts, in lexicographic order.
        beginning: the first N tokens of the stream, padded likewise.
        folder: for files; the model stays usable when they are removed.
        line_end: id of the token between lines, if the n-grams were counted by line; needed with `unit: line`.
    """
    assert (line_end is None) == (config.unit == "stream"), "the unit says how the n-grams were counted"
    built = levels.build(blocks, config.order, vocabulary_size, beginning, line_end, folder)
    rules: dict[str, type[_Rule]] = {"kneser_ney": _KneserNey, "good_turing": _GoodTuring, "laplace": _Laplace}
    made: dict[str, columns.Column] = {}
    discounts: list[tuple[float, ...]] = []
    # Mapped, as they are read in the order of suffixes; of the levels below only what is needed.
    lower = [np.array([1.0 / vocabulary_size])]
    below = pruning.Kept(built[0], 0, folder)
    for level, above in zip(built, (*built[1:], None), strict=True):
        rule = rules[config.smoothing](config, level, above, folder)
        discounts.append(rule.discounts)
        probability = columns.Column(folder / f"probability-{level.number}", np.float64)
        backoff = columns.Column(folder / f"backoff-{level.number - 1}", np.float64)
        for slab in level.slabs():
            probability_G, backoff_C = rule.weigh(slab, lower)
            probability.append(probability_G)
            backoff.append(backoff_C)
        lower = [*lower[:2], probability.close().mapped()]
        kept = pruning.Kept(level, config.threshold(level.number), folder)
        made[tables.probability(level.number)] = kept.select(probability)
        if level.number > 1:
            made[tables.keys(level.number)] = kept.keys(below)
            made |= tables.coded_backoff(level.number - 1, below.select(backoff.close()), folder)
        below = kept
    del lower
    # Of the vocabulary only what occurs.
    num_unigrams = sum(int(np.count_nonzero(counts_G)) for counts_G in built[0].counts.blocks(levels.ROWS_AT_ONCE))
    path = tables.write(folder, made, line_end)
    model = ngram_model.Ngram(config, vocabulary_size, weights.map_file(path, str(path)), path)
    num_ngrams = [len(made[tables.keys(level.number)]) for level in built[1:]]
    return Estimate(model, (num_unigrams, *num_ngrams), tuple(discounts))


class _Rule(Protocol):
    """A kind of smoothing at one level, given the levels of counts below and above it."""

    discounts: tuple[float, ...]

    def __init__(
        self, config: ngram_settings.NgramConfig, level: levels.Level, above: levels.Level | None, folder: Path
    ) -> None: ...

    def weigh(self, slab: levels.Slab, lower: Sequence[Array]) -> "_Weights":
        """Returns the weights of a slab, given the probabilities of the levels 0 (of any token) … n − 1.

        Of those between 1 and n − 1 none are given.
        """


class _Weights(NamedTuple):
    """The part of a model that comes from a slab: probabilities of its rows, back-off weights of its contexts."""

    probability_G: Array
    backoff_C: Array


class _KneserNey:
    """Interpolated modified Kneser-Ney smoothing.

    p(w | h) = (c(hw) − D(c(hw))) / Σ_v c(hv) + γ(h) p(w | h'), where γ(h) gives the discounted mass of h to the shorter
    context. Below the highest order, c is the continuation count: the number of different tokens before the n-gram in
    the text, of which the beginning of the stream, or of a line, is one; of an n-gram that begins with the beginning of
    a line, before which nothing is, it is the number of occurrences. Unigrams are interpolated with the uniform
    distribution 1 / V. An n-gram that is left out is discounted by its whole count; the discounts are those of all.

    Source: Chen and Goodman 1998, An empirical study of smoothing techniques for language modeling, section 3; in this
    form Heafield et al. 2013, Scalable modified Kneser-Ney language model estimation.
    """

    def __init__(
        self, config: ngram_settings.NgramConfig, level: levels.Level, above: levels.Level | None, folder: Path
    ) -> None:
        self._level, self._threshold = level, config.threshold(level.number)
        self._counts = level.counts if above is None else _continuation_counts(level, above, folder)
        self.discounts: tuple[float, ...] = _chen_goodman_discounts(_counts_of_counts(self._counts, 4))

    def weigh(self, slab: levels.Slab, lower: Sequence[Array]) -> _Weights:
        """See `_Rule`."""
        rows, contexts_G = slab.rows, slab.contexts_G
        counts_G = self._counts.read(rows.start, rows.stop)
        discount_G = np.array((0.0, *self.discounts))[np.minimum(counts_G, 3)]
        if self._threshold:
            # What is left out gives all of its count to the shorter context.
            discount_G = np.where(self._level.is_rare(rows, self._threshold), counts_G, discount_G)
        total_C = slab.sums(counts_G)
        # A context without continuations leaves all its mass to the shorter one.
        with np.errstate(invalid="ignore"):
            gamma_C = np.where(total_C > 0, slab.sums(discount_G) / total_C, 1.0)
            discounted_G = (counts_G - discount_G) / total_C[contexts_G]
        discounted_G[counts_G == 0] = 0.0
        discounted_G += gamma_C[contexts_G] * lower[-1][self._level.suffixes.read(rows.start, rows.stop)]
        return _Weights(discounted_G, gamma_C)


def _continuation_counts(level: levels.Level, above: levels.Level, folder: Path) -> columns.Column:
    """Returns the continuation count of each n-gram of a level."""
    made = columns.Column(folder / f"continuations-{level.number}", np.int64)
    counts = made.writable(len(level))
    for suffixes_G in above.suffixes.blocks(levels.ROWS_AT_ONCE):
        # Each n-gram one order above is one distinct token before its suffix.
        rows, times = np.unique(suffixes_G, return_counts=True)
        counts[rows] += times
    if level.first >= 0:
        counts[level.first] += 1
    if level.number > 1:
        for start in range(*level.line_rows, levels.ROWS_AT_ONCE):
            stop = min(start + levels.ROWS_AT_ONCE, level.line_rows[1])
            counts[start:stop] = level.counts.read(start, stop)
    return made


def _counts_of_counts(counts: columns.Column, highest: int) -> tuple[int, ...]:
    """Returns the numbers of n-grams with the counts 0, 1, … `highest`."""
    n = np.zeros(highest + 2, np.int64)
    for counts_G in counts.blocks(levels.ROWS_AT_ONCE):
        n += np.bincount(np.minimum(counts_G, highest + 1), minlength=highest + 2)
    return tuple(n[:-1].tolist())


def _chen_goodman_discounts(n: Sequence[int]) -> tuple[float, float, float]:
    """Returns the discounts D₁, D₂, D₃₊ from the numbers n₀, n₁ … n₄ of n-grams with the counts 0, 1 … 4.

    With Y = n₁ / (n₁ + 2 n₂): D₁ = 1 − 2 Y n₂ / n₁, D₂ = 2 − 3 Y n₃ / n₂, D₃₊ = 3 − 4 Y n₄ / n₃. Where these are
    undefined, negative or above the count (little text, or rare words cut from the vocabulary), the fallback ½, 1, 1½
    of KenLM is used.

    Source: Chen and Goodman 1998, section 3.
    """
    _, n1, n2, n3, n4 = n
    if min(n1, n2, n3) == 0:
        return FALLBACK_DISCOUNTS
    y = n1 / (n1 + 2 * n2)
    discounts = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    is_valid = all(0 <= discount <= count for count, discount in enumerate(discounts, 1))
    return discounts if is_valid else FALLBACK_DISCOUNTS


class _GoodTuring:
    """Katz back-off with Good-Turing discounts.

    A count r up to a cutoff is multiplied by d_r < 1. The mass that this frees goes to unseen tokens: after a context
    in proportion to their probabilities after the shorter context, among unigrams evenly. If a context frees no mass
    (because all its counts are high), its total is increased by 1, as SRILM does.

    Source: Katz 1987, Estimation of probabilities from sparse data; the discounts with a cutoff are given by Chen and
    Goodman 1998, section 2.5.
    """

    def __init__(
        self, config: ngram_settings.NgramConfig, level: levels.Level, above: levels.Level | None, folder: Path
    ) -> None:
        del above, folder  # counts of this level are all that it needs
        self._level, self._threshold = level, config.threshold(level.number)
        n = _counts_of_counts(level.counts, KATZ_CUTOFF + 1)
        self._num_unseen = n[0]
        # With every token of the vocabulary seen, there is none to give discounted mass to.
        self.discounts = () if level.number == 1 and not n[0] else _katz_discounts(n)

    def weigh(self, slab: levels.Slab, lower: Sequence[Array]) -> _Weights:
        """See `_Rule`."""
        rows, contexts_G = slab.rows, slab.contexts_G
        counts_G = self._level.counts.read(rows.start, rows.stop)
        # Counts of 0, and those above the cutoff, keep their value.
        factors = np.array((1.0, *self.discounts, 1.0))
        discounted_G = counts_G * factors[np.minimum(counts_G, len(self.discounts) + 1)]
        # What is left out counts as unseen.
        is_rare_G = self._level.is_rare(rows, self._threshold)
        discounted_G[is_rare_G] = 0.0
        total_C = slab.sums(counts_G)
        is_last = self._level.number == 1 and not self._num_unseen
        frees_no_mass_C = (total_C - slab.sums(discounted_G) < _EPSILON * total_C) & (not is_last)
        with np.errstate(invalid="ignore", divide="ignore"):
            seen_G = discounted_G / (total_C + frees_no_mass_C)[contexts_G]
            if self._level.number == 1:
                # Summed by torch, whose order of additions models of before have.
                unseen_mass = 1 - float(torch.from_numpy(seen_G).sum())
                unseen = np.float64(unseen_mass) / np.float64(self._num_unseen)
                return _Weights(np.where(counts_G == 0, unseen, seen_G), np.ones(1))
            # α(h) = (1 − Σ_seen p(w | h)) / (1 − Σ_seen p(w | h')).
            free_mass_C = 1 - slab.sums(seen_G)
            lower_G = lower[-1][self._level.suffixes.read(rows.start, rows.stop)]
            unseen_mass_C = 1 - slab.sums(np.where(is_rare_G, 0.0, lower_G))
            # Where all tokens were seen after a context, its free mass goes back to them.
            all_seen_C = (unseen_mass_C < _EPSILON) & (total_C > 0)
            seen_G = seen_G / np.where(all_seen_C, 1 - free_mass_C, 1.0)[contexts_G]
            return _Weights(seen_G, np.where(all_seen_C | (total_C == 0), 1.0, free_mass_C / unseen_mass_C))


def _katz_discounts(n: Sequence[int]) -> tuple[float, ...]:
    """Returns the factors d_r for r = 1 … k, with the highest k up to the cutoff for which all lie between 0 and 1.

    With n_r n-grams of count r and A = (k + 1) n_{k+1} / n₁: d_r = ((r + 1) n_{r+1} / (r n_r) − A) / (1 − A). Without
    such a k there are none: counts are not discounted.

    Args:
        n: the numbers n₀, n₁, … of n-grams with the counts 0, 1, … up to one above the cutoff.
    """
    for cutoff in range(KATZ_CUTOFF, 0, -1):
        if min(n[1 : cutoff + 2]) == 0:
            continue
        a = (cutoff + 1) * n[cutoff + 1] / n[1]
        if a == 1:  # 1 − A divides below
            continue
        factors = tuple(((r + 1) * n[r + 1] / (r * n[r]) - a) / (1 - a) for r in range(1, cutoff + 1))
        if all(0 < factor < 1 for factor in factors):
            return factors
    return ()


class _Laplace:
    """Laplace smoothing: p(w | h) = (c(hw) + ε p(w)) / (c(h) + ε), p(w) = (c(w) + ε/V) / (c + ε).

    D2L gives it for contexts of up to two tokens, always with the unigram probability p(w); longer contexts follow
    the same rule. c(h) is the number of tokens that follow h, so that the end of the stream does not count. After a
    context that was never seen, where ε = 0 gives 0 / 0, the probability is p(w).

    Source: Zhang et al., Dive into Deep Learning (2021), section 8.3 "Language Models and the Dataset".
    """

    discounts: tuple[float, ...] = ()

    def __init__(
        self, config: ngram_settings.NgramConfig, level: levels.Level, above: levels.Level | None, folder: Path
    ) -> None:
        del above, folder  # counts of this level are all that it needs
        self._level = level
        # The last ε is that of all longer n-grams, too.
        self._epsilon = config.epsilons[min(level.number, len(config.epsilons)) - 1]

    def weigh(self, slab: levels.Slab, lower: Sequence[Array]) -> _Weights:
        """See `_Rule`."""
        rows, epsilon, size = slab.rows, self._epsilon, self._level.vocabulary_size
        counts_G = self._level.counts.read(rows.start, rows.stop)
        total_C = slab.sums(counts_G)
        if self._level.number == 1:
            return _Weights((counts_G + epsilon / size) / (total_C + epsilon), np.ones(1))
        added_G = epsilon * lower[1][self._level.keys.read(rows.start, rows.stop) % size]
        with np.errstate(invalid="ignore"):
            backoff_C = np.where(total_C > 0, epsilon / (total_C + epsilon), 1.0)
        return _Weights((counts_G + added_G) / (total_C + epsilon)[slab.contexts_G], backoff_C)
