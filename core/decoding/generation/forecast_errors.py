"""Errors of forecasts by split, beside those of naive forecasts, and the mean absolute scaled error."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from core.data.series import splits
from core.decoding.generation import forecaster

Array = npt.NDArray[np.float64]
Figures = dict[str, Any]

# A season must show in the autocorrelation of a series at its period and, weaker, at twice the period.
_LEAST_CORRELATION, _LEAST_CORRELATION_AT_TWICE = 0.3, 0.2
_LEAST_RISE = 0.2  # of the autocorrelation, from its lowest point before to its peak
_NEARLY = 0.9  # share of the highest autocorrelation above which a fraction of its period is taken instead
_FEWEST_PERIODS = 3


@dataclass(frozen=True)
class NaiveForecast:
    """The seasonal naive forecast of one target, and its error on the training split.

    Attributes:
        period: rows of a season; 1: none, so that it is persistence.
        training_mae: mean absolute error, one period ahead, on the training split: the denominator of MASE; None if
            that split is not known, too short or without any change.
    """

    period: int
    training_mae: float | None

    @classmethod
    def fit(cls, training_T: Array, period: int | None) -> "NaiveForecast":
        """Returns the naive forecast of a training series, with the given period or with an estimated one."""
        period = estimate_period(training_T) if period is None else period
        differences = np.abs(training_T[period:] - training_T[:-period]) if period < len(training_T) else np.zeros(0)
        mae = float(differences.mean()) if len(differences) else 0.0
        return cls(period, mae or None)

    def forecast(self, actuals_T: Array, rows_N: npt.NDArray[np.int64], horizon: int) -> Array:
        """Returns the forecasts of rows from `horizon` rows before: the last known value of the same place in a season.

        NaN where the series does not reach back far enough.
        """
        sources_N = rows_N - self.period * math.ceil(horizon / self.period)
        return np.where(sources_N >= 0, actuals_T[np.maximum(sources_N, 0)], np.nan)


def estimate_period(values_T: Array) -> int:
    """Estimates the rows of a season from the autocorrelation of a series without its linear trend; 1: no season.

    Where it shows none, that of the differences of neighbours counts: they have no slow movements, beside which a short
    season is small. Noise is larger in them, so that they come second.

    Source: Hyndman and Athanasopoulos, Forecasting: Principles and Practice (3rd edition, 2021), section 2.8
    "Autocorrelation".
    """
    return next((period for values in (values_T, np.diff(values_T)) if (period := _period_of(values)) > 1), 1)


def _period_of(values_T: Array) -> int:
    """Returns the period at which the autocorrelation of a series without its linear trend peaks; 1: none.

    The highest local maximum of the autocorrelation, or the shortest fraction of its period that is nearly as high. It
    must be significant and rise from a trough, and there must be correlation at twice the period, too, which slow
    random movements do not have.
    """
    count = len(values_T)
    longest = count // _FEWEST_PERIODS
    if longest < 2:
        return 1
    times_T = np.arange(count, dtype=float)
    centred_T = values_T - np.polyval(np.polyfit(times_T, values_T, 1), times_T)
    variance = float(centred_T @ centred_T)
    if variance <= 1e-18 * max(float(values_T @ values_T), 1e-300):
        return 1
    spectrum = np.fft.rfft(centred_T, 2 * count)
    # Divided by the number of products at each lag, so that long lags are not weaker only for having fewer.
    correlations = np.fft.irfft(np.abs(spectrum) ** 2)[:count] / variance * count / (count - times_T)
    lags = np.arange(2, longest + 1)
    is_peak = (correlations[lags] > correlations[lags - 1]) & (correlations[lags] >= correlations[lags + 1])
    least = max(_LEAST_CORRELATION, 2 / math.sqrt(count))
    lowest = np.minimum.accumulate(correlations)
    peaks = [
        int(lag)
        for lag in lags[is_peak]
        if correlations[lag] > max(least, lowest[lag] + _LEAST_RISE)
        and correlations[2 * lag - 1 : 2 * lag + 2].max() > _LEAST_CORRELATION_AT_TWICE
    ]
    if not peaks:
        return 1
    highest = max(peaks, key=lambda peak: float(correlations[peak]))
    nearly = _NEARLY * correlations[highest]
    fractions = {round(highest / parts) for parts in range(2, highest // 2 + 1) if highest % parts in (0, 1, parts - 1)}
    return min((lag for lag in fractions if lag in peaks and correlations[lag] >= nearly), default=highest)


def by_split(
    forecast: "forecaster.Forecast", actuals_T: Array, labels_T: splits.Labels | None, naive: NaiveForecast
) -> dict[str, Figures]:
    """Returns the errors of the forecasts of one target and horizon, by the split of the row that was forecast.

    `persistence` repeats the last known value, `seasonal` the last known value of the same place in a season (None
    without a season). Both are taken over the rows that were forecast; where the series does not reach back a season,
    over the rest, whose number is `seasonal_count`.

    Args:
        forecast: the forecasts.
        actuals_T: the target, missing values filled.
        labels_T: split of each row of the series; None: not known.
        naive: the seasonal naive forecast.

    Source of MASE: Hyndman and Koehler, Another look at measures of forecast accuracy (2006). Its denominator is the
    error of the naive forecast on the training split, one season ahead.
    """
    figures = {}
    known_N = np.isfinite(forecast.residuals_N)
    rows_N = forecast.times_N[known_N]
    persistent_N = NaiveForecast(1, None).forecast(actuals_T, rows_N, forecast.horizon)
    seasonal_N = naive.forecast(actuals_T, rows_N, forecast.horizon)
    if labels_T is None:
        return {}
    for name in splits.NAMES:
        of_split_N = labels_T[rows_N] == name
        if not of_split_N.any():
            continue
        rows, residuals = rows_N[of_split_N], forecast.residuals_N[known_N][of_split_N]
        actuals, mae = actuals_T[rows], float(np.mean(np.abs(residuals)))
        figures[name] = {
            "target": forecast.target,
            "horizon": forecast.horizon,
            "count": len(rows),
            **_errors("", residuals),
            "mase": None if naive.training_mae is None else mae / naive.training_mae,
            **_errors("persistence_", actuals - persistent_N[of_split_N]),
            **_seasonal_errors(naive, actuals - seasonal_N[of_split_N]),
        }
    return figures


def headline(errors_by_split: Mapping[str, Sequence[Figures]]) -> str | None:
    """Returns the split whose errors say most: that of rows which no decision of training has seen.

    The test split, else rows that are not in the dataset, else the validation split. Training rows say nothing of
    other data, and are the headline only where there is nothing else.
    """
    return next((name for name in ("test", splits.NEW, "valid", "train") if errors_by_split.get(name)), None)


def _errors(prefix: str, residuals: Array) -> Figures:
    mse = float(np.mean(residuals**2))
    return {f"{prefix}mse": mse, f"{prefix}rmse": math.sqrt(mse), f"{prefix}mae": float(np.mean(np.abs(residuals)))}


def _seasonal_errors(naive: NaiveForecast, residuals: Array) -> Figures:
    known = residuals[np.isfinite(residuals)]
    if naive.period == 1 or not len(known):
        none = {f"seasonal_{name}": None for name in ("mse", "rmse", "mae")}
        return {"period": naive.period, **none, "seasonal_count": 0}
    return {"period": naive.period, **_errors("seasonal_", known), "seasonal_count": len(known)}
