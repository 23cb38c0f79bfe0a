"""Forecasts of models whose weights one can read."""

from typing import Any

import numpy as np
import pytest
import torch

from core import errors
from core.config import autoregressive_settings, inference_settings
from core.decoding.generation import forecaster
from core.models import autoregressive, bundle
from tests.core.decoding import samples


def _bundle(
    weights: list[list[float]], inputs: tuple[str, ...] = ("x",), targets: tuple[str, ...] = ("x",), **settings: Any
) -> bundle.Bundle:
    """A linear model: a row of weights for each step and target, a column for each lag and input."""
    config = autoregressive_settings.AutoregressiveConfig(kind="autoregressive", network="linear", **settings)
    model = autoregressive.Autoregressive(config, len(inputs), len(targets))
    with torch.no_grad():
        model.output.weight.copy_(torch.tensor(weights))
        model.output.bias.zero_()
    return bundle.Bundle(model, config, {}, "none", "fp32", columns={"inputs": inputs, "targets": targets})


def _forecaster(made: bundle.Bundle, method: str, *horizons: int) -> forecaster.Forecaster:
    settings = inference_settings.ForecastingConfig(method=method, horizons=horizons)  # type: ignore[arg-type]
    return forecaster.Forecaster(made, settings)


def test_recursive_forecasts_go_in_as_if_they_had_been_seen() -> None:
    # Fibonacci: the next value is the sum of the last two.
    ready = _forecaster(_bundle([[1, 1]], lags=2), "recursive", 1, 3)
    values = np.array([[1.0], [1], [2], [3], [5], [9]])
    one, three = ready.forecast(values)
    assert one.times_N.tolist() == [2, 3, 4, 5, 6]
    assert one.forecasts_N.tolist() == [2, 3, 5, 8, 14]
    np.testing.assert_array_equal(one.residuals_N, [0, 0, 0, 1, np.nan])
    assert three.times_N.tolist() == [4, 5, 6, 7, 8]
    assert three.forecasts_N.tolist() == [5, 8, 13, 21, 37]
    assert ready.beyond(values)["x"] == [14, 23, 37]
    assert one.errors() == {
        "target": "x", "horizon": 1, "count": 4, "mse": 0.25, "rmse": 0.5, "mae": 0.25, "anomalies": 0
    }  # fmt: skip


def test_z_scores_tell_by_how_much_a_residual_stands_out() -> None:
    ready = _forecaster(_bundle([[1]], lags=1), "recursive", 1)
    values = np.zeros((102, 1))
    values[-1] = 10.0  # residuals: 100 times 0, once 10
    (one,) = ready.forecast(values)
    mean, sd = 10 / 101, np.sqrt(100 / 101 - (10 / 101) ** 2)
    assert one.z_scores_N[-2] == pytest.approx((10 - mean) / sd)
    assert one.z_scores_N[0] == pytest.approx(-mean / sd)
    assert np.isnan(one.z_scores_N[-1])
    assert one.errors()["anomalies"] == 1


def test_direct_forecasts_have_outputs_of_their_own() -> None:
    ready = _forecaster(_bundle([[1], [10], [100]], lags=1, horizon=3), "direct", 1, 3)
    one, three = ready.forecast(np.array([[1.0], [2], [3], [4]]))
    assert one.forecasts_N.tolist() == [1, 2, 3, 4]
    assert three.forecasts_N.tolist() == [100, 200, 300, 400]
    assert three.times_N.tolist() == [3, 4, 5, 6]
    np.testing.assert_array_equal(three.residuals_N, [-96, np.nan, np.nan, np.nan])
    assert ready.beyond(np.array([[7.0]]))["x"] == [7, 70, 700]


def test_several_columns_find_their_places() -> None:
    # Next a = last b, next b = last a: the order of targets is not that of inputs.
    swapped = _bundle([[1, 0], [0, 1]], inputs=("a", "b"), targets=("b", "a"), lags=1)
    ready = _forecaster(swapped, "recursive", 1, 2)
    assert ready.columns == ["a", "b"]
    found = {
        (one.target, one.horizon): one.forecasts_N.tolist() for one in ready.forecast(np.array([[1.0, 2], [3, 4]]))
    }
    assert found == {("b", 1): [1, 3], ("a", 1): [2, 4], ("b", 2): [2, 4], ("a", 2): [1, 3]}


@pytest.mark.parametrize("network", ["linear", "mlp", "rnn", "gru", "lstm"])
def test_every_network_forecasts_all_steps_and_targets(network: str) -> None:
    content = {"kind": "autoregressive", "network": network, "lags": 3, "hidden_size": 5, "horizon": 2}
    config = autoregressive_settings.AutoregressiveConfig.model_validate(content)
    model = autoregressive.Autoregressive(config, 2, 1)
    assert model(torch.randn(4, 3, 2)).shape == (4, 2, 1)


def test_what_a_model_cannot_forecast_is_refused() -> None:
    outside = _bundle([[1, 1]], inputs=("a", "b"), targets=("a",), lags=1)
    with pytest.raises(errors.UsageError, match="b goes in but is not forecast"):
        _forecaster(outside, "recursive", 2)
    assert len(_forecaster(outside, "recursive", 1).forecast(np.ones((3, 2)))) == 1
    with pytest.raises(errors.UsageError, match=r"model\.horizon: 4"):
        _forecaster(_bundle([[1]], lags=1), "direct", 4)
    with pytest.raises(errors.UsageError, match="this run is a language_model"):
        _forecaster(samples.language_model(), "recursive", 1)
    with pytest.raises(errors.DataError, match="looks back at 2"):
        _forecaster(_bundle([[1, 1]], lags=2), "recursive", 1).forecast(np.ones((1, 1)))
