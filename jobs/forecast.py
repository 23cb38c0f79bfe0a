"""Forecasts of a numeric series with a trained run, in this process: values, residuals, and errors by split."""

import logging
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from core.config import inference_settings, schema, stored_forms
from core.data.series import dataset as series_dataset
from core.data.series import reading, splits
from core.data.text import source_files
from core.decoding.generation import forecast_errors, forecaster
from core.decoding.lines import output_writer, outputs, results
from core.models import bundle as bundles
from core.models import compute as computing
from core.reporting import forecast_page
from core.storage import commit, location
from jobs import paths, run_checks, settings
from workers.fanout import progress_display
from workers.infer import driver

PART = "part-000000"
_log = logging.getLogger(__name__)


class _Forecasts(NamedTuple):
    """Forecasts of a series, with what they are compared with.

    Attributes:
        table: the series.
        labels_T: split of each row; None without the dataset of the run.
        forecasts: by target and horizon.
        naive: the seasonal naive forecast by target.
        summary: the errors, as the report has them.
    """

    table: reading.Table
    labels_T: splits.Labels | None
    forecasts: list[forecaster.Forecast]
    naive: dict[str, forecast_errors.NaiveForecast]
    summary: dict[str, Any]


def plan(
    bundle: bundles.Bundle, table: reading.Table, forecasting: inference_settings.ForecastingConfig
) -> dict[str, Any]:
    """Returns all that the forecasts depend on."""
    return {
        "verb": "forecast",
        "bundle": bundle.fingerprint,
        # Of the values: the same series in another file format is the same input.
        "input": {"rows": len(table), "sha256": table.sha256},
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
    keeps_parts: bool = False,
) -> dict[str, Any]:
    """Forecasts every row of a series from the rows before it, and the values after its last row; returns the report.

    Args:
        run: root of a run, or one checkpoint folder.
        input: CSV with a header line, or Parquet, with the columns that the model was trained on.
        output: file or folder; a row for each target, horizon and row of the input. Beside a file, a page with plots
            is written, with `.html` appended to the name.
        forecasting: method and horizons.
        cluster: threads of an operation.
        reporter: shows progress.
        overwrite: replaces results of other settings.
        keeps_parts: keeps the folder of parts beside an output file.

    Raises:
        UsageError: the model does not forecast series, or not as far ahead as a horizon asks.
        DataError: a column is missing, is not numeric, has too few values, or its times are not regular.
        LockedError: the output belongs to another plan, or was not written by this command.
    """
    started_s = time.monotonic()
    run_checks.check_forecast(input, output)
    # In this process, with the threads of a worker: models of series are small.
    computing.set_threads(cluster.cpus_per_worker)
    opened = driver.open_run("forecast", run)
    model = forecaster.Forecaster(opened.bundle, forecasting)
    source = paths.locate(input, "--input")
    path = paths.writable(output, "--output")
    target = outputs.Output.at("forecasts", path, output.endswith("/"), "--output", keeps_parts)
    target.refuse_inputs([source])
    prepared = opened.bundle.series.of_forecasts(forecasting)
    table = reading.read([source_files.File(source)], model.columns, prepared, "--input")
    settings_of_output = plan(opened.bundle, table, forecasting)
    with (
        output_writer.open_output(target, "forecast", settings_of_output, overwrite) as opened_output,
        reporter.stage("forecast", len(table), "rows") as stage,
    ):
        manifest = opened_output.manifest
        already_done = manifest is not None
        if manifest is None:
            made = _forecast(model, table, driver.open_series(run, model.columns), forecasting)
            page = None if target.file is None else _page(made, forecasting.method, run, source)
            manifest = _finish(opened_output, made, forecasting.method, page)
        stage.advance(len(table))
    _log_headline(manifest["summary"])
    elapsed_s = round(time.monotonic() - started_s, 3)
    return _report(opened, source, target, forecasting.method, manifest) | {
        "already_done": already_done,
        "elapsed_s": elapsed_s,
    }


def _report(
    opened: driver.OpenedRun,
    source: location.Location,
    target: outputs.Output,
    method: str,
    manifest: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        **opened.report,
        "input": str(source),
        "output": str(target.file or target.folder),
        "pictures": None if target.file is None else str(outputs.beside(target.file, outputs.PICTURES)),
        "method": method,
        **manifest["summary"],
    }


def _forecast(
    model: forecaster.Forecaster,
    table: reading.Table,
    dataset: series_dataset.Dataset | None,
    forecasting: inference_settings.ForecastingConfig,
) -> _Forecasts:
    """Forecasts a series and computes the errors by split."""
    forecasts = model.forecast(table)
    labels_T = None if dataset is None else splits.label(table, dataset)
    # Without the training split there is neither a season nor a scale that would not be taken from the rows forecast.
    training_TC = table.values_TC[:0] if dataset is None else dataset.splits["train"].values_TC
    period = 1 if dataset is None and forecasting.period is None else forecasting.period
    columns = {name: model.columns.index(name) for name in model.targets}
    naive = {
        name: forecast_errors.NaiveForecast.fit(training_TC[:, column], period) for name, column in columns.items()
    }
    errors_by_split: dict[str, list[dict[str, Any]]] = {name: [] for name in splits.NAMES}
    for forecast in forecasts:
        actuals_T = table.values_TC[:, columns[forecast.target]]
        figures = forecast_errors.by_split(forecast, actuals_T, labels_T, naive[forecast.target])
        for name, row in figures.items():
            errors_by_split[name].append(row)
    errors_by_split = {name: rows for name, rows in errors_by_split.items() if rows}
    headline = forecast_errors.headline(errors_by_split)
    beyond_end = model.forecast_beyond_end(table)
    summary: dict[str, Any] = {
        "rows": len(table),
        "headline": {"split": headline, "errors": errors_by_split[headline] if headline else []},
        "errors_by_split": errors_by_split,
        "errors": [forecast.error_summary() for forecast in forecasts],  # of all rows, whatever their split
        "next": beyond_end,
    }
    if table.axis is not None:
        summary["next_times"] = [table.axis.label(len(table) + step) for step in range(max(forecasting.horizons))]
    return _Forecasts(table, labels_T, forecasts, naive, summary)


def _finish(output: output_writer.OpenedOutput, made: _Forecasts, method: str, page: str | None) -> dict[str, Any]:
    """Writes the rows, the page beside an output file and, last, the manifest; returns the manifest."""
    columns = forecaster.to_columns(made.forecasts, method, made.table.axis, made.labels_T)
    data = results.encode(results.forecast_table(columns))
    shard = commit.put_content(output.store.folder, PART, ".arrow", data).to_json()
    record = output.store.commit(PART, {"shard": shard, "files": [shard]})

    def write_page() -> None:
        for file in output.files:
            if page is not None:
                file.put_sidecar(outputs.PICTURES, page.splitlines)

    return output.finish([record], {"summary": made.summary}, write_page)


def _log_headline(summary: dict[str, Any]) -> None:
    """Logs the errors that say most; the summary of a release before has no such figures."""
    headline = summary.get("headline", {})
    if headline.get("split") == "train":
        _log.warning("--input: all rows were trained on; their errors say nothing of other data")
    for row in headline.get("errors", []):
        mase = "" if row["mase"] is None else f", MASE {row['mase']:.3g}"
        seasonal = "" if row["seasonal_rmse"] is None else f", seasonal naive {row['seasonal_rmse']:.4g}"
        _log.info(
            "%s rows, %s, %d ahead: RMSE %.4g (persistence %.4g%s)%s",
            headline["split"], row["target"], row["horizon"], row["rmse"], row["persistence_rmse"], seasonal, mase,
        )  # fmt: skip


def _page(made: _Forecasts, method: str, run: location.Location, source: location.Location) -> str:
    """Renders the page of a series."""
    axis, rows = made.table.axis, len(made.table)
    beyond = max(len(values) for values in made.summary["next"].values())
    numbers = range(rows + beyond)
    instants = [number if axis is None else axis.instant(number) for number in numbers]
    by_split = made.summary["errors_by_split"]
    without_splits = [row for row in made.summary["errors"] if "mse" in row]
    page = forecast_page.Page(
        name=settings.name_of(run),
        run=str(run),
        input=str(source),
        method=method,
        rows=rows,
        times=instants,
        labels=[str(number) if axis is None else axis.label(number) for number in numbers],
        step="" if axis is None else axis.describe_step(),
        splits=[] if made.labels_T is None else made.labels_T.tolist(),
        headline=made.summary["headline"]["split"],
        errors=by_split or {"all": without_splits},
        periods={name: naive.period for name, naive in made.naive.items()},
        next=made.summary["next"],
        curves=[_curve(forecast) for forecast in made.forecasts],
    )
    return forecast_page.render(page)


def _curve(forecast: forecaster.Forecast) -> forecast_page.Curve:
    # Actual values that are not known are NaN, which is unequal to itself.
    actual = [value if value == value else None for value in forecast.actuals_N.tolist()]
    return forecast_page.Curve(
        forecast.target, forecast.horizon, forecast.times_N.tolist(), forecast.forecasts_N.tolist(), actual
    )
