"""Writes the report of a run, `report.json` and `report.html` to look at; or one page that compares several runs."""

from collections.abc import Sequence
from typing import Any

from core import errors
from core.reporting import comparison, content, page, page_frame
from core.storage import location
from jobs import json_documents
from workers.fanout import progress_display

_HEAD_BYTES = 1024


def run(
    roots: Sequence[location.Location], reporter: progress_display.Reporter, output: location.Location | None = None
) -> dict[str, Any]:
    """Gathers what is known about runs and writes it.

    Of one run, both files go beside its settings. With an output a page goes there, and nothing is written to a run:
    that of the one run, or a comparison of several.

    Raises:
        UsageError: there is no run at one of the places, or the page has none.
        LockedError: at the output is something else than a page of ours.
        IntegrityError: a file of a run is damaged.
    """
    _check(len(roots), output)
    if output is None:
        return _beside(roots[0], reporter)
    _refuse_others_page(output)
    with reporter.stage("report", len(roots) + 1, "steps") as stage:
        reports = []
        for root in roots:
            reports.append(content.build(root))
            stage.advance()
        html = page.render(reports[0]) if len(reports) == 1 else comparison.render(reports)
        output.replace(html.encode())
        stage.advance()
    return {"verb": "report", "runs": [str(root) for root in roots], "html": str(output)}


def _beside(root: location.Location, reporter: progress_display.Reporter) -> dict[str, Any]:
    with reporter.stage("report", 2, "files") as stage:
        report = content.build(root)
        root.join("report.json").replace(json_documents.encode(report).encode())
        stage.advance()
        html = page.render(report)
        root.join("report.html").replace(html.encode())
        stage.advance()
    return {"verb": "report", "json": str(root.join("report.json")), "html": str(root.join("report.html"))}


def _check(num_runs: int, output: location.Location | None) -> None:
    """Makes sure that a page has a place."""
    if output is None and num_runs > 1:
        raise errors.UsageError("RUN: several runs are compared on one page; say where it goes with --output PAGE.html")
    if output is not None and not output.name.endswith((".html", ".htm")):
        raise errors.UsageError(f"--output: {output} is a page; give it a name that ends in .html")


def _refuse_others_page(output: location.Location) -> None:
    if not output.exists():
        return
    head = output.read_range(0, min(_HEAD_BYTES, output.size_bytes()))
    if f'<meta name="generator" content="{page_frame.GENERATOR}">'.encode() not in head:
        raise errors.LockedError(f"--output: {output} exists and is no report of ours; name another file")
