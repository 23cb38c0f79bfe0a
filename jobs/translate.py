"""Translates a file, or standard input, with a trained run."""

import sys
import time
from typing import Any

from core.config import inference_settings, schema
from core.decoding import inputs, outputs, translator
from core.models import bundle as bundles
from core.models import compute as computing
from core.storage import location
from jobs import console, paths
from workers import cluster as clusters
from workers import inference, parts

# Settings of `generate`: a translation does not depend on them.
_OTHERS = {"num_tokens", "method", "temperature", "top_k", "top_p"}


def plan(
    bundle: bundles.Bundle,
    source: inputs.Input,
    decoding: inference_settings.DecodingConfig,
    compute: schema.ComputeConfig,
) -> dict[str, Any]:
    """Says all that the translations depend on."""
    return {
        "verb": "translate",
        "bundle": bundle.fingerprint,
        "input": source.identity(),
        "decoding": decoding.model_dump(mode="json", exclude=_OTHERS),
        "precision": bundle.precision if compute.precision == "auto" else compute.precision,
        "matmul": compute.matmul,
    }


def run(
    run: location.Location,
    input: str,
    output: str,
    column: str | None,
    decoding: inference_settings.DecodingConfig,
    compute: schema.ComputeConfig,
    cluster: schema.ClusterConfig,
    session: clusters.Session,
    reporter: console.Reporter,
    overwrite: bool = False,
    stdout: int = 1,
) -> dict[str, Any]:
    """Translates every line of the input; what an earlier run of the same plan committed is not done again.

    `run` is the root of a run or one checkpoint folder, `output` a file or (ending in `/`) a folder; input and
    output are `-` for the standard ones, of which `stdout` is the real descriptor. `column` says where JSONL and
    Parquet have their text; `overwrite` removes first what another run has written.

    Raises:
        UsageError: the run holds a language model, or input and output do not fit.
        DataError: more lines fail than max(10, 0.1 %).
        LockedError: the output was begun with another plan, or is somebody else's.
    """
    started_s = time.monotonic()
    parts.check_streams(input, output, column)
    opened = parts.open_run("translate", run)
    translator.check(opened.bundle)
    device = "cuda" if cluster.use_gpu else "cpu"
    if input == "-":
        computing.set_threads(cluster.cpus_per_worker)
        ready = translator.Translator(opened.bundle, decoding, compute, device)
        done = parts.stream("translations", sys.stdin.buffer, stdout, decoding.part_lines, ready.translate)
        return {**opened.report, "input": input, "output": output, **done, **parts.speed(done["lines"], started_s)}
    place = paths.locate(input, "--input")
    target = outputs.Output.at("translations", paths.writable(output, "--output"), output.endswith("/"), "--output")
    target.refuse_inputs([place])
    source = inputs.scan(place, column, decoding.part_lines, target.folder, "--input")
    spec = inference.Spec(
        bundle=opened.url,
        kind="translations",
        decoding=decoding,
        scoring=inference_settings.ScoringConfig(),
        compute=compute,
        folder=target.folder.url,
        plan=plan(opened.bundle, source, decoding, compute),
        device=device,
        threads=cluster.cpus_per_worker,
    )
    with target.lock("translate"):
        store = target.begin(spec.plan, overwrite)
        manifest = target.finished(store)
        if manifest is None:
            with reporter.stage("translate", source.num_lines, "lines") as stage:
                rounds = parts.of_lines(inputs.pieces([source]))
                records = parts.do_parts(spec, "translate", rounds, session, stage.advance)
                manifest = target.finish(store, records, {"summary": summarise(parts.Totals.of(records))})
    report = {**opened.report, "input": str(place), "output": str(target.file or target.folder), **manifest["summary"]}
    return {**report, **parts.speed(source.num_lines, started_s)}


def summarise(totals: parts.Totals) -> dict[str, Any]:
    """The figures of the corpus."""
    nats = inference.spelt(totals.nats)
    return {"lines": totals.lines, **totals.problems(), "tokens": totals.tokens, "score_nats": nats}
