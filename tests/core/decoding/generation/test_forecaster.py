"""Forecasting with hand-set weights, whose forecasts can be worked out by hand."""

from typing import Any

import numpy as np
import pytest
import torch

from core import errors
from core.config import autoregressive_settings, inference_settings
from core.data.series import reading
from core.decoding.generation import forecaster
from core.models import autoregressive, bundle
from tests.core.decoding import samples


def _bundle(
    weights: list[list[float]], inputs: tuple[str, ...] = ("x",), targets: tuple[str, ...] = ("x",), **settings: Any
) -> bundle.Bundle:
    """Returns a linear model: a row of weights for each step and target, a column for each lag and input."""
    config = autoregressive_settings.AutoregressiveConfig(kind="autoregressive", network="linear", **settings)
    model = autoregressive.Autoregressive(config, len(inputs), len(targets))
    with torch.no_grad():
        model.output.weight.copy_(torch.tensor(weights))
        model.output.bias.zero_()
    return bundle.Bundle(model, config, {}, "none", "fp32", columns={"inputs": inputs, "targets": targets})


def _forecaster(made: bundle.Bundle, method: str, *horizons: int) -> forecaster.Forecaster:
    settings = inference_settings.ForecastingConfig(method=method, horizons=horizons)  # type: ignore[arg-type]
    return forecaster.Forecaster(made, settings)


def test_recursive_forecasts_are_fed_back_as_inputs() -> None:
    # Fibonacci: the next value is the sum of the last two.
    ready = _forecaster(_bundle([[1, 1]], lags=2), "recursive", 1, 3)
    values = reading.plain(np.array([[1.0], [1], [2], [3], [5], [9]]))
    next_step, third_step = ready.forecast(values)
    assert next_step.times_N.tolist() == [2, 3, 4, 5, 6]
    assert next_step.forecasts_N.tolist() == [2, 3, 5, 8, 14]
    np.testing.assert_array_equal(next_step.residuals_N, [0, 0, 0, 1, np.nan])
    assert third_step.times_N.tolist() == [4, 5, 6, 7, 8]
    assert third_step.forecasts_N.tolist() == [5, 8, 13, 21, 37]
    assert ready.forecast_beyond_end(values)["x"] == [14, 23, 37]
    assert next_step.error_summary() == {
        "target": "x", "horizon": 1, "count": 4, "mse": 0.25, "rmse": 0.5, "mae": 0.25, "anomalies": 0
    }  # fmt: skip


def test_z_scores_are_standardized_residuals() -> None:
    ready = _forecaster(_bundle([[1]], lags=1), "recursive", 1)
    values = np.zeros((102, 1))
    values[-1] = 10.0  # residuals: 100 times 0, once 10
    (next_step,) = ready.forecast(reading.plain(values))
    mean, sd = 10 / 101, np.sqrt(100 / 101 - (10 / 101) ** 2)
    assert next_step.z_scores_N[-2] == pytest.approx((10 - mean) / sd)
    assert next_step.z_scores_N[0] == pytest.approx(-mean / sd)
    assert np.isnan(next_step.z_scores_N[-1])
    assert next_step.error_summary()["anomalies"] == 1


def test_direct_forecasts_use_one_output_for_each_step() -> None:
    ready = _forecaster(_bundle([[1], [10], [100]], lags=1, horizon=3), "direct", 1, 3)
    next_step, third_step = ready.forecast(reading.plain(np.array([[1.0], [2], [3], [4]])))
    assert next_step.forecasts_N.tolist() == [1, 2, 3, 4]
    assert third_step.forecasts_N.tolist() == [100, 200, 300, 400]
    assert third_step.times_N.tolist() == [3, 4, 5, 6]
    np.testing.assert_array_equal(third_step.residuals_N, [-96, np.nan, np.nan, np.nan])
    assert ready.forecast_beyond_end(reading.plain(np.array([[7.0]])))["x"] == [7, 70, 700]


def test_inputs_and_targets_may_be_in_different_order() -> None:
    # Next a = last b, next b = last a: the order of targets is not that of inputs.
    swapped = _bundle([[1, 0], [0, 1]], inputs=("a", "b"), targets=("b", "a"), lags=1)
    ready = _forecaster(swapped, "recursive", 1, 2)
    assert ready.columns == ["a", "b"]
    forecasts = {
        (forecast.target, forecast.horizon): forecast.forecasts_N.tolist()
        for forecast in ready.forecast(reading.plain(np.array([[1.0, 2], [3, 4]])))
    }
    assert forecasts == {("b", 1): [1, 3], ("a", 1): [2, 4], ("b", 2): [2, 4], ("a", 2): [1, 3]}


@pytest.mark.parametrize("network", ["linear", "mlp", "rnn", "gru", "lstm"])
def test_every_network_forecasts_all_steps_and_targets(network: str) -> None:
    content = {"kind": "autoregressive", "network": network, "lags": 3, "hidden_size": 5, "horizon": 2}
    config = autoregressive_settings.AutoregressiveConfig.model_validate(content)
    model = autoregressive.Autoregressive(config, 2, 1)
    assert model(torch.randn(4, 3, 2)).shape == (4, 2, 1)


def test_impossible_forecasts_are_refused() -> None:
    outside = _bundle([[1, 1]], inputs=("a", "b"), targets=("a",), lags=1)
    with pytest.raises(errors.UsageError, match="b is an input but not a target"):
        _forecaster(outside, "recursive", 2)
    assert len(_forecaster(outside, "recursive", 1).forecast(reading.plain(np.ones((3, 2))))) == 1
    with pytest.raises(errors.UsageError, match=r"model\.horizon: 4"):
        _forecaster(_bundle([[1]], lags=1), "direct", 4)
    with pytest.raises(errors.UsageError, match="this run is a language_model"):
        _forecaster(samples.language_model(), "recursive", 1)
    with pytest.raises(errors.DataError, match="needs 2"):
        _forecaster(_bundle([[1, 1]], lags=2), "recursive", 1).forecast(reading.plain(np.ones((1, 1))))
