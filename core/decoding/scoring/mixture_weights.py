"""Weights of a linear mixture of models, fitted on held-out text by expectation maximization (EM)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from core import errors
from core.decoding.lines import results

Array = npt.NDArray[np.float64]

# Nats a token: a smaller gain of an iteration ends the fit.
_SMALLEST_GAIN = 1e-9

_NOTHING_TO_FIT = "scoring.mixture.fit_on: has no token to fit weights on; use a longer text"


class Fit(NamedTuple):
    """Fitted weights.

    Attributes:
        weights: of the models, in their order; they sum to 1.
        num_tokens: tokens that the weights were fitted on.
        num_impossible: further tokens, which no model holds possible.
        mean_nlls: nats a token with equal weights, and after each iteration; it never rises.
    """

    weights: tuple[float, ...]
    num_tokens: int
    num_impossible: int
    mean_nlls: tuple[float, ...]


def log_probs(scores: Sequence[results.Score]) -> Array:
    """Returns the log-probabilities of all tokens of scored lines, whose tokens are scored one by one."""
    return -np.array([token.nll_nats for score in scores for token in score.tokens or ()], dtype=np.float64)


def fit(parts: Sequence[Sequence[Array]], max_iterations: int) -> Fit:
    """Returns the weights λ that maximize Σ_n log Σ_m λ_m p_m(n), from equal ones on.

    E: the responsibility of model m for token n is λ_m p_m(n) / Σ_k λ_k p_k(n). M: λ_m is the mean of its
    responsibilities. The likelihood is concave in λ, so that EM cannot end in a local maximum.

    Args:
        parts: of each part of the held-out text, by each model the log-probabilities of its tokens, in nats.
        max_iterations: most iterations; a gain below 1e-9 nats a token ends the fit.

    Raises:
        DataError: there is no token that a model holds possible.

    Source: Dempster, Laird and Rubin 1977, Maximum likelihood from incomplete data via the EM algorithm; Jelinek and
    Mercer 1980, Interpolated estimation of Markov source parameters from sparse data.
    """
    if not any(part[0].size for part in parts):
        raise errors.DataError(_NOTHING_TO_FIT)
    log_probs_MN: Array = np.concatenate([np.stack(part) for part in parts], axis=1)
    # No weights make such a token possible: it says nothing about them, and would make all sums infinite.
    is_possible_N = log_probs_MN.max(axis=0) > -np.inf
    # The probabilities relative to the best model's: none underflows, and the best is 1.
    best_N = log_probs_MN[:, is_possible_N].max(axis=0, initial=-np.inf)
    ratios_MN = np.exp(log_probs_MN[:, is_possible_N] - best_N)
    num_tokens = int(is_possible_N.sum())
    if not num_tokens:
        raise errors.DataError(_NOTHING_TO_FIT)
    weights_M = np.full(len(log_probs_MN), 1.0 / len(log_probs_MN))
    mixed_N = weights_M @ ratios_MN
    mean_nlls = [-float(np.mean(np.log(mixed_N) + best_N))]
    for _ in range(max_iterations):
        weights_M = weights_M * (ratios_MN / mixed_N).mean(axis=1)
        weights_M /= weights_M.sum()
        mixed_N = weights_M @ ratios_MN
        mean_nlls.append(-float(np.mean(np.log(mixed_N) + best_N)))
        if mean_nlls[-2] - mean_nlls[-1] < _SMALLEST_GAIN:
            break
    weights = tuple(float(weight) for weight in weights_M)
    return Fit(weights, num_tokens, log_probs_MN.shape[1] - num_tokens, tuple(mean_nlls))
