"""Settings of the mixture of several models in scoring, by kind."""

import math
from typing import Any, Literal, Self

import pydantic

from core.config import section


def _weights(description: str) -> Any:
    return section.operational((), description)


class LinearConfig(section.Section):
    """Linear interpolation: p(w | h) = Σ λ_m p_m(w | h), with weights that sum to 1.

    Source: Jelinek and Mercer 1980, Interpolated estimation of Markov source parameters from sparse data; of recurrent
    models with n-gram models: Mikolov et al. 2010, Recurrent neural network based language model, and Mikolov et al.
    2011, Empirical evaluation and combination of advanced language modeling techniques.
    """

    kind: Literal["linear"] = section.operational("linear", "linear: the weighted mean of probabilities")
    weights: tuple[section.Float, ...] = _weights(
        "weights of the runs, in their order, which sum to 1; empty: equal weights, or those fitted on fit_on"
    )
    fit_on: str | None = section.operational(
        None, "held-out file of lines on which the weights are fitted by EM; null: none", min_length=1
    )
    iterations: int = section.operational(
        100, "most iterations of EM; it ends earlier where the likelihood no longer rises", ge=1, le=10_000
    )

    @pydantic.model_validator(mode="after")
    def _check_weights(self) -> Self:
        _refuse_negative(self.weights)
        if self.weights and abs(math.fsum(self.weights) - 1.0) > 1e-6:
            raise ValueError(f"weights: sum to {math.fsum(self.weights):g}; give weights that sum to 1")
        if self.weights and self.fit_on is not None:
            raise ValueError("weights: exclude fit_on, which fits them; keep one")
        return self


class LogLinearConfig(section.Section):
    """Log-linear interpolation: p(w | h) ∝ Π p_m(w | h)^λ_m, normalized over the vocabulary.

    Source: Klakow 1998, Log-linear interpolation of language models.
    """

    kind: Literal["log_linear"] = section.operational(
        "log_linear", "log_linear: the weighted sum of log-probabilities, normalized over the vocabulary"
    )
    weights: tuple[section.Float, ...] = _weights("weights of the runs, in their order; empty: equal ones of sum 1")

    @pydantic.model_validator(mode="after")
    def _check_weights(self) -> Self:
        _refuse_negative(self.weights)
        return self


class RankingConfig(section.Section):
    """A ranking score of each line, from forward and backward models: the weighted sum of its log-probabilities.

    Not a probability: the product of what two models say of the same line does not sum to 1 over all lines.

    Source: Peters et al. 2018, Deep contextualized word representations, section 3.1 (both directions of a language
    model, whose log-likelihoods are added).
    """

    kind: Literal["ranking"] = section.operational(
        "ranking",
        "ranking: for each line the weighted sum of its log-probabilities by every run, forward or backward, which is "
        "not a probability, and has no perplexity",
    )
    weights: tuple[section.Float, ...] = _weights("weights of the runs, in their order; empty: equal ones of sum 1")

    @pydantic.model_validator(mode="after")
    def _check_weights(self) -> Self:
        _refuse_negative(self.weights)
        return self


MixtureConfig = LinearConfig | LogLinearConfig | RankingConfig


def is_default(mixture: MixtureConfig) -> bool:
    """Returns whether nothing was set that needs several models; the number of iterations alone does not."""
    return mixture.kind == "linear" and not mixture.weights and mixture.fit_on is None


def weights_of(mixture: MixtureConfig, num_models: int) -> tuple[float, ...]:
    """Returns the weight of each model: those of the settings, else equal ones."""
    return mixture.weights or (1.0 / num_models,) * num_models


def _refuse_negative(weights: tuple[float, ...]) -> None:
    if weights and (min(weights) < 0 or max(weights) == 0):
        raise ValueError("weights: must not be negative, nor all 0; correct them")
