"""From counts to probabilities: modified Kneser-Ney, Good-Turing with Katz back-off, and the documents' Laplace."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from core.config import ngram_settings
from core.models.ngram import ngram_model

KATZ_CUTOFF = 5  # counts above are taken as they are
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
_SMALL = 1e-12


class Level(NamedTuple):
    """The distinct runs of n tokens, sorted: see `core.models.ngram.ngram_model`.

    Attributes:
        keys_G: the key of each; of level 1 the token itself, every entry of the vocabulary having a row.
        counts_G: how often each occurs.
        contexts_G: for each the row, one level below, of the run without its last token; of level 1 zero.
        suffixes_G: the row, one level below, of the run without its first token; of level 1 zero.
        first: the row of the run that begins the stream; -1 if the stream is shorter.
        num_contexts: rows of the level below; of level 1 one.
    """

    keys_G: Tensor
    counts_G: Tensor
    contexts_G: Tensor
    suffixes_G: Tensor
    first: int
    num_contexts: int


class Estimate(NamedTuple):
    """A model, and what is worth knowing about how it was made.

    Attributes:
        model: with its tables.
        num_runs: distinct runs of each order.
        discounts: what is taken off a count, by order: of kneser_ney from counts 1, 2, 3 and more; of good_turing
            what a count of 1, 2, … is multiplied by; of laplace nothing.
    """

    model: ngram_model.Ngram
    num_runs: tuple[int, ...]
    discounts: tuple[tuple[float, ...], ...]


def estimate(
    config: ngram_settings.NgramConfig,
    vocabulary_size: int,
    runs_RN: Tensor,
    counts_R: Tensor,
    beginning_N: Tensor,
) -> Estimate:
    """Makes the model of a stream.

    Args:
        config: order and smoothing.
        vocabulary_size: V; ids are below it, and what fills up runs at the stream's end is not.
        runs_RN: distinct runs of N tokens in lexicographic order.
        counts_R: how often each occurs.
        beginning_N: the first N tokens of the stream, filled up likewise.
    """
    levels = _levels(vocabulary_size, runs_RN, counts_R, beginning_N)
    if config.smoothing == "kneser_ney":
        tables, discounts = _kneser_ney(levels, vocabulary_size)
    elif config.smoothing == "good_turing":
        tables, discounts = _good_turing(levels)
    else:
        tables, discounts = _laplace(levels, vocabulary_size, config.epsilons), [()] * len(levels)
    tables |= {f"keys_{number}": level.keys_G for number, level in enumerate(levels, 1) if number > 1}
    num_runs = (int((levels[0].counts_G > 0).sum()), *(len(level.keys_G) for level in levels[1:]))
    return Estimate(ngram_model.Ngram(config, vocabulary_size, tables), num_runs, tuple(discounts))


def _levels(vocabulary_size: int, runs_RN: Tensor, counts_R: Tensor, beginning_N: Tensor) -> list[Level]:
    """Derives the runs of every length from those of the greatest."""
    tokens_V = torch.arange(vocabulary_size)
    zeros_V = torch.zeros(vocabulary_size, dtype=torch.int64)
    row_R, first = runs_RN[:, 0], int(beginning_N[0])
    levels = [Level(tokens_V, zeros_V.index_add(0, row_R, counts_R), zeros_V, zeros_V, first, 1)]
    for column in range(1, runs_RN.shape[1]):
        below = levels[-1]
        is_whole_R = runs_RN[:, column] < vocabulary_size
        runs_RN, counts_R, row_R = runs_RN[is_whole_R], counts_R[is_whole_R], row_R[is_whole_R]
        keys_G, row_R = torch.unique_consecutive(row_R * vocabulary_size + runs_RN[:, column], return_inverse=True)
        counts_G = torch.zeros(len(keys_G), dtype=torch.int64).index_add(0, row_R, counts_R)
        contexts_G, tokens_G = keys_G // vocabulary_size, keys_G % vocabulary_size
        suffixes_G = tokens_G
        if column > 1:
            suffixes_G = ngram_model.find(below.keys_G, below.suffixes_G[contexts_G] * vocabulary_size + tokens_G)
        if first >= 0:
            begins = int(beginning_N[column])
            wanted = -1 if begins >= vocabulary_size else first * vocabulary_size + begins
            first = int(ngram_model.find(keys_G, torch.tensor([wanted])))
        levels.append(Level(keys_G, counts_G, contexts_G, suffixes_G, first, len(below.keys_G)))
    return levels


def _kneser_ney(levels: Sequence[Level], vocabulary_size: int) -> tuple[dict[str, Tensor], list[tuple[float, ...]]]:
    """Interpolated modified Kneser-Ney.

    p(w | h) = (c(hw) − D(c(hw))) / c(h·) + γ(h) p(w | h'), where h' is h without its first token, and γ(h) gives to
    the shorter contexts just what the discounts took. Below the highest order c counts the different tokens that a
    run was seen after; the beginning of the stream is one of them. Below single tokens is the uniform distribution.

    Source: Chen and Goodman 1998, section 3; in this form Heafield et al. 2013.
    """
    tables: dict[str, Tensor] = {}
    discounts: list[tuple[float, ...]] = []
    lower_G = torch.full((1,), 1.0 / vocabulary_size, dtype=torch.float64)
    for number, level in enumerate(levels, 1):
        counts_G = level.counts_G
        if number < len(levels):
            above = levels[number]
            counts_G = torch.bincount(above.suffixes_G, minlength=len(counts_G))
            if level.first >= 0:
                counts_G[level.first] += 1
        taken = _chen_goodman_discounts(counts_G)
        discounts.append(taken)
        taken_G = torch.tensor((0.0, *taken), dtype=torch.float64)[counts_G.clamp(max=3)]
        total_C = _sums(level, counts_G)
        weight_C = torch.where(total_C > 0, _sums(level, taken_G) / total_C, 1.0)
        own_G = torch.where(counts_G > 0, (counts_G - taken_G) / total_C[level.contexts_G], 0.0)
        lower_G = own_G + weight_C[level.contexts_G] * lower_G[level.suffixes_G]
        tables[f"probability_{number}"] = lower_G
        if number > 1:
            tables[f"backoff_{number - 1}"] = weight_C
    return tables, discounts


def _chen_goodman_discounts(counts_G: Tensor) -> tuple[float, float, float]:
    """What is taken off counts of 1, 2, and 3 or more, from how many runs have the counts 1 … 4.

    Where the formulas have no answer, or one that takes more than the count or less than nothing (little text, or a
    vocabulary that rare words were cut from), ½, 1 and 1½ are taken, as KenLM does on request.

    Source: Chen and Goodman 1998, section 3.
    """
    n1, n2, n3, n4 = (int((counts_G == count).sum()) for count in (1, 2, 3, 4))
    if min(n1, n2, n3) == 0:
        return FALLBACK_DISCOUNTS
    share = n1 / (n1 + 2 * n2)
    found = (1 - 2 * share * n2 / n1, 2 - 3 * share * n3 / n2, 3 - 4 * share * n4 / n3)
    fits = all(0 <= taken <= count for count, taken in enumerate(found, 1))
    return found if fits else FALLBACK_DISCOUNTS


def _good_turing(levels: Sequence[Level]) -> tuple[dict[str, Tensor], list[tuple[float, ...]]]:
    """Katz back-off with Good-Turing discounts.

    A count r up to a cutoff is multiplied by d_r < 1, and what that leaves goes to what was not seen: after a
    context by the probabilities of the shorter one, among single tokens evenly. Where a context leaves nothing (all
    its counts are high), its total is taken one higher, as SRILM does.

    Source: Katz 1987; the discounts with a cutoff as Chen and Goodman 1998, section 2.5, give them.
    """
    tables: dict[str, Tensor] = {}
    discounts = []
    lower_G = torch.zeros(1, dtype=torch.float64)
    for number, level in enumerate(levels, 1):
        kept = _katz_discounts(level.counts_G)
        unseen_C = torch.full((level.num_contexts,), float("inf"))
        if number == 1:
            unseen_C = (level.counts_G == 0).sum()[None]
            kept = kept if unseen_C else ()
        discounts.append(kept)
        factors = torch.tensor((1.0, *kept, 1.0), dtype=torch.float64)
        counts_G = level.counts_G * factors[level.counts_G.clamp(max=len(kept) + 1)]
        total_C = _sums(level, level.counts_G)
        nothing_C = (total_C - _sums(level, counts_G) < _SMALL * total_C) & (unseen_C > 0)
        own_G = counts_G / (total_C + nothing_C)[level.contexts_G]
        if number == 1:
            evenly = (1 - own_G.sum()) / unseen_C
            lower_G = torch.where(level.counts_G == 0, evenly, own_G)
        else:
            left_C = 1 - _sums(level, own_G)
            room_C = 1 - _sums(level, lower_G[level.suffixes_G])
            # Where all entries were seen there is nobody to give to: what is left goes back to them.
            is_full_C = (room_C < _SMALL) & (total_C > 0)
            own_G = own_G / torch.where(is_full_C, 1 - left_C, 1.0)[level.contexts_G]
            tables[f"backoff_{number - 1}"] = torch.where(is_full_C | (total_C == 0), 1.0, left_C / room_C)
            lower_G = own_G
        tables[f"probability_{number}"] = lower_G
    return tables, discounts


def _katz_discounts(counts_G: Tensor) -> tuple[float, ...]:
    """d_r for r = 1 … k, with the highest k up to the cutoff for which all lie between 0 and 1; else none."""
    numbers = [0] + [int((counts_G == count).sum()) for count in range(1, KATZ_CUTOFF + 2)]
    for cutoff in range(KATZ_CUTOFF, 0, -1):
        if min(numbers[1 : cutoff + 2]) == 0:
            continue
        rest = (cutoff + 1) * numbers[cutoff + 1] / numbers[1]
        if rest == 1:
            continue
        found = tuple(((r + 1) * numbers[r + 1] / (r * numbers[r]) - rest) / (1 - rest) for r in range(1, cutoff + 1))
        if all(0 < factor < 1 for factor in found):
            return found
    return ()


def _laplace(levels: Sequence[Level], vocabulary_size: int, epsilons: Sequence[float]) -> dict[str, Tensor]:
    """The documents' smoothing: p(w | h) = (n(hw) + ε p(w)) / (n(h) + ε), with p(w) = (n(w) + ε/V) / (n + ε).

    They print it for up to two tokens of context, always with the single token's p(w); longer ones go by the same
    rule. n(h) is how often something follows h: the last run of the stream is no context. A context that was never
    seen, where ε = 0 leaves 0 / 0, has p(w).

    Source: document 000 section 8.3.1.
    """
    tables: dict[str, Tensor] = {}
    single_V = torch.zeros(0)
    for number, level in enumerate(levels, 1):
        epsilon = epsilons[min(number, len(epsilons)) - 1]
        total_C = _sums(level, level.counts_G)
        if number == 1:
            single_V = (level.counts_G.double() + epsilon / vocabulary_size) / (total_C + epsilon)
            tables["probability_1"] = single_V
            continue
        added_G = epsilon * single_V[level.keys_G % vocabulary_size]
        tables[f"probability_{number}"] = (level.counts_G + added_G) / (total_C + epsilon)[level.contexts_G]
        tables[f"backoff_{number - 1}"] = torch.where(total_C > 0, epsilon / (total_C + epsilon), 1.0)
    return tables


def _sums(level: Level, values_G: Tensor) -> Tensor:
    """Adds up the values of all rows of each context."""
    return torch.zeros(level.num_contexts, dtype=torch.float64).index_add(0, level.contexts_G, values_G.double())
