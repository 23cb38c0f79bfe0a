"""Scores a file, or standard input, with a trained run: how likely its lines are, or given translations of them."""

import math
import sys
import time
from collections.abc import Sequence
from typing import Any

from core import errors
from core.config import inference_settings, model_settings, schema
from core.data.dataset import shards
from core.decoding.lines import inputs, outputs
from core.decoding.scoring import scorer
from core.decoding.translation import target_tokens
from core.models import bundle as bundles
from core.models import compute as computing
from core.storage import location
from jobs import paths
from workers.cluster import session as clusters
from workers.fanout import progress_display
from workers.infer import driver, part_worker

# What the fingerprint of the bundle says.
_OTHERS = {"average_checkpoints"}


def plan(
    bundle: bundles.Bundle,
    sources: Sequence[inputs.Input],
    scoring: inference_settings.ScoringConfig,
    compute: schema.ComputeConfig,
    dataset: shards.Dataset | None = None,
) -> dict[str, Any]:
    """Says all that the scores depend on."""
    return {
        "verb": "score",
        "bundle": bundle.fingerprint,
        "input": sources[0].identity(),
        "targets": sources[1].identity() if len(sources) > 1 else None,
        "scoring": scoring.model_dump(mode="json", exclude=_OTHERS),
        "precision": bundle.precision if compute.precision == "auto" else compute.precision,
        "matmul": compute.matmul,
        "dataset": None if dataset is None else [record.sha256 for record in dataset.index.splits["train"]],
    }


def run(
    run: location.Location,
    input: str,
    targets: str | None,
    output: str,
    column: str | None,
    scoring: inference_settings.ScoringConfig,
    compute: schema.ComputeConfig,
    cluster: schema.ClusterConfig,
    session: clusters.Session,
    reporter: progress_display.Reporter,
    overwrite: bool = False,
    stdout: int = 1,
) -> dict[str, Any]:
    """Scores every line of the input; what an earlier run of the same plan committed is not done again.

    The arguments are those of `translate`; `targets` are translations of the input, line by line, for the
    forced-decoding scores of a seq2seq.

    Raises:
        UsageError: the run's model does not score such input, or input and output do not fit.
        DataError: more lines fail than max(10, 0.1 %), or the targets have another number of lines.
        LockedError: the output was begun with another plan, or is somebody else's.
    """
    started_s = time.monotonic()
    driver.check_streams(input, output, column)
    opened = driver.open_run("score", run, scoring.average_checkpoints)
    _check(opened.bundle, input, targets, scoring, compute)
    dataset = None
    if scoring.dynamic is not None and scoring.dynamic.rule == "rms":
        asked = "scoring.dynamic.rule: rms measures gradients on training text"
        dataset = driver.open_dataset(run, opened.bundle, asked, "use rule: sgd")
    device = "cuda" if cluster.use_gpu else "cpu"
    if input == "-":
        computing.set_threads(cluster.cpus_per_worker)
        ready = scorer.Scorer(opened.bundle, scoring, compute, device)
        totals = driver.stream("scores", sys.stdin.buffer, stdout, scoring.part_lines, ready.score_lines)
        done = {**summarise(totals, scoring, 1), **driver.speed(totals.lines, started_s)}
        return {**opened.report, "input": input, "output": output, **done}
    target = outputs.Output.at("scores", paths.writable(output, "--output"), output.endswith("/"), "--output")
    files = _scan(input, targets, column, scoring.part_lines, target)
    spec = part_worker.Spec(
        bundle=opened.urls[0],
        kind="scores",
        decoding=inference_settings.DecodingConfig(),
        scoring=scoring,
        compute=compute,
        folder=target.folder.url,
        plan=plan(opened.bundle, files, scoring, compute, dataset),
        device=device,
        threads=cluster.cpus_per_worker,
        members=(opened.urls,),
        dataset=None if dataset is None else dataset.folder.url,
    )
    with target.lock("score"):
        backward = model_settings.reads_backward(opened.bundle.config)
        figures, num_done = _do(spec, target, files, backward, session, reporter, overwrite)
    place = str(paths.locate(input, "--input"))
    report = {**opened.report, "input": place, "output": str(target.file or target.folder), **figures}
    return {**report, **driver.speed(num_done, started_s)}


def _do(
    spec: part_worker.Spec,
    target: outputs.Output,
    files: Sequence[inputs.Input],
    backward: bool,
    session: clusters.Session,
    reporter: progress_display.Reporter,
    overwrite: bool,
) -> tuple[dict[str, Any], int]:
    """Does what is not done yet; returns the figures of all, and how many lines were done now."""
    num_done = 0
    store = target.begin(spec.plan, overwrite)
    manifest = target.finished(store)
    if manifest is None:
        rounds = _rounds(spec, inputs.pieces(files), backward, session, reporter)
        with reporter.stage("score", files[0].num_lines, "lines") as stage:
            records, num_done = driver.do_parts(spec, "score", rounds, session, stage.advance)
            figures = summarise(driver.Totals.of(records), spec.scoring, len(rounds[0]) if rounds else 0)
            manifest = target.finish(store, records, {"summary": figures})
    return dict(manifest["summary"]), num_done


def summarise(totals: driver.Totals, scoring: inference_settings.ScoringConfig, num_lanes: int) -> dict[str, Any]:
    """The figures of the corpus; `<eos>` is a token like any other, where the model has one.

    `infinite` counts tokens that the model holds impossible: with one of them all sums are infinite, and none is left
    out. Perplexity is exp of the nats of a token, bits per character the bits of all tokens over all characters;
    `accuracy` the share of tokens that the model held for the likeliest. `unk` of the tokens are unknown words.
    """
    figures: dict[str, Any] = {"unit": scoring.unit, "lines": totals.lines, **totals.problems()}
    if scoring.unit == "stream":
        figures["lanes"] = num_lanes
    figures |= {"tokens": totals.tokens, "unk": totals.unk, "characters": totals.characters}
    if totals.infinite:
        figures["infinite"] = totals.infinite
    figures["nll_nats"] = part_worker.spelt(totals.nats)
    if totals.tokens and totals.correct is not None:
        figures["accuracy"] = totals.correct / totals.tokens
    if totals.tokens:
        mean = totals.nats / totals.tokens
        figures["nll_nats_per_token"] = part_worker.spelt(mean)
        figures["perplexity"] = part_worker.spelt(math.exp(mean) if mean < 700 else math.inf)
    if totals.characters:
        figures["bits_per_character"] = part_worker.spelt(totals.nats / math.log(2) / totals.characters)
    return figures


def _check(
    bundle: bundles.Bundle,
    source: str,
    targets: str | None,
    scoring: inference_settings.ScoringConfig,
    compute: schema.ComputeConfig,
) -> None:
    """Refuses what does not go together."""
    if bundle.config.kind == "autoregressive":
        raise errors.UsageError("--run: this run is an autoregressive, which scores no text: use forecast")
    target_tokens.with_target_token(bundle, scoring.target_token, "scoring.target_token")
    is_seq2seq = bundle.config.kind == "seq2seq"
    if is_seq2seq and targets is None:
        raise errors.UsageError("--targets: this run is a seq2seq: name the translations of the input that it scores")
    if not is_seq2seq and targets is not None:
        kind = bundle.config.kind
        raise errors.UsageError(f"--targets: this run is a {kind}, which scores lines alone; leave it out")
    for name in ("cache", "dynamic"):
        if bundle.config.kind == "ngram" and getattr(scoring, name) is not None:
            raise errors.UsageError(f"scoring.{name}: an n-gram model has no hidden states to use; leave it out")
    if scoring.dynamic is not None and compute.precision == "int8":
        raise errors.UsageError("scoring.dynamic: rounded weights cannot learn; use compute.precision: fp32 or bf16")
    if is_seq2seq and scoring.unit == "stream":
        raise errors.UsageError("scoring.unit: translations are scored line by line; use line")
    if scoring.unit == "line" and scoring.lanes > 1:
        raise errors.UsageError("scoring.lanes: lines alone have no lanes; use unit: stream")
    if source == "-" and (is_seq2seq or scoring.unit == "stream"):
        raise errors.UsageError("--input: of standard input lines alone are scored; write it to a file first")


def _scan(
    source: str, targets: str | None, column: str | None, part_lines: int, target: outputs.Output
) -> list[inputs.Input]:
    """Reads the input, and the targets beside it."""
    named = [(source, "--input")] + ([] if targets is None else [(targets, "--targets")])
    places = [(paths.locate(text, where), where) for text, where in named]
    target.refuse_inputs([place for place, _ in places])
    # The column belongs to what has columns: plain targets may stand beside an input with columns.
    plain = {place for place, _ in places if inputs.form_of(place) == "text"}
    plain = plain if len(plain) < len(places) else set()
    return [
        inputs.scan(place, None if place in plain else column, part_lines, target.folder, where)
        for place, where in places
    ]


def _rounds(
    spec: part_worker.Spec,
    pieces: Sequence[inputs.Piece],
    backward: bool,
    session: clusters.Session,
    reporter: progress_display.Reporter,
) -> Sequence[Sequence[part_worker.Payload]]:
    """The parts, in rounds; in a lane that is read backward the last part comes first."""
    if spec.scoring.unit == "line":
        return driver.of_lines(pieces)
    order = -1 if backward else 1
    if spec.scoring.lanes == 1 or not pieces:
        return driver.of_stream([pieces[::order]] if pieces else [])
    with reporter.stage("count tokens", sum(piece.num_lines for piece in pieces), "lines") as stage:
        counts = driver.count_tokens(spec, "score", pieces, session, stage.advance)
    lanes = inputs.cut_lanes(pieces, spec.scoring.lanes, counts, part_worker.CountWorker(spec))
    return driver.of_stream([lane[::order] for lane in lanes])
