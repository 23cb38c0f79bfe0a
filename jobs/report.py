"""The verb `report`: `report.json` and `report.html` of a run, or one page that compares several runs."""

import itertools
import json
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple

from core import errors
from core.config import evaluation_settings
from core.data.dataset import dataset_index, overlap, shards
from core.evaluation import improvement, significance
from core.reporting import comparison, content, page, page_frame
from core.storage import control_files, location, root_layout
from jobs import json_documents, run_checks
from workers.fanout import progress_display

_HEAD_BYTES = 1024
_METHOD: Final = "bootstrap"  # of the test of significance
_log = logging.getLogger(__name__)


def run(
    roots: Sequence[location.Location], reporter: progress_display.Reporter, output: location.Location | None = None
) -> dict[str, Any]:
    """Writes the report of a run, or a comparison of several.

    Args:
        roots: roots of the runs.
        reporter: shows progress.
        output: HTML file to write the page to; nothing is then written below the roots. Without it, `report.json` and
            `report.html` are written to the root of the run.

    Raises:
        UsageError: there is no run at a root, or the output is missing or not an HTML file.
        LockedError: the output exists and is not a page of ours.
        IntegrityError: a file of a run is damaged.
    """
    run_checks.check_page(len(roots), output)
    if output is None:
        return _write_to_root(roots[0], reporter)
    _refuse_foreign_page(output)
    with reporter.stage("report", len(roots) + 2, "steps") as stage:
        reports = []
        for root in roots:
            with _reading(root):
                reports.append(content.build(root, _overlap(root)))
            stage.advance()
        with _reading(*roots):
            significant = _significance(roots, reports)
        stage.advance()
        with _reading(*roots):
            html = page.render(reports[0]) if len(reports) == 1 else comparison.render(reports, significant)
            data = html.encode()
        output.parent.sweep(recursive=False)
        output.replace(data)
        stage.advance()
    compared = {} if significant is None else {"improvement_by_length": significant["improvement_by_length"]}
    return {"verb": "report", "runs": [str(root) for root in roots], "html": str(output), **compared}


class _Translated(NamedTuple):
    """Held-out lines and their translations."""

    sources: list[str]
    references: list[str]
    hypotheses: list[str]


def _significance(roots: Sequence[location.Location], reports: Sequence[content.Report]) -> dict[str, Any] | None:
    """Returns which differences in quality between runs are significant; None unless they translated the same lines.

    They must be measured alike, too. Runs of several corpora are left out: a test is of one set of lines; and so are
    more lines than memory is meant for, of which no more than that are read.
    """
    translated = [
        None if report["tasks"] else _read_translations(root) for root, report in zip(roots, reports, strict=True)
    ]
    with_texts = [texts for texts in translated if texts is not None]
    evaluations = [report["settings"]["evaluation"] for report, texts in zip(reports, translated, strict=True) if texts]
    is_comparable = len(with_texts) > 1 and all(
        texts[:2] == with_texts[0][:2] and settings == evaluations[0]
        for texts, settings in zip(with_texts, evaluations, strict=True)
    )
    if not is_comparable:
        return None
    most_lines = significance.most_lines(_METHOD)
    if len(with_texts[0].sources) > most_lines:
        _log.warning("significance: left out: the runs translated more than %d lines", most_lines)
        return None
    try:
        hypotheses, references = [texts.hypotheses for texts in with_texts], [with_texts[0].references]
        settings = evaluation_settings.EvaluationConfig.model_validate(evaluations[0])
        compared = significance.compare(hypotheses, references, _METHOD, settings, "report")
        buckets = improvement.by_length(hypotheses, references, settings, "report")
    except errors.DataError as error:  # a file that is not complete
        _log.warning("significance: left out: %s", error)
        return None
    systems = iter(compared.systems)
    return {
        "lines": len(with_texts[0].sources),
        **compared.describe(),
        "systems": [None if texts is None else next(systems).to_json() for texts in translated],
        "improvement_by_length": [bucket.to_json() for bucket in buckets],
    }


def _read_translations(root: location.Location) -> _Translated | None:
    outputs = root.join(root_layout.OUTPUTS)
    split = next((split for split in ("test", "valid") if outputs.join(f"{split}.target.txt").exists()), None)
    translations = outputs.join("translations.jsonl")
    if split is None or not translations.exists():
        return None
    sources, references = (_read_lines(outputs.join(f"{split}.{side}.txt")) for side in ("source", "target"))
    return _Translated(sources, references, [json.loads(row)["text"] for row in _read_lines(translations)])


def _reading(*roots: location.Location) -> AbstractContextManager[None]:
    """Reports files of a run that hold other figures than a run writes; a run's own files have no hash but shards."""
    where = ", ".join(map(str, roots))
    return control_files.parsing(where, "restore run.json and the files in dataset/, metrics/ and outputs/ from a copy")


def _read_lines(path: location.Location) -> list[str]:
    """Returns the lines of a file, and of one with more lines than are compared only one more than that."""
    with path.open() as file:
        lines = itertools.islice(file, significance.most_lines(_METHOD) + 1)
        return [line.decode("utf-8", "replace").rstrip("\n") for line in lines]


def _write_to_root(root: location.Location, reporter: progress_display.Reporter) -> dict[str, Any]:
    json_file, html_file = root.join(root_layout.REPORT_JSON), root.join(root_layout.REPORT_HTML)
    with reporter.stage("report", 2, "files") as stage:
        with _reading(root):
            report = content.build(root, _overlap(root))
            html = page.render(report).encode()
        root.sweep(recursive=False)
        json_file.replace(json_documents.encode(report).encode())
        stage.advance()
        # Last: where this file exists, the pipeline takes the report as written.
        html_file.replace(html)
        stage.advance()
    return {"verb": "report", "json": str(json_file), "html": str(html_file)}


def read_hints(root: location.Location) -> list[dict[str, str]]:
    """Returns the hints of the report at a root; none where there is no report, or one of an older release."""
    try:
        content = root.join(root_layout.REPORT_JSON).read_json()
    except errors.NotFoundError:
        return []
    found_hints: list[dict[str, str]] = content.get("hints", []) if isinstance(content, dict) else []
    return found_hints


def _overlap(root: location.Location) -> dict[str, Any] | None:
    """Counts the held-out lines that are training lines, too; None where nothing is held out, and for series."""
    index = root.join(root_layout.DATASET, dataset_index.NAME)
    # The dataset of a series has no lines; one that is gone, or an older form, leaves a report without this figure.
    if not index.exists() or index.read_json().get("format") != dataset_index.FORMAT:
        return None
    dataset = shards.Dataset.open(root.join(root_layout.DATASET))
    split = next((split for split in ("test", "valid") if dataset.index.shards(split)), None)
    counted = None if split is None else overlap.count(dataset, split)
    return None if counted is None else counted._asdict()


def _refuse_foreign_page(output: location.Location) -> None:
    if not output.exists():
        return
    # The output is replaced, whatever it is: only a page of ours may be.
    head = output.read_range(0, min(_HEAD_BYTES, output.size_bytes()))
    if f'<meta name="generator" content="{page_frame.GENERATOR}">'.encode() not in head:
        raise errors.LockedError(f"--output: {output} exists and is not a report of Raycurrent; name another file")
