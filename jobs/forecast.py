"""Forecasts of a numeric series with a trained run, in this process: values, residuals, and errors by horizon."""

import time
from typing import Any

from core import errors
from core.config import inference_settings, schema, stored_forms
from core.data import series
from core.decoding.generation import forecaster
from core.decoding.lines import outputs, results
from core.models import bundle as bundles
from core.models import compute as computing
from core.reporting import curves, forecast_page
from core.storage import commit, location
from jobs import paths
from workers.fanout import progress_display
from workers.infer import driver

PART = "part-000000"


def plan(
    bundle: bundles.Bundle, values_TC: series.Array, forecasting: inference_settings.ForecastingConfig
) -> dict[str, Any]:
    """Returns all that the forecasts depend on."""
    return {
        "verb": "forecast",
        "bundle": bundle.fingerprint,
        # Of the values: the same series in another file format is the same input.
        "input": {"rows": len(values_TC), "sha256": commit.sha256_hex(values_TC.tobytes())},
        "forecasting": stored_forms.of_forecasting(forecasting),
    }


def run(
    run: location.Location,
    input: str,
    output: str,
    forecasting: inference_settings.ForecastingConfig,
    cluster: schema.ClusterConfig,
    reporter: progress_display.Reporter,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Forecasts every row of a series from the rows before it, and the values after its last row; returns the report.

    With an output file, a page with plots is written next to it, with `.html` appended to its name.

    Args:
        run: root of a run, or one checkpoint folder.
        input: CSV with a header line, or Parquet, with the columns that the model was trained on.
        output: file or folder; a row for each target, horizon and row of the input.
        forecasting: method and horizons.
        cluster: threads of an operation.
        reporter: shows progress.
        overwrite: removes results of other settings first.

    Raises:
        UsageError: the model does not forecast series, or not as far ahead as a horizon asks.
        DataError: a column is missing, is not numeric, or has too few values.
        LockedError: the output belongs to another plan, or was not written by this command.
    """
    started_s = time.monotonic()
    if "-" in (input, output):
        raise errors.UsageError("--input, --output: a series is read as a whole; name files, not -")
    # In this process, with the threads of a worker: models of series are small.
    computing.set_threads(cluster.cpus_per_worker)
    opened = driver.open_run("forecast", run)
    model = forecaster.Forecaster(opened.bundle, forecasting)
    source = paths.locate(input, "--input")
    target = outputs.Output.at("forecasts", paths.writable(output, "--output"), output.endswith("/"), "--output")
    target.refuse_inputs([source])
    values_TC = series.read([source], model.columns, "--input")
    planned = plan(opened.bundle, values_TC, forecasting)
    with target.lock("forecast"), reporter.stage("forecast", len(values_TC), "rows") as stage:
        store = target.begin(planned, overwrite)
        manifest = target.finished(store)
        already_done = manifest is not None
        if manifest is None:
            forecasts = model.forecast(values_TC)
            figures = [forecast.error_summary() for forecast in forecasts]
            summary = {"rows": len(values_TC), "errors": figures, "next": model.forecast_beyond_end(values_TC)}
            manifest = _finish(target, store, forecasts, forecasting.method, summary)
        stage.advance(len(values_TC))
    return {
        **opened.report,
        "input": str(source),
        "output": str(target.file or target.folder),
        "pictures": None if target.file is None else str(target.sidecar(outputs.PICTURES)),
        "method": forecasting.method,
        **manifest["summary"],
        "already_done": already_done,
        "elapsed_s": round(time.monotonic() - started_s, 3),
    }


def _finish(
    target: outputs.Output,
    store: commit.PartStore,
    forecasts: list[forecaster.Forecast],
    method: str,
    summary: dict[str, Any],
) -> dict[str, Any]:
    """Writes the rows, the page of plots and, last, the manifest; returns the manifest."""
    data = results.encode(results.forecast_table(forecaster.to_columns(forecasts, method)))
    shard = commit.put_content(store.folder, PART, ".arrow", data).to_json()
    record = store.commit(PART, {"shard": shard, "files": [shard]})
    if target.file is not None:
        # Before the manifest: a complete output has its page.
        target.put_sidecar(outputs.PICTURES, _page(forecasts, method).splitlines())
    return target.finish(store, [record], {"summary": summary})


def _page(forecasts: list[forecaster.Forecast], method: str) -> str:
    """Renders the plots of forecast and actual values, one for each target and horizon."""
    shown = []
    for forecast in forecasts:
        figures = forecast.error_summary()
        # The actual values after the end of the series are not known: NaN, which is unequal to itself.
        known_N = forecast.residuals_N == forecast.residuals_N
        forecast_curve = curves.Series("forecast", forecast.times_N.tolist(), forecast.forecasts_N.tolist())
        actual_curve = curves.Series("actual", forecast.times_N[known_N].tolist(), forecast.actuals_N[known_N].tolist())
        mse = f"{figures['mse']:.4g}" if "mse" in figures else "–"
        shown.append(
            forecast_page.Forecast(
                forecast.target, forecast.horizon, mse, str(figures.get("anomalies", "–")), forecast_curve, actual_curve
            )
        )
    return forecast_page.render(method, shown)
