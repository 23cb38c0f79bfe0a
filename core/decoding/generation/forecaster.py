"""Forecasts of a series: the next step, and several steps ahead, recursively or directly; errors and anomalies."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from core import errors
from core.config import inference_settings
from core.data import series
from core.models import autoregressive
from core.models import bundle as bundles

ANOMALY = 3.0  # standard deviations from the mean residual
_EXAMPLES_AT_ONCE = 1 << 14

Array = npt.NDArray[np.float64]


class Forecast(NamedTuple):
    """What was forecast of one target so many steps ahead, and what came.

    Attributes:
        target: name of its column.
        horizon: steps ahead.
        times_N: rows of the series that are forecast, from 0; those at its end or beyond are still to come.
        forecasts_N: the values forecast.
        actuals_N: the values that came; NaN where they are still to come.
        residuals_N: actual less forecast.
        z_scores_N: residuals less their mean, in standard deviations of all residuals of this target and horizon.
    """

    target: str
    horizon: int
    times_N: npt.NDArray[np.int64]
    forecasts_N: Array
    actuals_N: Array
    residuals_N: Array
    z_scores_N: Array

    def errors(self) -> dict[str, Any]:
        """The figures of a report: the mean squared and mean absolute error, and how many residuals stand out."""
        known_N = self.residuals_N[np.isfinite(self.residuals_N)]
        found: dict[str, Any] = {"target": self.target, "horizon": self.horizon, "count": len(known_N)}
        if len(known_N):
            mse = float(np.mean(known_N**2))
            found |= {"mse": mse, "rmse": math.sqrt(mse), "mae": float(np.mean(np.abs(known_N)))}
            found["anomalies"] = int((np.abs(self.z_scores_N[np.isfinite(self.z_scores_N)]) > ANOMALY).sum())
        return found


class Forecaster:
    """A bundle ready to forecast.

    Raises:
        UsageError: the bundle is no model of series, or cannot look so far ahead by this method.
    """

    def __init__(self, bundle: bundles.Bundle, settings: inference_settings.ForecastingConfig) -> None:
        if not isinstance(bundle.model, autoregressive.Autoregressive):
            raise errors.UsageError(f"--run: forecast needs an autoregressive; this run is a {bundle.config.kind}")
        self._model = bundle.model
        self._inputs, self._targets = bundle.columns["inputs"], bundle.columns["targets"]
        self._settings = settings
        self._furthest = max(settings.horizons)
        if settings.method == "direct" and self._furthest > self._model.config.horizon:
            raise errors.UsageError(
                f"forecasting.horizons: this model has outputs for {self._model.config.horizon} steps, not for "
                f"{self._furthest}; name fewer, use method: recursive, or train with model.horizon: {self._furthest}"
            )
        missing = [name for name in self._inputs if name not in self._targets]
        if settings.method == "recursive" and self._furthest > 1 and missing:
            raise errors.UsageError(
                f"forecasting.method: {missing[0]} goes in but is not forecast, so nothing can follow the next step; "
                "use horizons: [1], or method: direct"
            )

    @property
    def columns(self) -> list[str]:
        """The columns that a series must have."""
        return series.columns(self._inputs, self._targets)

    def forecast(self, values_TC: Array) -> list[Forecast]:
        """Forecasts from every time that has enough before it, the end of the series included.

        For a horizon k the value of row t is forecast from the rows up to t − k. From the end of the series all steps
        up to the largest horizon are forecast: those of horizon k reach k rows beyond it.

        Raises:
            DataError: the series is shorter than what the model looks back at.
        """
        lags, names = self._model.config.lags, self.columns
        if len(values_TC) < lags:
            raise errors.DataError(f"--input: {len(values_TC)} rows, but the model looks back at {lags}")
        windows_NLI = series.windows(values_TC[:, [names.index(name) for name in self._inputs]], lags)
        ahead_NKO = np.concatenate(
            [
                self._ahead(torch.tensor(windows_NLI[start : start + _EXAMPLES_AT_ONCE], dtype=torch.float32))
                for start in range(0, len(windows_NLI), _EXAMPLES_AT_ONCE)
            ]
        )
        found = []
        for place, target in enumerate(self._targets):
            column = values_TC[:, names.index(target)]
            for horizon in sorted(self._settings.horizons):
                found.append(_judged(target, horizon, ahead_NKO[:, horizon - 1, place], column, lags))
        return found

    def beyond(self, values_TC: Array) -> dict[str, list[float]]:
        """Returns by target what comes after the end of a series: every step up to the largest horizon."""
        lags, names = self._model.config.lags, self.columns
        last_1LI = values_TC[None, len(values_TC) - lags :, [names.index(name) for name in self._inputs]]
        ahead_KO = self._ahead(torch.tensor(last_1LI, dtype=torch.float32))[0]
        return {target: ahead_KO[:, place].tolist() for place, target in enumerate(self._targets)}

    def _ahead(self, windows_NLI: torch.Tensor) -> Array:
        """Forecasts from each window all steps up to the furthest, (N, K, O).

        Source: document 000 section 8.1.3.
        """
        with torch.inference_mode():
            if self._settings.method == "direct":
                return self._to_array(self._model(windows_NLI)[:, : self._furthest])
            fed_back = [self._targets.index(name) for name in self._inputs] if self._furthest > 1 else []
            steps = []
            for step in range(self._furthest):
                next_NO = self._model(windows_NLI)[:, 0]
                steps.append(next_NO)
                if step + 1 < self._furthest:
                    windows_NLI = torch.cat([windows_NLI[:, 1:], next_NO[:, None, fed_back]], dim=1)
            return self._to_array(torch.stack(steps, dim=1))

    @staticmethod
    def _to_array(values: torch.Tensor) -> Array:
        array: Array = values.double().numpy()
        return array


def _judged(target: str, horizon: int, forecasts_N: Array, column_T: Array, lags: int) -> Forecast:
    """Puts what came beside what was forecast."""
    times_N = np.arange(len(forecasts_N), dtype=np.int64) + lags + horizon - 1
    actuals_N = np.full(len(times_N), np.nan)
    is_known_N = times_N < len(column_T)
    actuals_N[is_known_N] = column_T[times_N[is_known_N]]
    residuals_N = actuals_N - forecasts_N
    z_scores_N = np.full(len(times_N), np.nan)
    known = residuals_N[is_known_N]
    if len(known) > 1 and known.std() > 0:
        z_scores_N[is_known_N] = (known - known.mean()) / known.std()
    return Forecast(target, horizon, times_N, forecasts_N, actuals_N, residuals_N, z_scores_N)


def rows(forecasts: Sequence[Forecast], method: str) -> Mapping[str, Sequence[Any]]:
    """Returns the columns of a table: a row for each target, horizon and time, absent where nothing came yet."""
    found: dict[str, list[Any]] = {name: [] for name in ("line", "target", "horizon", "method")}
    numbers: dict[str, list[Array]] = {name: [] for name in ("forecast", "actual", "residual", "z_score")}
    for one in forecasts:
        found["line"] += one.times_N.tolist()
        for name, value in (("target", one.target), ("horizon", one.horizon), ("method", method)):
            found[name] += [value] * len(one.times_N)
        for name, values_N in (
            ("forecast", one.forecasts_N),
            ("actual", one.actuals_N),
            ("residual", one.residuals_N),
            ("z_score", one.z_scores_N),
        ):
            numbers[name].append(values_N)
    joined = {name: np.concatenate(pieces) for name, pieces in numbers.items()}
    return {**found, **{name: [None if math.isnan(x) else x for x in all_.tolist()] for name, all_ in joined.items()}}
