"""Time-series forecasting: one step and several steps ahead, recursive or direct, with errors and anomalies."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from core import errors
from core.config import inference_settings
from core.data.series import examples, reading, splits, times
from core.models import autoregressive
from core.models import bundle as bundles

# The three-sigma rule: a residual further than this from the mean, in standard deviations, is an anomaly.
ANOMALY_Z_SCORE = 3.0

# Windows that are forecast at once: memory does not grow with the length of the series.
_WINDOWS_PER_BATCH = 1 << 14

Array = npt.NDArray[np.float64]


class Forecast(NamedTuple):
    """Forecasts of one target at one horizon, with the actual values.

    Attributes:
        target: name of the target column.
        horizon: steps ahead.
        times_N: forecast rows of the series, from 0; the last ones may lie beyond its end.
        forecasts_N: forecast values.
        actuals_N: actual values; NaN beyond the end of the series, and where a value was missing.
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

    def error_summary(self) -> dict[str, Any]:
        """Returns the errors of a report: MSE, RMSE, MAE and the number of anomalies."""
        # Rows beyond the end of the series have no actual value.
        known_N = self.residuals_N[np.isfinite(self.residuals_N)]
        summary: dict[str, Any] = {"target": self.target, "horizon": self.horizon, "count": len(known_N)}
        if len(known_N):
            mse = float(np.mean(known_N**2))
            summary |= {"mse": mse, "rmse": math.sqrt(mse), "mae": float(np.mean(np.abs(known_N)))}
            z_scores_N = self.z_scores_N[np.isfinite(self.z_scores_N)]
            summary["anomalies"] = int((np.abs(z_scores_N) > ANOMALY_Z_SCORE).sum())
        return summary


class Forecaster:
    """A bundle ready to forecast.

    Raises:
        UsageError: the bundle is not a model of series, or cannot forecast that far ahead with this method.
    """

    def __init__(self, bundle: bundles.Bundle, settings: inference_settings.ForecastingConfig) -> None:
        if not isinstance(bundle.model, autoregressive.Autoregressive):
            raise errors.UsageError(f"--run: forecast needs an autoregressive; this run is a {bundle.config.kind}")
        self._model = bundle.model
        self._inputs, self._targets = bundle.columns["inputs"], bundle.columns["targets"]
        self._scaling = bundle.series.scaling
        self._settings = settings
        self._max_horizon = max(settings.horizons)
        inference_settings.check_forecasting(settings, self._model.config.horizon, self._inputs, self._targets)

    @property
    def columns(self) -> list[str]:
        """The columns that a series must have."""
        return examples.columns(self._inputs, self._targets)

    @property
    def targets(self) -> tuple[str, ...]:
        """The columns that are forecast."""
        return self._targets

    def forecast(self, table: reading.Table) -> list[Forecast]:
        """Forecasts from every row with enough rows before it, the end of the series included.

        At horizon k the value of row t is forecast from the rows up to t − k. From the end of the series all steps up
        to the largest horizon are forecast, so those of horizon k reach k rows beyond it. A value that was missing in
        the series, and filled, is an input like others, but no forecast is compared with it.

        Raises:
            DataError: the series is shorter than the model's input window.
        """
        lags, names = self._model.config.lags, self.columns
        if len(table) < lags:
            raise errors.DataError(f"--input: {len(table)} rows, but the model needs {lags}; give a longer series")
        windows_NLI = examples.windows(self._scaled_inputs(table), lags)
        forecasts_NKO = np.concatenate(
            [
                self._forecast_windows(
                    torch.tensor(windows_NLI[start : start + _WINDOWS_PER_BATCH], dtype=torch.float32)
                )
                for start in range(0, len(windows_NLI), _WINDOWS_PER_BATCH)
            ]
        )
        forecasts = []
        for output, target in enumerate(self._targets):
            column = names.index(target)
            actuals_T = np.where(table.is_filled_TC[:, column], np.nan, table.values_TC[:, column])
            for horizon in sorted(self._settings.horizons):
                # Forecasts of all horizons are made from the same windows, so they differ in their rows of the series.
                forecasts_N = forecasts_NKO[:, horizon - 1, output]
                forecasts.append(_with_actuals(target, horizon, forecasts_N, actuals_T, lags))
        return forecasts

    def forecast_beyond_end(self, table: reading.Table) -> dict[str, list[float]]:
        """Returns by target the values after the end of a series: every step up to the largest horizon."""
        # The last window alone, whose forecasts all lie beyond the end.
        last_1LI = self._scaled_inputs(table)[None, len(table) - self._model.config.lags :]
        forecasts_KO = self._forecast_windows(torch.tensor(last_1LI, dtype=torch.float32))[0]
        return {target: forecasts_KO[:, output].tolist() for output, target in enumerate(self._targets)}

    def _scaled_inputs(self, table: reading.Table) -> Array:
        names = self.columns
        return self._scaling.apply(table.values_TC[:, [names.index(name) for name in self._inputs]], self._inputs)

    def _forecast_windows(self, windows_NLI: torch.Tensor) -> Array:
        """Forecasts all steps up to the largest horizon from each window of scaled values, (N, K, O).

        A column has one scale, whether it is an input or a target, so that forecasts can be inputs of the next step.

        Source: Zhang et al., Dive into Deep Learning (2021), section 8.1.3 "Prediction".
        """
        with torch.inference_mode():
            if self._settings.method == "direct":
                return self._to_array(self._model(windows_NLI)[:, : self._max_horizon])
            # The forecasts of the targets, in the order of the inputs, become the newest row of the next window.
            feedback = [self._targets.index(name) for name in self._inputs] if self._max_horizon > 1 else []
            steps = []
            for step in range(self._max_horizon):
                # A model with outputs for several steps contributes its first step alone.
                next_NO = self._model(windows_NLI)[:, 0]
                steps.append(next_NO)
                if step + 1 < self._max_horizon:
                    windows_NLI = torch.cat([windows_NLI[:, 1:], next_NO[:, None, feedback]], dim=1)
            return self._to_array(torch.stack(steps, dim=1))

    def _to_array(self, forecasts_NKO: torch.Tensor) -> Array:
        """Returns forecasts in the units of the series."""
        return self._scaling.undo(forecasts_NKO.double().numpy(), self._targets)


def _with_actuals(target: str, horizon: int, forecasts_N: Array, actuals_T: Array, lags: int) -> Forecast:
    """Computes residuals and z-scores of forecasts against the actual series."""
    # The first window ends at row lags - 1, so its forecast at horizon 1 is of row lags.
    times_N = np.arange(len(forecasts_N), dtype=np.int64) + lags + horizon - 1
    actuals_N = np.full(len(times_N), np.nan)
    is_known_N = times_N < len(actuals_T)
    actuals_N[is_known_N] = actuals_T[times_N[is_known_N]]
    is_known_N &= np.isfinite(actuals_N)
    residuals_N = actuals_N - forecasts_N
    z_scores_N = np.full(len(times_N), np.nan)
    known = residuals_N[is_known_N]
    # Constant residuals have no deviation to measure in.
    if len(known) > 1 and known.std() > 0:
        z_scores_N[is_known_N] = (known - known.mean()) / known.std()
    return Forecast(target, horizon, times_N, forecasts_N, actuals_N, residuals_N, z_scores_N)


def to_columns(
    forecasts: Sequence[Forecast], method: str, axis: times.Axis | None, labels_T: splits.Labels | None
) -> Mapping[str, Sequence[Any]]:
    """Returns the columns of a table with a row for each target, horizon and time; NaN becomes None.

    Args:
        forecasts: the forecasts.
        method: that of `forecasting.method`.
        axis: times of the series, if they are known.
        labels_T: split of each row of the series, if it is known; rows beyond its end have none.
    """
    columns: dict[str, list[Any]] = {name: [] for name in ("line", "target", "horizon", "method", "time", "split")}
    numbers: dict[str, list[Array]] = {name: [] for name in ("forecast", "actual", "residual", "z_score")}
    for forecast in forecasts:
        rows = forecast.times_N.tolist()
        columns["line"] += rows
        columns["time"] += [None if axis is None else axis.label(row) for row in rows]
        columns["split"] += [
            str(labels_T[row]) if labels_T is not None and row < len(labels_T) else None for row in rows
        ]
        for name, value in (("target", forecast.target), ("horizon", forecast.horizon), ("method", method)):
            columns[name] += [value] * len(forecast.times_N)
        for name, values_N in (
            ("forecast", forecast.forecasts_N),
            ("actual", forecast.actuals_N),
            ("residual", forecast.residuals_N),
            ("z_score", forecast.z_scores_N),
        ):
            numbers[name].append(values_N)
    joined = {name: np.concatenate(arrays) for name, arrays in numbers.items()}
    return {**columns, **{name: [None if math.isnan(x) else x for x in all_.tolist()] for name, all_ in joined.items()}}
