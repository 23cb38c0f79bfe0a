"""Scoring of files or of standard input: log-probabilities of lines, or of given translations of them."""

import itertools
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from core import errors
from core.config import inference_settings, model_settings, schema, stored_forms
from core.data import score_unit
from core.data.dataset import shards
from core.decoding import device as devices
from core.decoding.lines import inputs, output_writer, outputs, results, stream_lanes
from core.decoding.scoring import ranking, scorer
from core.decoding.translation import target_tokens
from core.models import bundle as bundles
from core.models import compute as computing
from core.storage import json_values, location, node_cache
from jobs import input_names, line_files, run_checks, score_mixture
from workers.fanout import executor as executors
from workers.fanout import progress_display
from workers.infer import driver, part_runner, part_worker


@dataclass(frozen=True)
class Request:
    """One call of the command.

    Attributes:
        run: root of a run, or one checkpoint folder.
        input: file of lines; several: files, folders and globs; `-` for standard input, which requires standard output.
        output: file, folder (ends in `/`), or `-`; of several inputs a folder.
        scoring: settings of scoring.
        compute: numerical settings.
        cluster: where the work runs.
        targets: translations of the input, line by line, which a seq2seq scores by forced decoding; of several inputs
            one file for each, of its name.
        column: text column of JSONL and Parquet.
        others: further runs, which are mixed with the first.
        overwrite: replaces results of other settings.
        keeps_parts: keeps the folder of parts beside an output file.
        stdout: descriptor of the real standard output.
        max_lines: lines that are scored at most of a file, spread over it; None: all.
        format: of several inputs: format of the results; None: JSONL.
    """

    run: location.Location
    input: input_names.Names
    output: str
    scoring: inference_settings.ScoringConfig
    compute: schema.ComputeConfig
    cluster: schema.ClusterConfig
    targets: input_names.Names | None = None
    column: str | None = None
    others: Sequence[location.Location] = ()
    overwrite: bool = False
    keeps_parts: bool = False
    stdout: int = 1
    max_lines: int | None = None
    format: input_names.Format | None = None

    @property
    def cache(self) -> node_cache.NodeCache:
        """The copies on this node of files in an object store."""
        return node_cache.NodeCache(self.cluster.cache_size_bytes)


def plan(
    members: Sequence[bundles.Bundle],
    request: Request,
    files: Sequence[line_files.Scanned],
    target: outputs.Output,
    dataset: shards.Dataset | None = None,
    fit_on: inputs.Input | None = None,
) -> dict[str, Any]:
    """Returns all that the scores depend on.

    Args:
        members: the model, or those of a mixture.
        request: the call.
        files: the inputs and, if given, their targets.
        target: the output.
        dataset: the training data that dynamic evaluation measures gradients on.
        fit_on: the held-out file that the weights of a mixture are fitted on.
    """
    compute = request.compute
    num_lines = max(file.files[0].num_lines for file in files)
    is_cut = request.max_lines is not None and num_lines > request.max_lines
    fingerprints = [member.fingerprint for member in members]
    scoring = stored_forms.of_scoring(request.scoring)
    if len(members) > 1:
        scoring["mixture"] = score_mixture.plan_entry(request.scoring, fit_on)
    return {
        "verb": "score",
        "bundle": fingerprints[0] if len(members) == 1 else fingerprints,
        "targets": None,
        **line_files.plan_entries(files, target, "targets"),
        "scoring": scoring,
        "precision": members[0].precision if compute.precision == "auto" else compute.precision,
        "matmul": compute.matmul,
        # Gradient statistics of dynamic evaluation are measured on the training text.
        "dataset": None if dataset is None else [record.sha256 for record in dataset.index.splits["train"]],
        **({"spread_lines": request.max_lines} if is_cut else {}),
    }


def run(request: Request, session: executors.Session, reporter: progress_display.Reporter) -> dict[str, Any]:
    """Scores every line of the inputs and returns the report; parts committed under the same plan are kept.

    Raises:
        UsageError: the model does not score such input, or inputs, output and settings do not fit together.
        DataError: more lines of an input fail than max(10, 0.1 %), or its targets have another number of lines.
        LockedError: the output belongs to another plan, or was not written by this command.
    """
    started_s = time.monotonic()
    named = input_names.find(request.input, request.targets, "--targets")
    run_checks.check_standard_streams(not named.inputs, request.output, request.column)
    runs = _open(request)
    members = [each.bundle for each in runs]
    # Here, not in each worker after it has started. Called for its error.
    devices.precision_of(members[0], request.compute, request.cluster.device)
    opened = {**runs[0].report, "members": [each.member for each in runs]} if len(runs) > 1 else runs[0].report
    if len(runs) > 1:
        # All in the precision of the first, as the members of an ensemble.
        precision = members[0].precision if request.compute.precision == "auto" else request.compute.precision
        request = replace(request, compute=request.compute.model_copy(update={"precision": precision}))
    scoring = request.scoring
    kind = score_mixture.rows_kind(scoring, len(runs))
    dataset = open_dataset(request.run, members[0], scoring, request.cache)
    if not named.inputs:
        with session.interrupting():
            totals, unit = _score_stdin(members, request), _unit(members[0], scoring, None)
        figures = {**score_mixture.report(scoring.mixture, len(runs)), **summarize(totals, unit, kind)}
        done = {"already_done": False, **driver.throughput(totals.lines, started_s)}
        return {**opened, "input": request.input, "output": request.output, **figures, **done}
    target = line_files.output(kind, named, request.output, request.format, request.keeps_parts)
    with session.interrupting():
        files = line_files.scan(named, request.column, scoring.part_lines, target, request.max_lines)
        fit_on = score_mixture.scan_fit_on(scoring, request.column, target.copies)
    spec = _spec(runs, request, target, plan(members, request, files, target, dataset, fit_on), dataset)
    with output_writer.open_output(target, spec.stage, spec.plan, request.overwrite) as output:
        num_done = 0
        manifest = output.manifest
        already_done = manifest is not None
        if manifest is None:
            spec = replace(spec, control=output.store.control)
            spec, mixture = score_mixture.with_weights(spec, output.store, fit_on, session, reporter)
            parts = [file.parts for file in files]
            backward = model_settings.reads_backward(members[0].config)
            waves, num_lanes = _waves(spec, parts, backward, session, reporter)

            def figures_of(totals: driver.Totals, number: int | None) -> dict[str, Any]:
                lanes = max(num_lanes) if number is None else num_lanes[number]
                return summarize(totals, _unit(members[0], scoring, lanes), kind)

            num_lines = sum(part.num_lines for part in inputs.join(parts))
            with reporter.stage(spec.stage, num_lines, "lines") as stage:
                stage.wait_for("starting workers")
                records, num_done = part_runner.run_parts(spec, waves, session, stage.advance, output.is_new)
                figures = {**mixture, **line_files.summary(target, records, figures_of)}
                manifest = output.finish(records, {"summary": figures})
    report = {**opened, **line_files.report(named, target, manifest["summary"])}
    return {**report, "already_done": already_done, **driver.throughput(num_done, started_s)}


def _open(request: Request) -> list[driver.OpenedRun]:
    """Loads the models, and checks that they can score the input, alone or together."""
    roots = (request.run, *request.others)
    runs = [driver.open_run("score", run, request.scoring.average_checkpoints, request.cache) for run in roots]
    score_mixture.check(roots, [each.bundle for each in runs], request.scoring)
    _check(runs[0].bundle, request)
    return runs


def _score_stdin(members: Sequence[bundles.Bundle], request: Request) -> driver.Totals:
    """Scores standard input in this process."""
    # As in a worker, since sums depend on the number of threads.
    computing.set_threads(request.cluster.cpus_per_worker)
    scoring, device = request.scoring, request.cluster.device
    run_checks.refuse_fit(scoring.mixture)
    kind = score_mixture.rows_kind(scoring, len(members))
    compute: Callable[[list[str]], Sequence[results.Result]]
    if kind == "rankings":
        compute = ranking.Ranker(members, scoring, request.compute, device).rank_lines
    else:
        first, *others = members
        compute = scorer.Scorer(first, scoring, request.compute, device, others=others).score_lines
    return driver.process_stdin(kind, sys.stdin.buffer, request.stdout, scoring.part_lines, compute)


def _spec(
    runs: Sequence[driver.OpenedRun],
    request: Request,
    target: outputs.Output,
    content: dict[str, Any],
    dataset: shards.Dataset | None,
) -> part_worker.Spec:
    """Returns the specification of the workers; `content` is that of the plan."""
    return part_worker.Spec(
        bundle=runs[0].urls[0],
        kind=target.kind,
        decoding=inference_settings.DecodingConfig(),
        scoring=request.scoring,
        compute=request.compute,
        folder=target.folder.url,
        plan=content,
        device=request.cluster.device,
        threads=request.cluster.cpus_per_worker,
        members=tuple(each.urls for each in runs),
        dataset=None if dataset is None else dataset.folder.url,
        cache=request.cache,
    )


def summarize(totals: driver.Totals, unit: score_unit.ScoreUnit, kind: results.Kind = "scores") -> dict[str, Any]:
    """Returns the figures of the corpus; `<eos>` counts as a token if the model has one.

    `infinite` counts tokens with probability 0: a single one makes all sums infinite, for none is left out.
    `perplexity` is exp of the nats per token, `bits_per_character` the bits of all tokens over all characters,
    `accuracy` the share of tokens that the model ranked first, `unk` the number of unknown words. A ranking has the sum
    of its scores alone.
    """
    figures: dict[str, Any] = {"unit": unit.unit, "lines": totals.lines, **totals.problems(), **unit.to_json()}
    if kind == "rankings":
        # The sum over all lines; a ranking score is not a log-probability, and has no perplexity.
        return {**figures, "tokens": totals.tokens, "unk": totals.unk, "ranking_score": json_values.number(totals.nats)}
    figures |= {"tokens": totals.tokens, "unk": totals.unk, "characters": totals.characters}
    if totals.infinite:
        figures["infinite"] = totals.infinite
    figures["nll_nats"] = json_values.number(totals.nats)
    if totals.tokens and totals.correct is not None:
        figures["accuracy"] = totals.correct / totals.tokens
    if totals.tokens:
        mean = totals.nats / totals.tokens
        figures["nll_nats_per_token"] = json_values.number(mean)
        # math.exp raises an OverflowError beyond 709.
        figures["perplexity"] = json_values.number(math.exp(mean) if mean < 700 else math.inf)
    if totals.characters:
        figures["bits_per_character"] = json_values.number(totals.nats / math.log(2) / totals.characters)
    return figures


def open_dataset(
    run: location.Location,
    bundle: bundles.Bundle,
    scoring: inference_settings.ScoringConfig,
    cache: node_cache.NodeCache,
) -> shards.Dataset | None:
    """Opens the run's dataset if dynamic evaluation measures gradients on its training text; else returns None.

    Raises:
        UsageError: the run has no dataset.
    """
    if scoring.dynamic is None or scoring.dynamic.rule != "rms":
        return None
    reason = "scoring.dynamic.rule: rms measures gradients on training text"
    return driver.open_dataset(run, bundle, reason, "use rule: sgd", cache)


def _unit(
    bundle: bundles.Bundle, scoring: inference_settings.ScoringConfig, num_lanes: int | None
) -> score_unit.ScoreUnit:
    """Returns the unit of the scores; translations end in an `<eos>`, lines of text if the vocabulary has one."""
    eos_counted = bundle.config.kind == "seq2seq" or bundle.codecs["text"].tokenizer.eos_id is not None
    return score_unit.ScoreUnit(
        scoring.unit_or_line, num_lanes if scoring.unit_or_line == "stream" else None, eos_counted
    )


def _check(bundle: bundles.Bundle, request: Request) -> None:
    """Refuses combinations of model, input and settings that cannot be scored.

    Raises:
        UsageError: names the option or setting.
    """
    scoring, kind = request.scoring, bundle.config.kind
    check_settings(bundle, scoring, request.compute, 1 + len(request.others))
    is_seq2seq = kind == "seq2seq"
    if is_seq2seq and request.targets is None:
        raise errors.UsageError("--targets: a seq2seq scores given translations; name their file")
    if not is_seq2seq and request.targets is not None:
        raise errors.UsageError(f"--targets: a {kind} scores single lines, not translations; leave it out")
    run_checks.check_scored_input(kind, scoring, request.input)


def check_settings(
    bundle: bundles.Bundle,
    scoring: inference_settings.ScoringConfig,
    compute: schema.ComputeConfig,
    num_runs: int = 1,
) -> None:
    """Refuses settings that the model, or a mixture whose first it is, cannot score with.

    Raises:
        UsageError: names the setting.
    """
    inference_settings.check_mixture(scoring, num_runs)
    kind = bundle.config.kind
    if kind == "autoregressive":
        raise errors.UsageError("--run: an autoregressive model does not score text; use forecast")
    # Called for its error.
    target_tokens.with_target_token(bundle, scoring.target_token, "scoring.target_token")
    run_checks.check_scoring(kind, scoring, compute)


def _waves(
    spec: part_worker.Spec,
    parts: Sequence[Sequence[inputs.Part]],
    backward: bool,
    session: executors.Session,
    reporter: progress_display.Reporter,
) -> tuple[Sequence[Sequence[inputs.Part]], list[int]]:
    """Returns the waves of parts, and the number of lanes of each input.

    Each input is a stream of its own. A backward model reads each lane from its last part to its first.
    """
    everything = inputs.join(parts)
    if spec.scoring.unit_or_line == "line":
        # Lines do not depend on each other, so that all parts are one wave.
        return [everything], [0] * len(parts)
    order = -1 if backward else 1
    if spec.scoring.lanes == 1 or not everything:
        lanes = [[own[::order]] if own else [] for own in parts]
    else:
        with reporter.stage("count tokens", sum(part.num_lines for part in everything), "lines") as stage:
            counts = iter(driver.count_tokens(spec, everything, session, stage.advance))
        count_lines = part_worker.CountWorker(spec)
        own_counts = [list(itertools.islice(counts, len(own))) for own in parts]
        cut = [
            stream_lanes.cut(own, spec.scoring.lanes, counts_of_parts, count_lines)
            for own, counts_of_parts in zip(parts, own_counts, strict=True)
        ]
        lanes = [[lane[::order] for lane in own] for own in cut]
    return driver.waves_of_lanes(list(itertools.chain.from_iterable(lanes))), list(map(len, lanes))
