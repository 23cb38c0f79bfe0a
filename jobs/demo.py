"""Demo: a translation model and a language model, trained and evaluated on text of the built-in grammar."""

import time
from collections.abc import Sequence
from typing import Any

import rich.console
import rich.table

from core.config import schema
from core.data.builtin import sentences
from core.reporting import units
from core.storage import location, private_folders, root_layout
from jobs import console, pipeline, run_state
from workers.cluster import session as sessions
from workers.fanout import progress_display

NUM_PAIRS = 20_000
SEED = 1
_NUM_SAMPLES = 4
_MEASURES = {
    "bleu": "BLEU",
    "chrf": "chrF",
    "ter": "TER",
    "perplexity": "perplexity per token",
    "bits_per_character": "bits per character",
}
_BY_UNIT = ("perplexity", "bits_per_character")  # figures that depend on the unit of scoring

Report = dict[str, Any]


def run(
    root: location.Location,
    configs: Sequence[schema.RunConfig],
    session: sessions.Session,
    reporter: progress_display.Reporter,
) -> Report:
    """Writes the corpora, runs the pipeline of each configuration, and prints figures, samples and times to stderr.

    Raises:
        RaycurrentError: see `pipeline.run`.
    """
    started_s = time.monotonic()
    with reporter.stage("corpus", 2, "files") as stage:
        for name, write in (("pairs.tsv", sentences.write_pairs), ("english.txt", sentences.write_english)):
            target = root.join("corpus", name)
            # The text follows from the seed: a file of an earlier call is the same.
            if not target.exists():
                with private_folders.scratch() as folder:
                    path = folder / name
                    write(path, SEED, 0, NUM_PAIRS)
                    target.put_file_if_absent(path)
            stage.advance()
    runs = {config.name: pipeline.run(config, session, reporter) for config in configs}
    elapsed_s = time.monotonic() - started_s
    if console.shows_notes():
        _print_results(root, runs, elapsed_s)
    # A short document, because on a terminal it follows the tables; run.json and report.json of each run have the rest.
    figures = {name: {"root": report["root"], **_figures(report)} for name, report in runs.items()}
    return {"verb": "demo", "root": str(root), "elapsed_s": round(elapsed_s, 1), "runs": figures}


def _print_results(root: location.Location, runs: dict[str, Report], elapsed_s: float) -> None:
    out = rich.console.Console(stderr=True, highlight=False, markup=False)
    out.print(_figures_table(runs))
    for report in runs.values():
        samples = location.Location.parse(report["root"]).join(root_layout.REPORT_JSON).read_json()["samples"]
        for sample in samples["translations"][:_NUM_SAMPLES]:
            out.print(f"  source       {sample['source']}", soft_wrap=True)
            out.print(f"  translation  {sample['hypothesis']}", soft_wrap=True)
            out.print(f"  reference    {sample['reference']}\n", soft_wrap=True)
        for sample in samples["generated"]:
            out.print(f"  prefix       {console.sanitize(sample['prefix'])}", soft_wrap=True)
            out.print(f"  generated    {console.sanitize(sample['text'], limit=300)}\n", soft_wrap=True)
    out.print(_times_table(runs, elapsed_s))
    out.print("Files:")
    for report in runs.values():
        for name in (root_layout.REPORT_HTML, root_layout.OUTPUTS, root_layout.CHECKPOINTS, root_layout.DATASET):
            out.print(f"  {report['root']}/{name}", soft_wrap=True)
    out.print(f"  {root}/corpus", soft_wrap=True)


def _figures_table(runs: dict[str, Report]) -> rich.table.Table:
    table = rich.table.Table("run", "measure", rich.table.Column("value", justify="right"), "data")
    for name, report in runs.items():
        figures = _figures(report)
        for key, label in _MEASURES.items():
            if key in figures:
                unit = f", by {figures['unit']}" if key in _BY_UNIT and "unit" in figures else ""
                table.add_row(name, label + unit, f"{figures[key]:.2f}", f"{figures['held_out_lines']} held-out lines")
        table.add_row(name, "steps", f"{figures['steps']}", "training split")
    return table


def _figures(report: Report) -> dict[str, Any]:
    """Returns the figures of a run: the quality of a translation model, or bits per character of a language model."""
    stages = report["stages"]
    quality, scores = stages.get("evaluate", {}), stages.get("score", {})
    values = {**scores, **quality}
    if quality:
        values.pop("bits_per_character", None)
    figures = {key: values[key] for key in _MEASURES if isinstance(values.get(key), int | float)}
    return {"steps": stages["train"]["step"], "held_out_lines": scores.get("lines", 0), **figures, **units.of(scores)}


def _times_table(runs: dict[str, Report], elapsed_s: float) -> rich.table.Table:
    """Returns a table of the seconds that each stage took, in whatever call it was done, and of this call in total."""
    table = rich.table.Table("time per stage", rich.table.Column("seconds", justify="right"))
    for name, report in runs.items():
        stages = run_state.read(location.Location.parse(report["root"]))["stages"]
        for stage, entry in stages.items():
            table.add_row(f"{name}: {stage}", f"{entry.get('elapsed_s', 0.0):.1f}")
    table.add_row("total of this call", f"{elapsed_s:.1f}")
    return table
