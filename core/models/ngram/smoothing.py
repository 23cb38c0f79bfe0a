"""Smoothing of n-gram counts: interpolated modified Kneser-Ney, Katz back-off with Good-Turing discounts, Laplace.

In the formulas w is a token, h the context before it, h' that context without its first token, c a count, and V the
size of the vocabulary.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.config import ngram_settings
from core.data import ngram_counts
from core.models.ngram import ngram_model

KATZ_CUTOFF = 5  # higher counts are not discounted, as Katz 1987 recommends
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)  # as KenLM's --discount_fallback
_MAX_INT32 = (1 << 31) - 1
# N-grams whose suffixes are looked up together: bounds the memory of the sorted keys.
_ROWS_AT_ONCE = 1 << 18
_EPSILON = 1e-12  # relative; smaller differences are rounding errors


class Level(NamedTuple):
    """The distinct n-grams of one order n, sorted by key; see `core.models.ngram.ngram_model`.

    The first token of a line's first n-grams is the beginning of the line, which only occurs as a context.

    Rows are 32-bit numbers where they fit, which is half the memory.

    Attributes:
        keys_G: their keys; at level 1 the tokens themselves, with a row for every entry of the vocabulary.
        counts_G: their numbers of occurrences.
        contexts_G: rows, one level below, of the n-grams without their last token; at level 1 zero.
        suffixes_G: rows, one level below, of the n-grams without their first token; at level 1 zero.
        has_beginning_G: whether they begin with the beginning of a line.
        first: the row of the n-gram at the beginning of a stream; -1 if the stream is shorter, or counted by line.
        num_contexts: rows of the level below; at level 1 one.
    """

    keys_G: Tensor
    counts_G: Tensor
    contexts_G: Tensor
    suffixes_G: Tensor
    has_beginning_G: Tensor
    first: int
    num_contexts: int


class Estimate(NamedTuple):
    """An estimated model and statistics of its estimation.

    Attributes:
        model: the model.
        num_ngrams: number of distinct n-grams of each order.
        discounts: by order. Of kneser_ney, the discounts D₁, D₂ and D₃₊, subtracted from counts of 1, 2, and 3 or more;
            of good_turing, the factors d₁, d₂, … of counts of 1, 2, …; of laplace none.
    """

    model: ngram_model.Ngram
    num_ngrams: tuple[int, ...]
    discounts: tuple[tuple[float, ...], ...]


def estimate(
    config: ngram_settings.NgramConfig,
    vocabulary_size: int,
    counts: ngram_counts.Counts,
    beginning_N: Tensor,
    line_end: int | None = None,
) -> Estimate:
    """Estimates the model of a token stream from the counts of its n-grams of order N.

    Args:
        config: order and smoothing.
        vocabulary_size: V; token ids are below it, the padding of n-grams at the end of the stream is V.
        counts: of its n-grams of N tokens.
        beginning_N: the first N tokens of the stream, padded likewise.
        line_end: id of the token between lines, if the n-grams were counted by line; needed with `unit: line`.
    """
    assert (line_end is None) == (config.unit == "stream"), "the unit says how the n-grams were counted"
    tables: dict[str, Tensor] = {}
    num_ngrams: list[int] = []

    def levels() -> Iterator[Level]:
        # One after the other: all levels together, with what is known of their rows, would be twice the model.
        for number, level in enumerate(_levels(vocabulary_size, counts, beginning_N, line_end), 1):
            if number > 1:
                tables[f"keys_{number}"] = level.keys_G
            num_ngrams.append(len(level.keys_G) if number > 1 else int((level.counts_G > 0).sum()))
            yield level

    if config.smoothing == "kneser_ney":
        smoothed, discounts = _kneser_ney(levels(), vocabulary_size)
    elif config.smoothing == "good_turing":
        smoothed, discounts = _good_turing(levels())
    else:
        smoothed, discounts = _laplace(levels(), vocabulary_size, config.epsilons), [()] * config.order
    tables |= smoothed
    if line_end is not None:
        tables[ngram_model.LINE_END] = torch.tensor(line_end)
    return Estimate(ngram_model.Ngram(config, vocabulary_size, tables), tuple(num_ngrams), tuple(discounts))


def _levels(
    vocabulary_size: int, counts: ngram_counts.Counts, beginning_N: Tensor, line_end: int | None
) -> Iterator[Level]:
    """Yields the n-grams of the orders 1 … N, derived from those of order N: each is a prefix of some."""
    ngrams_RN, counts_R = counts
    order, row_type = ngrams_RN.shape[1], np.int32 if len(ngrams_RN) <= _MAX_INT32 else np.int64
    tokens_V = torch.arange(vocabulary_size)
    # Indices of the n-grams that have not ended yet, and the rows of their prefixes.
    index_R, row_R = np.arange(len(ngrams_RN), dtype=row_type), ngrams_RN[:, 0].astype(row_type)
    first, has_beginning_G = int(beginning_N[0]), torch.zeros(vocabulary_size, dtype=torch.bool)
    token_counts_R = counts_R
    if line_end is not None and order > 1:
        # The end of a line is followed by padding, the beginning of one by a token of the line.
        begins_line_R = (row_R == line_end) & (ngrams_RN[:, 1] < vocabulary_size)
        token_counts_R, first, has_beginning_G = counts_R * ~begins_line_R, -1, tokens_V == line_end
    unigram_counts_V = torch.zeros(vocabulary_size, dtype=torch.int64)
    unigram_counts_V.index_add_(0, torch.from_numpy(row_R), torch.from_numpy(token_counts_R.copy()))
    zeros_V = torch.zeros(vocabulary_size, dtype=torch.int32)
    level = Level(tokens_V, unigram_counts_V, zeros_V, zeros_V, has_beginning_G, first, 1)
    yield level
    for column in range(1, order):
        tokens_R = ngrams_RN[index_R, column]
        # N-grams that reach into the padding are complete up to the column before, and end here.
        is_complete_R = tokens_R < vocabulary_size
        index_R, tokens_R, row_R = index_R[is_complete_R], tokens_R[is_complete_R], row_R[is_complete_R]
        keys_R = row_R * np.int64(vocabulary_size) + tokens_R
        # Equal keys are adjacent: n-grams in lexicographic order have ascending keys.
        is_new_R = np.diff(keys_R, prepend=-1) != 0
        starts = np.flatnonzero(is_new_R)
        keys_G, contexts_G, tokens_G = keys_R[starts], row_R[starts], tokens_R[starts]
        counts_G = np.add.reduceat(counts_R[index_R], starts) if len(starts) else np.zeros(0, np.int64)
        # From 0, as the first is new.
        row_R = np.subtract(np.cumsum(is_new_R, dtype=row_type), 1, dtype=row_type)
        del keys_R, tokens_R, is_complete_R, is_new_R, starts  # as large as the text, and the next level is built last
        level = _next_level(level, vocabulary_size, (keys_G, counts_G, contexts_G, tokens_G), beginning_N[column])
        yield level


def _next_level(below: Level, vocabulary_size: int, columns: Sequence[npt.NDArray[Any]], token: Tensor) -> Level:
    """Returns the level above another, given keys, counts, contexts and last tokens; `token` ends the first n-gram."""
    keys_G, counts_G, contexts_G = (torch.from_numpy(column) for column in columns[:3])
    tokens_G = torch.from_numpy(columns[3].view(np.int32))
    suffixes_G = tokens_G.to(contexts_G.dtype)
    # The suffix of (context, token) is (suffix of the context, token).
    for start in range(0, len(keys_G) if below.num_contexts > 1 else 0, _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        wanted = below.suffixes_G[contexts_G[rows]].long() * vocabulary_size + tokens_G[rows]
        suffixes_G[rows] = ngram_model.find_rows(below.keys_G, wanted)
    first = below.first
    if first >= 0:
        key = -1 if int(token) >= vocabulary_size else first * vocabulary_size + int(token)
        first = int(ngram_model.find_rows(keys_G, torch.tensor([key])))
    has_beginning_G = below.has_beginning_G[contexts_G]
    return Level(keys_G, counts_G, contexts_G, suffixes_G, has_beginning_G, first, len(below.keys_G))


def _kneser_ney(levels: Iterable[Level], vocabulary_size: int) -> tuple[dict[str, Tensor], list[tuple[float, ...]]]:
    """Returns tables and discounts of interpolated modified Kneser-Ney smoothing.

    p(w | h) = (c(hw) − D(c(hw))) / Σ_v c(hv) + γ(h) p(w | h'), where γ(h) gives the discounted mass of h to the shorter
    context. Below the highest order, c is the continuation count: the number of different tokens before the n-gram in
    the text, of which the beginning of the stream, or of a line, is one; of an n-gram that begins with the beginning of
    a line, before which nothing is, it is the number of occurrences. Unigrams are interpolated with the uniform
    distribution 1 / V.

    Source: Chen and Goodman 1998, An empirical study of smoothing techniques for language modeling, section 3; in this
    form Heafield et al. 2013, Scalable modified Kneser-Ney language model estimation.
    """
    tables: dict[str, Tensor] = {}
    discounts: list[tuple[float, ...]] = []
    lower_G = torch.full((1,), 1.0 / vocabulary_size, dtype=torch.float64)
    for number, (level, above) in enumerate(itertools.pairwise(itertools.chain(levels, (None,))), 1):
        assert level is not None, "only the last level has none above it"
        counts_G = level.counts_G
        if above is not None:
            # Each n-gram one order above is one distinct token before its suffix.
            counts_G = torch.bincount(above.suffixes_G, minlength=len(counts_G))
            if level.first >= 0:
                counts_G[level.first] += 1
            if number > 1:
                counts_G = torch.where(level.has_beginning_G, level.counts_G, counts_G)
        order_discounts = _chen_goodman_discounts(counts_G)
        discounts.append(order_discounts)
        discount_G = torch.tensor((0.0, *order_discounts), dtype=torch.float64)[counts_G.clamp(max=3)]
        total_C = _sum_by_context(level, counts_G)
        # A context without continuations leaves all its mass to the shorter one.
        gamma_C = torch.where(total_C > 0, _sum_by_context(level, discount_G) / total_C, 1.0)
        # In place: of the highest orders each of these is as large as a table of the model.
        discounted_G = torch.sub(counts_G, discount_G, out=discount_G).div_(total_C[level.contexts_G])
        discounted_G.masked_fill_(counts_G == 0, 0.0)
        lower_G = discounted_G.add_(gamma_C[level.contexts_G].mul_(lower_G[level.suffixes_G]))
        tables[f"probability_{number}"] = lower_G
        if number > 1:
            tables[f"backoff_{number - 1}"] = gamma_C
    return tables, discounts


def _chen_goodman_discounts(counts_G: Tensor) -> tuple[float, float, float]:
    """Returns the discounts D₁, D₂, D₃₊ from the numbers n₁ … n₄ of n-grams with the counts 1 … 4.

    With Y = n₁ / (n₁ + 2 n₂): D₁ = 1 − 2 Y n₂ / n₁, D₂ = 2 − 3 Y n₃ / n₂, D₃₊ = 3 − 4 Y n₄ / n₃. Where these are
    undefined, negative or above the count (little text, or rare words cut from the vocabulary), the fallback ½, 1, 1½
    of KenLM is used.

    Source: Chen and Goodman 1998, section 3.
    """
    n1, n2, n3, n4 = (int((counts_G == count).sum()) for count in (1, 2, 3, 4))
    if min(n1, n2, n3) == 0:
        return FALLBACK_DISCOUNTS
    y = n1 / (n1 + 2 * n2)
    discounts = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    is_valid = all(0 <= discount <= count for count, discount in enumerate(discounts, 1))
    return discounts if is_valid else FALLBACK_DISCOUNTS


def _good_turing(levels: Iterable[Level]) -> tuple[dict[str, Tensor], list[tuple[float, ...]]]:
    """Returns tables and discount factors of Katz back-off with Good-Turing discounts.

    A count r up to a cutoff is multiplied by d_r < 1. The mass that this frees goes to unseen tokens: after a context
    in proportion to their probabilities after the shorter context, among unigrams evenly. If a context frees no mass
    (because all its counts are high), its total is increased by 1, as SRILM does.

    Source: Katz 1987, Estimation of probabilities from sparse data; the discounts with a cutoff are given by Chen and
    Goodman 1998, section 2.5.
    """
    tables: dict[str, Tensor] = {}
    discounts = []
    lower_G = torch.zeros(1, dtype=torch.float64)
    for number, level in enumerate(levels, 1):
        order_factors = _katz_discounts(level.counts_G)
        unseen_C = torch.full((level.num_contexts,), float("inf"))
        if number == 1:
            unseen_C = (level.counts_G == 0).sum()[None]
            # With every token of the vocabulary seen, there is none to give discounted mass to.
            order_factors = order_factors if unseen_C else ()
        discounts.append(order_factors)
        # Counts of 0, and those above the cutoff, keep their value.
        factors = torch.tensor((1.0, *order_factors, 1.0), dtype=torch.float64)
        counts_G = level.counts_G * factors[level.counts_G.clamp(max=len(order_factors) + 1)]
        total_C = _sum_by_context(level, level.counts_G)
        frees_no_mass_C = (total_C - _sum_by_context(level, counts_G) < _EPSILON * total_C) & (unseen_C > 0)
        seen_G = counts_G / (total_C + frees_no_mass_C)[level.contexts_G]
        if number == 1:
            unseen_probability = (1 - seen_G.sum()) / unseen_C
            lower_G = torch.where(level.counts_G == 0, unseen_probability, seen_G)
        else:
            # α(h) = (1 − Σ_seen p(w | h)) / (1 − Σ_seen p(w | h')).
            free_mass_C = 1 - _sum_by_context(level, seen_G)
            unseen_mass_C = 1 - _sum_by_context(level, lower_G[level.suffixes_G])
            # Where all tokens were seen after a context, its free mass goes back to them.
            all_seen_C = (unseen_mass_C < _EPSILON) & (total_C > 0)
            seen_G = seen_G / torch.where(all_seen_C, 1 - free_mass_C, 1.0)[level.contexts_G]
            tables[f"backoff_{number - 1}"] = torch.where(all_seen_C | (total_C == 0), 1.0, free_mass_C / unseen_mass_C)
            lower_G = seen_G
        tables[f"probability_{number}"] = lower_G
    return tables, discounts


def _katz_discounts(counts_G: Tensor) -> tuple[float, ...]:
    """Returns the factors d_r for r = 1 … k, with the highest k up to the cutoff for which all lie between 0 and 1.

    With n_r n-grams of count r and A = (k + 1) n_{k+1} / n₁: d_r = ((r + 1) n_{r+1} / (r n_r) − A) / (1 − A). Without
    such a k there are none: counts are not discounted.
    """
    n = [0] + [int((counts_G == count).sum()) for count in range(1, KATZ_CUTOFF + 2)]
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


def _laplace(levels: Iterable[Level], vocabulary_size: int, epsilons: Sequence[float]) -> dict[str, Tensor]:
    """Returns the tables of Laplace smoothing: p(w | h) = (c(hw) + ε p(w)) / (c(h) + ε), p(w) = (c(w) + ε/V) / (c + ε).

    D2L gives it for contexts of up to two tokens, always with the unigram probability p(w); longer contexts follow
    the same rule. c(h) is the number of tokens that follow h, so that the end of the stream does not count. After a
    context that was never seen, where ε = 0 gives 0 / 0, the probability is p(w).

    Source: Zhang et al., Dive into Deep Learning (2021), section 8.3 "Language Models and the Dataset".
    """
    tables: dict[str, Tensor] = {}
    unigram_V = torch.zeros(0)
    for number, level in enumerate(levels, 1):
        # The last ε is that of all longer n-grams, too.
        epsilon = epsilons[min(number, len(epsilons)) - 1]
        total_C = _sum_by_context(level, level.counts_G)
        if number == 1:
            unigram_V = (level.counts_G.double() + epsilon / vocabulary_size) / (total_C + epsilon)
            tables["probability_1"] = unigram_V
            continue
        added_G = epsilon * unigram_V[level.keys_G % vocabulary_size]
        tables[f"probability_{number}"] = (level.counts_G + added_G) / (total_C + epsilon)[level.contexts_G]
        tables[f"backoff_{number - 1}"] = torch.where(total_C > 0, epsilon / (total_C + epsilon), 1.0)
    return tables


def _sum_by_context(level: Level, values_G: Tensor) -> Tensor:
    """Returns the sum of the values of all rows of each context."""
    return torch.zeros(level.num_contexts, dtype=torch.float64).index_add(0, level.contexts_G, values_G.double())
