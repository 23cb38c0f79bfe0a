"""The demo: both kinds of model, from the built-in grammar to translations and scores, in one session."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rich.console
import rich.table

from core.config import schema
from core.data.builtin import sentences
from core.storage import location
from jobs import console, pipeline, run_state
from workers.cluster import session as sessions
from workers.fanout import progress_display

NUM_PAIRS = 20_000
SEED = 1
_SAMPLES = 4
_MEASURES = {
    "bleu": "BLEU",
    "chrf": "chrF",
    "ter": "TER",
    "perplexity": "perplexity of a token",
    "bits_per_character": "bits per character",
}

Report = dict[str, Any]


def run(
    root: location.Location,
    configs: Sequence[schema.RunConfig],
    session: sessions.Session,
    reporter: progress_display.Reporter,
) -> Report:
    """Makes the corpora, runs each configuration's pipeline, and shows what came out.

    Raises:
        RaycurrentError: as of `pipeline`.
    """
    started_s = time.monotonic()
    with reporter.stage("corpus", 2, "files") as stage:
        for name, write in (("pairs.tsv", sentences.write_pairs), ("english.txt", sentences.write_english)):
            place = root.join("corpus", name)
            if not place.exists():
                with tempfile.TemporaryDirectory(prefix="rc-demo-") as folder:
                    path = Path(folder, name)
                    write(path, SEED, 0, NUM_PAIRS)
                    place.put_file_if_absent(path)
            stage.advance()
    runs = {config.name: pipeline.run(config, session, reporter) for config in configs}
    elapsed_s = time.monotonic() - started_s
    _show(root, runs, elapsed_s)
    # Short, for on a terminal it follows what is to be read; each run's own files have the rest.
    made = {name: {"root": report["root"], **_measured(report)} for name, report in runs.items()}
    return {"verb": "demo", "root": str(root), "elapsed_s": round(elapsed_s, 1), "runs": made}


def _show(root: location.Location, runs: dict[str, Report], elapsed_s: float) -> None:
    out = rich.console.Console(stderr=True, highlight=False, markup=False)
    out.print(_figures(runs))
    for report in runs.values():
        samples = location.Location.parse(report["root"]).join("report.json").read_json()["samples"]
        for sample in samples["translations"][:_SAMPLES]:
            out.print(f"  source       {sample['source']}", soft_wrap=True)
            out.print(f"  translation  {sample['hypothesis']}", soft_wrap=True)
            out.print(f"  reference    {sample['reference']}\n", soft_wrap=True)
        for sample in samples["generated"]:
            out.print(f"  after {sample['prefix']!r}: {console.shown(sample['text'], limit=300)}\n")
    out.print(_times(runs, elapsed_s))
    out.print("What was made:")
    for report in runs.values():
        for name in ("report.html", "outputs", "checkpoints", "dataset"):
            out.print(f"  {report['root']}/{name}", soft_wrap=True)
    out.print(f"  {root}/corpus", soft_wrap=True)


def _figures(runs: dict[str, Report]) -> rich.table.Table:
    table = rich.table.Table("run", "measure", rich.table.Column("value", justify="right"), "on")
    for name, report in runs.items():
        measured = _measured(report)
        for key, label in _MEASURES.items():
            if key in measured:
                table.add_row(name, label, f"{measured[key]:.2f}", f"{measured['held_out_lines']} held-out lines")
        table.add_row(name, "steps", f"{measured['steps']}", "training")
    return table


def _measured(report: Report) -> dict[str, float]:
    """What a run came to: of a translation model its quality, of a language model its bits for each character."""
    stages = report["stages"]
    quality, scores = stages.get("evaluate", {}), stages.get("score", {})
    found = {**scores, **quality}
    if quality:
        found.pop("bits_per_character", None)
    measures = {key: found[key] for key in _MEASURES if isinstance(found.get(key), int | float)}
    return {"steps": stages["train"]["step"], "held_out_lines": scores.get("lines", 0), **measures}


def _times(runs: dict[str, Report], elapsed_s: float) -> rich.table.Table:
    """Where the time went: what each stage took when it was done, and the rest of this call."""
    table = rich.table.Table("where the time went", rich.table.Column("seconds", justify="right"))
    for name, report in runs.items():
        stages = run_state.read(location.Location.parse(report["root"]))["stages"]
        for stage, kept in stages.items():
            table.add_row(f"{name}: {stage}", f"{kept.get('elapsed_s', 0.0):.1f}")
    table.add_row("this call in all", f"{elapsed_s:.1f}")
    return table
