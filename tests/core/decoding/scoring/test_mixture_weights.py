"""EM of mixture weights: worked examples and its law, that the likelihood never falls."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import errors
from core.decoding.scoring import mixture_weights


def _fit(*probabilities: list[float], iterations: int = 1000) -> mixture_weights.Fit:
    with np.errstate(divide="ignore"):
        return mixture_weights.fit([[np.log(np.array(row)) for row in probabilities]], iterations)


def test_the_weights_of_two_tokens_worked_by_hand() -> None:
    # 0.6 λ (0.1 λ + 0.6 (1 − λ)) = 0.6 λ (0.6 − 0.5 λ) is largest at λ = 0.6, where it is 0.6 · 0.6 · 0.3.
    fit = _fit([0.6, 0.1], [0.0, 0.6])
    assert fit.weights == pytest.approx((0.6, 0.4), abs=1e-4)
    assert fit.mean_nlls[-1] == pytest.approx(-math.log(0.6 * 0.6 * 0.3) / 2, abs=1e-8)


def test_the_first_iteration_worked_by_hand() -> None:
    # Responsibilities of the first model from equal weights: 0.5 / (0.5 + 0.25) and 0.1 / (0.1 + 0.3).
    fit = _fit([0.5, 0.1], [0.25, 0.3], iterations=1)
    assert fit.weights[0] == pytest.approx((2 / 3 + 1 / 4) / 2)
    assert fit.mean_nlls[0] == pytest.approx(-(math.log(0.375) + math.log(0.2)) / 2)


@given(
    st.lists(
        st.tuples(*[st.floats(1e-30, 1.0)] * 3),
        min_size=1,
        max_size=20,
    )
)
def test_no_iteration_lowers_the_likelihood_of_the_held_out_text(tokens: list[tuple[float, float, float]]) -> None:
    fit = _fit(*(list(row) for row in zip(*tokens, strict=True)), iterations=30)
    assert all(after <= before + 1e-12 for before, after in zip(fit.mean_nlls, fit.mean_nlls[1:], strict=False))
    assert math.fsum(fit.weights) == pytest.approx(1.0)


def test_equal_models_keep_equal_weights() -> None:
    assert _fit([0.5, 0.1], [0.5, 0.1]).weights == pytest.approx((0.5, 0.5))


def test_probabilities_below_the_smallest_float_are_compared() -> None:
    fit = mixture_weights.fit([[np.array([-2000.0]), np.array([-2001.0])]] * 2, 1000)
    assert fit.weights[0] > 0.99
    assert fit.mean_nlls[-1] == pytest.approx(2000.0, abs=0.01)


def test_tokens_that_no_model_holds_possible_are_left_out_and_counted() -> None:
    fit = _fit([0.6, 0.0, 0.1], [0.0, 0.0, 0.6])
    assert (fit.num_tokens, fit.num_impossible) == (2, 1)
    assert fit.weights == _fit([0.6, 0.1], [0.0, 0.6]).weights


def test_a_text_without_possible_tokens_is_refused() -> None:
    for nothing in ([], [0.0]):
        with pytest.raises(errors.DataError, match="fit_on: has no token"):
            _fit(nothing, nothing)
