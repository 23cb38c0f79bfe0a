"""Forecasts a numeric series with a trained run, in this process: values, errors by horizon, residuals."""

import time
from typing import Any

from core import errors
from core.config import inference_settings, schema
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
    """Says all that the forecasts depend on."""
    return {
        "verb": "forecast",
        "bundle": bundle.fingerprint,
        "input": {"rows": len(values_TC), "sha256": commit.sha256_hex(values_TC.tobytes())},
        "forecasting": forecasting.model_dump(mode="json"),
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
    """Forecasts every row of a series from the rows before it, and what comes after its last one.

    Beside an output that is a file stands a page with its pictures, `….html`.

    Args:
        run: root of a run, or a checkpoint folder.
        input: CSV with a header line, or Parquet, with the columns that the model was trained on.
        output: a file, or a folder: a row for each target, horizon and row of the input.
        forecasting: method and horizons.
        cluster: threads of an operation.
        reporter: shows progress.
        overwrite: replaces the output of other settings.

    Raises:
        UsageError: the run's model forecasts no series, or not so far ahead.
        DataError: a column is missing, holds no numbers, or has too few.
        LockedError: the output was begun with another plan, or is somebody else's.
    """
    started_s = time.monotonic()
    if "-" in (input, output):
        raise errors.UsageError("--input, --output: a series is read whole; name files, not -")
    computing.set_threads(cluster.cpus_per_worker)
    opened = driver.open_run("forecast", run)
    ready = forecaster.Forecaster(opened.bundle, forecasting)
    source = paths.locate(input, "--input")
    target = outputs.Output.at("forecasts", paths.writable(output, "--output"), output.endswith("/"), "--output")
    target.refuse_inputs([source])
    values_TC = series.read([source], ready.columns, "--input")
    planned = plan(opened.bundle, values_TC, forecasting)
    with target.lock("forecast"), reporter.stage("forecast", len(values_TC), "rows") as stage:
        store = target.begin(planned, overwrite)
        manifest = target.finished(store)
        if manifest is None:
            made = ready.forecast(values_TC)
            figures = [one.errors() for one in made]
            summary = {"rows": len(values_TC), "errors": figures, "next": ready.beyond(values_TC)}
            manifest = _finish(target, store, made, forecasting.method, summary)
        stage.advance(len(values_TC))
    return {
        **opened.report,
        "input": str(source),
        "output": str(target.file or target.folder),
        "pictures": None if target.file is None else str(target.beside(outputs.PICTURES)),
        "method": forecasting.method,
        **manifest["summary"],
        "elapsed_s": round(time.monotonic() - started_s, 3),
    }


def _finish(
    target: outputs.Output,
    store: commit.PartStore,
    made: list[forecaster.Forecast],
    method: str,
    summary: dict[str, Any],
) -> dict[str, Any]:
    """Writes the rows, the page beside them, and last the manifest, which it returns."""
    data = results.encode(results.forecast_table(forecaster.rows(made, method)))
    shard = commit.put_content(store.folder, PART, ".arrow", data).to_json()
    record = store.commit(PART, {"shard": shard, "files": [shard]})
    if target.file is not None:
        target.put_beside(outputs.PICTURES, _page(made, method).splitlines())
    return target.finish(store, [record], {"summary": summary})


def _page(made: list[forecaster.Forecast], method: str) -> str:
    """Draws each horizon's forecasts over what came."""
    shown = []
    for one in made:
        figures = one.errors()
        known_N = one.residuals_N == one.residuals_N  # not NaN: it has come
        forecast = curves.Series("forecast", one.times_N.tolist(), one.forecasts_N.tolist())
        actual = curves.Series("actual", one.times_N[known_N].tolist(), one.actuals_N[known_N].tolist())
        mse = f"{figures['mse']:.4g}" if "mse" in figures else "–"
        shown.append(
            forecast_page.Shown(one.target, one.horizon, mse, str(figures.get("anomalies", "–")), forecast, actual)
        )
    return forecast_page.render(method, shown)
