"""The demo: both kinds of model, from the built-in grammar to translations and scores, in one session."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rich.console
import rich.table

from core.config import schema
from core.data import synthetic
from core.storage import location
from jobs import console, pipeline, record
from workers import cluster

NUM_PAIRS = 20_000
SEED = 1
_SAMPLES = 4

Report = dict[str, Any]


def run(
    root: location.Location,
    configs: Sequence[schema.RunConfig],
    session: cluster.Session,
    reporter: console.Reporter,
) -> Report:
    """Makes the corpora, runs each configuration's pipeline, and shows what came out.

    Raises:
        RaycurrentError: as of `pipeline`.
    """
    started_s = time.monotonic()
    with reporter.stage("corpus", 2, "files") as stage:
        for name, write in (("pairs.tsv", synthetic.write_pairs), ("english.txt", synthetic.write_english)):
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
    return {"verb": "demo", "root": str(root), "elapsed_s": round(elapsed_s, 1), "runs": runs}


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
        stages = report["stages"]
        quality, scores = stages.get("evaluate", {}), stages.get("score", {})
        lines = f"{scores.get('lines', 0)} held-out lines"
        for measure, value in (
            ("BLEU", quality.get("bleu")),
            ("chrF", quality.get("chrf")),
            ("TER", quality.get("ter")),
            ("perplexity of a token", scores.get("perplexity")),
            ("bits per character", scores.get("bits_per_character") if not quality else None),
        ):
            if isinstance(value, int | float):
                table.add_row(name, measure, f"{value:.2f}", lines)
        table.add_row(name, "steps", f"{stages['train']['step']}", "training")
    return table


def _times(runs: dict[str, Report], elapsed_s: float) -> rich.table.Table:
    """Where the time went: what each stage took when it was done, and the rest of this call."""
    table = rich.table.Table("where the time went", rich.table.Column("seconds", justify="right"))
    for name, report in runs.items():
        stages = record.read(location.Location.parse(report["root"]))["stages"]
        for stage, kept in stages.items():
            table.add_row(f"{name}: {stage}", f"{kept.get('elapsed_s', 0.0):.1f}")
    table.add_row("this call in all", f"{elapsed_s:.1f}")
    return table
