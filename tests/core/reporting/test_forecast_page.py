"""The page of forecasts."""

import dataclasses
import datetime

from core.reporting import curves, forecast_page


def _row(target: str, horizon: int) -> dict[str, object]:
    errors = {"rmse": 0.5, "mae": 0.45, "mse": 0.25, "mase": 1.25, "persistence_rmse": 0.4, "seasonal_rmse": 0.6}
    return {"target": target, "horizon": horizon, "count": 2, **errors}


def _page(target: str = "<b>") -> forecast_page.Page:
    times = [datetime.datetime(2026, 1, day) for day in range(1, 8)]
    horizons = (1, 2)
    return forecast_page.Page(
        name="my <run>",
        run="/runs/a",
        input="/data/a.csv",
        method="recursive",
        rows=5,
        times=times,
        labels=[time.date().isoformat() for time in times],
        step="1 day",
        splits=["train", "train", "train", "test", "test"],
        headline="test",
        errors={
            "train": [_row(target, horizon) for horizon in horizons],
            "test": [_row(target, horizon) for horizon in horizons],
        },
        periods={target: 7},
        next={target: [5.0, 6.0]},
        curves=[
            forecast_page.Curve(target, horizon, [1, 2, 3, 4, 5], [1.0, 2, 3, 4, 5], [1.5, None, 3, 4, None])
            for horizon in horizons
        ],
    )


def test_the_page_has_times_splits_and_errors_and_escapes_names() -> None:
    html = forecast_page.render(_page())
    assert "<b>" not in html
    assert "my &lt;run&gt;: forecasts" in html
    assert html.count("<svg") == 2
    assert "http" not in html.replace("http://www.w3.org", "").replace("http-equiv", "")
    assert "2026-01-01 to 2026-01-05, 1 day apart" in html
    assert "<td>2026-01-06</td>" in html
    assert html.index("Test rows") < html.index("Training rows")
    assert "RMSE of &lt;b&gt;, 2 steps ahead, test rows" in html
    # persistence, the smallest RMSE, is bold in each row
    assert html.count('<td class="number best">0.4</td>') == 4
    assert "Season of &lt;b&gt;: 7 rows" in html
    for mark in (">train<", ">test<", ">actual<", ">forecast<"):
        assert html.count(mark) >= 2


def test_errors_of_rows_that_were_trained_on_are_called_so() -> None:
    page = _page()
    rows = page.errors["train"]
    trained = dataclasses.replace(page, headline="train", errors={"train": rows}, splits=["train"] * 5)
    assert "their errors say nothing of other data" in forecast_page.render(trained)
    unknown = dataclasses.replace(page, headline=None, errors={"all": rows}, splits=[], periods={"x": 1})
    html = forecast_page.render(unknown)
    assert "which of them were trained on is not known" in html
    assert "seasonal naive</th>" not in html


def test_thinned_lines_keep_peaks_ends_and_order() -> None:
    values = [0.0] * 10_000
    values[1234], values[7777] = 5.0, -4.0
    thin = curves.thin_extremes(curves.TimeLine("x", list(range(10_000)), values))
    times = [int(time) for time in thin.times if isinstance(time, int)]
    assert len(times) == len(thin.times) <= curves.MAX_POINTS + 2
    assert {1234: 5.0, 7777: -4.0}.items() <= dict(zip(times, thin.values, strict=True)).items()
    assert (times[0], times[-1]) == (0, 9999)
    assert times == sorted(set(times))
