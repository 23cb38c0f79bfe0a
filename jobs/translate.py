"""Translation of files or of standard input, with one run or an ensemble of runs."""

import itertools
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from core import errors
from core.config import inference_settings, schema, stored_forms
from core.data.text import corpus, selection
from core.decoding import device as devices
from core.decoding.lines import inputs, output_writer, outputs, results
from core.decoding.translation import alignments, shortlist, target_tokens, translator
from core.models import bundle as bundles
from core.models import compute as computing
from core.storage import json_values, location, node_cache
from jobs import input_names, line_files, paths, run_checks, settings
from workers.fanout import executor as executors
from workers.fanout import progress_display
from workers.infer import driver, part_runner, part_worker

_MAX_DRAWN_FROM = 100_000  # lines from which those with an attention map are drawn


@dataclass(frozen=True)
class Request:
    """One call of the command.

    Attributes:
        run: root of a run, or one checkpoint folder.
        input: file of lines; several: files, folders and globs; `-` for standard input, which requires standard output.
        output: file, folder (ends in `/`), or `-`; of several inputs a folder.
        decoding: settings of translation.
        compute: numerical settings.
        cluster: where the work runs.
        column: text column of JSONL and Parquet.
        prefixes: text file with the beginning of each line's translation; of several inputs, one for each, of its name.
        others: further members of an ensemble.
        overwrite: replaces results of other settings.
        keeps_parts: keeps the folder of parts beside an output file.
        stdout: descriptor of the real standard output.
        format: of several inputs: format of the results; None: JSONL.
    """

    run: location.Location
    input: input_names.Names
    output: str
    decoding: inference_settings.DecodingConfig
    compute: schema.ComputeConfig
    cluster: schema.ClusterConfig
    column: str | None = None
    prefixes: input_names.Names | None = None
    others: Sequence[location.Location] = ()
    overwrite: bool = False
    keeps_parts: bool = False
    stdout: int = 1
    format: input_names.Format | None = None

    @property
    def cache(self) -> node_cache.NodeCache:
        """The copies on this node of files in an object store."""
        return node_cache.NodeCache(self.cluster.cache_size_bytes)


class Models(NamedTuple):
    """The models of a translation.

    Attributes:
        members: the members of the ensemble.
        urls: for each member, the bundles whose mean it is.
        fusion_model: the language model that is fused with them.
        fusion_url: its bundle.
        report: the entries of the report on the runs.
        shortlist_table: the file from which shortlists of target tokens are made.
    """

    members: Sequence[bundles.Bundle]
    urls: tuple[tuple[str, ...], ...]
    fusion_model: bundles.Bundle | None
    fusion_url: str | None
    report: dict[str, Any]
    shortlist_table: location.Location | None = None

    def translator(
        self, decoding: inference_settings.DecodingConfig, compute: schema.ComputeConfig, device: str
    ) -> translator.Translator:
        """Creates the translator in this process."""
        table = None if self.shortlist_table is None else shortlist.load(self.shortlist_table, self.members[0])
        return translator.Translator(self.members, decoding, compute, device, self.fusion_model, table)


def plan(
    models: Models, request: Request, files: Mapping[str, Any], row_version: int = results.ROW_VERSION
) -> dict[str, Any]:
    """Returns all that the translations depend on; `files` are the entries on inputs and prefixes."""
    fingerprints = [member.fingerprint for member in models.members]
    compute = request.compute
    decoding = stored_forms.of_translation(request.decoding)
    if models.shortlist_table is None:
        decoding.pop("shortlist", None)
    content: dict[str, Any] = {
        "verb": "translate",
        "bundle": fingerprints[0] if len(fingerprints) == 1 else fingerprints,
        **files,
        "decoding": decoding,
        "precision": models.members[0].precision if compute.precision == "auto" else compute.precision,
        "matmul": compute.matmul,
    }
    if models.fusion_model is not None:
        # By content instead of by path: the run may have been moved.
        content["decoding"]["fusion"]["run"] = models.fusion_model.fingerprint
    if models.shortlist_table is not None:
        content["shortlist"] = models.shortlist_table.name  # holds the table's hash
    if row_version > 1:
        content["row_version"] = row_version
    return content


def run(request: Request, session: executors.Session, reporter: progress_display.Reporter) -> dict[str, Any]:
    """Translates every line of the inputs and returns the report; parts committed under the same plan are kept.

    Raises:
        UsageError: the runs do not form an ensemble, or inputs, output and settings do not fit together.
        DataError: more lines of an input fail than max(10, 0.1 %), or its prefixes have another number of lines.
        LockedError: the output belongs to another plan, or was not written by this command.
    """
    started_s = time.monotonic()
    named = input_names.find(request.input, request.prefixes, "--prefixes")
    run_checks.check_standard_streams(not named.inputs, request.output, request.column)
    is_folder = request.output.endswith("/") and not named.are_several
    run_checks.check_sidecars(request.decoding, request.output, is_folder, request.prefixes is not None)
    # Before the plan is made, of which the seed is a part.
    request = replace(request, decoding=with_seed(request.decoding, request.run))
    decoding = request.decoding
    roots = (request.run, *request.others)
    runs = [driver.open_run("translate", run, decoding.average_checkpoints, request.cache) for run in roots]
    models = combine(runs, request.run, decoding, request.cache)
    # Here, not in each worker after it has started. Called for its error.
    devices.precision_of(models.members[0], request.compute, request.cluster.device)
    if not named.inputs:
        # As in a worker, since sums depend on the number of threads.
        computing.set_threads(request.cluster.cpus_per_worker)
        translate = models.translator(decoding, request.compute, request.cluster.device).translate
        with session.interrupting():
            totals = driver.process_stdin(
                "translations", sys.stdin.buffer, request.stdout, decoding.part_lines, translate
            )
        figures = {**summarize(totals), "already_done": False, **driver.throughput(totals.lines, started_s)}
        return {**models.report, "input": request.input, "output": request.output, **figures}
    target = line_files.output("translations", named, request.output, request.format, request.keeps_parts)
    with session.interrupting():
        files = line_files.scan(named, request.column, decoding.part_lines, target)
    spec = _spec(models, request, line_files.plan_entries(files, target, "prefixes"), target)
    parts = inputs.join([file.parts for file in files])
    num_done = 0
    with output_writer.open_output(target, spec.stage, spec.plan, request.overwrite) as output:

        def write_sidecars() -> None:
            with session.interrupting():
                for scanned, merged in zip(files, output.files, strict=False):  # a folder of shards has none
                    _write_sidecars(merged, scanned.parts, models, request)

        manifest = output.manifest
        already_done = manifest is not None
        if manifest is None:
            spec = replace(spec, control=output.store.control)
            with reporter.stage(spec.stage, sum(file.files[0].num_lines for file in files), "lines") as stage:
                stage.wait_for("starting workers")
                records, num_done = part_runner.run_parts(spec, [parts], session, stage.advance, output.is_new)
                figures = line_files.summary(target, records, lambda totals, _: summarize(totals))
                manifest = output.finish(records, {"summary": figures}, write_sidecars)
        else:
            write_sidecars()  # of settings that came later, which the results do not depend on
    report = {**models.report, **line_files.report(named, target, manifest["summary"])}
    return {**report, "already_done": already_done, **driver.throughput(num_done, started_s)}


def summarize(totals: driver.Totals) -> dict[str, Any]:
    """Returns the figures of the corpus."""
    nats = json_values.number(totals.nats)
    return {"lines": totals.lines, **totals.problems(), "tokens": totals.tokens, "score_nats": nats}


def with_seed(decoding: inference_settings.DecodingConfig, run: location.Location) -> inference_settings.DecodingConfig:
    """Returns the settings with the seed of the run where they sample and name none."""
    if decoding.method != "sample" or decoding.seed is not None:
        return decoding
    return decoding.model_copy(update={"seed": settings.seed_of(run)})


def combine(
    runs: Sequence[driver.OpenedRun],
    root: location.Location,
    decoding: inference_settings.DecodingConfig,
    cache: node_cache.NodeCache,
) -> Models:
    """Loads what the settings add to the opened runs, and checks that all of it can be combined.

    Args:
        runs: the members of the ensemble.
        root: the run of the first, whose training data a shortlist is made from.
        decoding: settings of translation.
        cache: copies on this node of a dataset in an object store.

    Raises:
        UsageError: the runs do not form an ensemble, or do not allow these settings.
    """
    members = [
        target_tokens.with_target_token(run.bundle, decoding.target_token, "decoding.target_token") for run in runs
    ]
    fusion_bundle = None
    if decoding.fusion is not None:
        fusion_bundle = bundles.select_checkpoint(paths.locate(decoding.fusion.run, "decoding.fusion.run")).bundle
    fusion_model = None if fusion_bundle is None else bundles.load(fusion_bundle, cache)
    translator.check(members, decoding, fusion_model)
    report = runs[0].report
    if len(runs) > 1:
        report = {**report, "members": [run.member for run in runs]}
    table = None
    if decoding.shortlist is not None:
        reason = "decoding.shortlist: is made from the training data"
        dataset = driver.open_dataset(root, members[0], reason, "leave it out", cache)
        table = shortlist.prepare(root, dataset, decoding.shortlist.candidates)
    urls = tuple(run.urls for run in runs)
    return Models(members, urls, fusion_model, None if fusion_bundle is None else fusion_bundle.url, report, table)


def _spec(models: Models, request: Request, files: Mapping[str, Any], target: outputs.Output) -> part_worker.Spec:
    """Returns the specification of the workers."""
    return part_worker.Spec(
        bundle=models.urls[0][0],
        kind="translations",
        decoding=request.decoding,
        scoring=inference_settings.ScoringConfig(),
        compute=request.compute,
        folder=target.folder.url,
        plan=plan(models, request, files, target.row_version(request.overwrite)),
        device=request.cluster.device,
        threads=request.cluster.cpus_per_worker,
        members=models.urls,
        fusion_model=models.fusion_url,
        shortlist_table=None if models.shortlist_table is None else models.shortlist_table.url,
    )


def _write_sidecars(
    file: output_writer.MergedFile,
    parts: Sequence[inputs.Part],
    models: Models,
    request: Request,
) -> None:
    """Writes the alignments of all lines and the attention maps of some, if the settings ask for them.

    Raises:
        UsageError: the output is complete without alignments, and its parts, which have them, were not kept.
    """
    decoding = request.decoding
    # Those of a complete output only if they are missing: it costs nothing.
    if decoding.alignments and not file.has_sidecar(outputs.ALIGNMENTS):
        if not file.has_parts:
            raise errors.UsageError(
                f"decoding.alignments: {file.path} was made without them, and its parts were not kept; "
                "add --overwrite to translate again"
            )
        file.put_sidecar(outputs.ALIGNMENTS, lambda: _pharaoh_lines(file.tables(), parts, models.members[0]))
    if decoding.attention_maps and not file.has_sidecar(outputs.ATTENTION):
        computing.set_threads(request.cluster.cpus_per_worker)
        lines = _draw_lines(parts, decoding.attention_maps)
        texts = list(lines.values())
        prefixes = [text[-1] for text in texts] if parts and len(parts[0].sides) == 2 else None
        made = models.translator(decoding, request.compute, request.cluster.device)
        maps = made.attention_maps([text[0] for text in texts], prefixes)
        text = alignments.to_json(dict(zip(lines, maps, strict=True)))
        file.put_sidecar(outputs.ATTENTION, lambda: [text])


def _draw_lines(parts: Sequence[inputs.Part], count: int) -> dict[int, tuple[str, ...]]:
    """Returns lines of all lengths by their number, drawn from the first `_MAX_DRAWN_FROM` that have text."""

    def numbered() -> Iterator[tuple[int, tuple[str, ...]]]:
        lines = itertools.islice(itertools.chain.from_iterable(map(inputs.read, parts)), _MAX_DRAWN_FROM)
        return (
            (number, line)
            for number, line in enumerate(lines)
            if not isinstance(line, corpus.BadLine) and line[0].strip()
        )

    # Read twice, so that the text of a hundred thousand lines is never held.
    sizes = [(number, len(line[0])) for number, line in numbered()]
    chosen = {sizes[index][0] for index in selection.draw_by_length([size for _, size in sizes], count)}
    return {number: line for number, line in numbered() if number in chosen}


def _pharaoh_lines(tables: Iterator[Any], parts: Sequence[inputs.Part], member: bundles.Bundle) -> Iterator[str]:
    """Yields the alignment of each line in Pharaoh format; source positions are those of the tokens."""
    for part, table in zip(parts, tables, strict=True):
        lines = ["" if isinstance(line, corpus.BadLine) else line[0] for line in inputs.read(part)]
        # Encoded again: the output has positions, and `to_pharaoh` needs the number of tokens.
        tokens = member.codecs["source"].encode_lines(lines)
        for row, ids in zip(table.column("alignment").to_pylist(), tokens, strict=True):
            yield alignments.to_pharaoh(row, len(ids))
