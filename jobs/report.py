"""Writes the report of a run: `report.json`, and `report.html` to look at."""

from typing import Any

from core.reporting import page
from core.storage import location
from jobs import console, document


def run(root: location.Location, reporter: console.Reporter) -> dict[str, Any]:
    """Gathers what is known about a run and writes both files beside its settings.

    Raises:
        UsageError: there is no run at this place.
        IntegrityError: a file of the run is damaged.
    """
    with reporter.stage("report", 2, "files") as stage:
        report = page.build(root)
        root.join("report.json").replace(document.encode(report).encode())
        stage.advance()
        html = page.render(report)
        root.join("report.html").replace(html.encode())
        stage.advance()
    return {"verb": "report", "json": str(root.join("report.json")), "html": str(root.join("report.html"))}
