"""The page of forecasts."""

from core.reporting import curves, forecast_page


def test_column_names_are_escaped_and_every_horizon_has_a_plot() -> None:
    line = curves.Series("actual", [0, 1, 2], [1.0, 2.0, 3.0])
    forecasts = [forecast_page.Forecast("<b>", horizon, "0.25", "3", line, line) for horizon in (1, 4)]
    page = forecast_page.render("recursive", forecasts)
    assert "<b>" not in page
    assert page.count("<svg") == 2
    assert page.count("<td>0.25</td>") == 2
    assert "http" not in page.replace("http://www.w3.org", "")
