"""Errors by split and naive forecasts, by hand."""

import math

import numpy as np
import pytest

from core.decoding.generation import forecast_errors, forecaster

Array = forecast_errors.Array


def _forecast(actuals_T: Array, first_row: int, horizon: int, error: float) -> forecaster.Forecast:
    """Forecasts that are too low by the same error, from a row on."""
    times_N = np.arange(first_row, len(actuals_T))
    actuals_N = actuals_T[times_N]
    residuals_N = np.full(len(times_N), error)
    return forecaster.Forecast("x", horizon, times_N, actuals_N - error, actuals_N, residuals_N, residuals_N * 0)


def test_errors_are_those_of_each_split_beside_naive_forecasts() -> None:
    actuals_T = np.array([0.0, 1, 2, 4, 6, 9, 12, 16])
    labels_T = np.array(["train"] * 4 + ["valid"] * 2 + ["test"] * 2)
    naive = forecast_errors.NaiveForecast.fit(actuals_T[:4], period=1)
    assert naive.training_mae == pytest.approx(4 / 3)
    figures = forecast_errors.by_split(_forecast(actuals_T, 3, 2, error=2.0), actuals_T, labels_T, naive)
    assert {name: row["count"] for name, row in figures.items()} == {"train": 1, "valid": 2, "test": 2}
    test = figures["test"]
    assert (test["mse"], test["rmse"], test["mae"]) == (4, 2, 2)
    assert test["mase"] == pytest.approx(1.5)
    # Two steps ahead, persistence forecasts 6 for 12 and 9 for 16.
    assert (test["persistence_mae"], test["persistence_mse"]) == (6.5, (36 + 49) / 2)
    assert (test["period"], test["seasonal_mae"]) == (1, None)


def test_the_seasonal_naive_forecast_repeats_the_last_whole_season() -> None:
    actuals_T = np.array([1.0, 2, 3, 11, 12, 13, 21, 22, 23])
    naive = forecast_errors.NaiveForecast(3, None)
    rows_N = np.array([2, 6, 8])
    np.testing.assert_array_equal(naive.forecast(actuals_T, rows_N, 1), [math.nan, 11, 13])
    np.testing.assert_array_equal(naive.forecast(actuals_T, rows_N, 3), [math.nan, 11, 13])
    # Four steps ahead, the season before is not over yet at the time of the forecast.
    np.testing.assert_array_equal(naive.forecast(actuals_T, rows_N, 4), [math.nan, 1, 3])


def test_a_value_that_was_missing_counts_in_no_error() -> None:
    actuals_T = np.array([0.0, 1, 2, 3])
    forecast = _forecast(actuals_T, 1, 1, error=1.0)
    forecast.residuals_N[1] = np.nan
    naive = forecast_errors.NaiveForecast(1, None)
    figures = forecast_errors.by_split(forecast, actuals_T, np.array(["new"] * 4), naive)
    assert figures["new"]["count"] == 2
    assert figures["new"]["mase"] is None


def test_without_the_dataset_no_split_is_known() -> None:
    actuals_T = np.arange(4.0)
    naive = forecast_errors.NaiveForecast(1, None)
    assert forecast_errors.by_split(_forecast(actuals_T, 1, 1, 1.0), actuals_T, None, naive) == {}


@pytest.mark.parametrize(
    ("names", "headline"),
    [(["train", "valid", "test", "new"], "test"), (["train", "valid", "new"], "new"), (["train"], "train"), ([], None)],
)
def test_the_headline_is_the_split_that_no_decision_has_seen(names: list[str], headline: str | None) -> None:
    assert forecast_errors.headline({name: [{}] for name in names}) == headline


@pytest.mark.parametrize("period", [4, 7, 12, 24, 52])
@pytest.mark.parametrize("trend", [0.0, 0.05, -3.0])
def test_the_period_of_a_noisy_season_is_found(period: int, trend: float) -> None:
    times_T = np.arange(12 * period)
    noise_T = np.random.default_rng(period).normal(0, 0.4, len(times_T))
    values_T = 100 + trend * times_T + np.sin(2 * np.pi * times_T / period) + noise_T
    assert forecast_errors.estimate_period(values_T) == period


def test_a_season_of_several_peaks_is_not_cut_short() -> None:
    week_T = np.tile([5.0, 1, 4, 1, 4, 1, 0], 30) + np.random.default_rng(1).normal(0, 0.1, 210)
    assert forecast_errors.estimate_period(week_T) == 7


def test_a_short_season_is_found_beside_a_long_one_that_is_not_over() -> None:
    times_T = np.arange(800)
    slow_T, noise_T = 10 * np.sin(times_T / 90), np.random.default_rng(1).normal(0, 1, 800)
    assert forecast_errors.estimate_period(slow_T + 2 * np.sin(2 * np.pi * times_T / 7) + noise_T) == 7


@pytest.mark.parametrize("seed", range(20))
def test_noise_and_random_walks_have_no_season(seed: int) -> None:
    noise_T = np.random.default_rng(seed).normal(size=600)
    assert forecast_errors.estimate_period(noise_T) == 1
    assert forecast_errors.estimate_period(np.cumsum(noise_T)) == 1


@pytest.mark.parametrize("values_T", [np.zeros(50), np.full(50, 0.1), np.arange(50.0), np.ones(1), np.zeros(0)])
def test_series_without_movement_have_no_season(values_T: Array) -> None:
    assert forecast_errors.estimate_period(values_T) == 1
    assert forecast_errors.NaiveForecast.fit(np.full(5, 3.0), None).training_mae is None
