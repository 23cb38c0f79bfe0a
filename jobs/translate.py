"""Translates a file, or standard input, with a trained run, or with several together."""

import itertools
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from core import errors
from core.config import inference_settings, schema
from core.data.text import corpus
from core.decoding.lines import inputs, outputs
from core.decoding.translation import alignments, shortlist, target_tokens, translator
from core.models import bundle as bundles
from core.models import compute as computing
from core.storage import location
from jobs import paths, settings
from workers.cluster import session as clusters
from workers.fanout import progress_display
from workers.infer import driver, part_worker

# Settings of `generate` and of draws: what a search finds does not depend on them.
_OF_DRAWS = {"num_tokens", "method", "temperature", "top_k", "top_p", "seed"}
# What is written beside the translations, and what the fingerprints of bundles say.
_OTHERS = {"alignments", "attention_maps", "average_checkpoints"}


class Models(NamedTuple):
    """What translates: members of an ensemble, perhaps a language model beside them, and what a report says of them.

    `urls` has for each member the bundles whose mean it is; `table` is the file that shortlists are made of.
    """

    members: Sequence[bundles.Bundle]
    urls: tuple[tuple[str, ...], ...]
    beside: bundles.Bundle | None
    beside_url: str | None
    report: dict[str, Any]
    table: location.Location | None = None

    def translator(
        self, decoding: inference_settings.DecodingConfig, compute: schema.ComputeConfig, device: str
    ) -> translator.Translator:
        """Makes them ready, in this process."""
        table = None if self.table is None else shortlist.load(self.table, self.members[0])
        return translator.Translator(self.members, decoding, compute, device, self.beside, table)


def plan(
    models: Models,
    sources: Sequence[inputs.Input],
    decoding: inference_settings.DecodingConfig,
    compute: schema.ComputeConfig,
) -> dict[str, Any]:
    """Says all that the translations depend on; `sources` are the input and perhaps the prefixes."""
    prints = [member.fingerprint for member in models.members]
    unused = _OTHERS | ({"num_tokens"} if decoding.method == "sample" else _OF_DRAWS)
    if models.table is None:
        unused = unused | {"shortlist"}
    stated: dict[str, Any] = {
        "verb": "translate",
        "bundle": prints[0] if len(prints) == 1 else prints,
        "input": sources[0].identity(),
        "decoding": decoding.model_dump(mode="json", exclude=unused),
        "precision": models.members[0].precision if compute.precision == "auto" else compute.precision,
        "matmul": compute.matmul,
    }
    if models.beside is not None:
        stated["decoding"]["fusion"]["run"] = models.beside.fingerprint
    if models.table is not None:
        stated["shortlist"] = models.table.name
    if len(sources) > 1:
        stated["prefixes"] = sources[1].identity()
    return stated


def run(
    run: location.Location,
    input: str,
    output: str,
    column: str | None,
    decoding: inference_settings.DecodingConfig,
    compute: schema.ComputeConfig,
    cluster: schema.ClusterConfig,
    session: clusters.Session,
    reporter: progress_display.Reporter,
    overwrite: bool = False,
    stdout: int = 1,
    others: Sequence[location.Location] = (),
    prefixes: str | None = None,
) -> dict[str, Any]:
    """Translates every line of the input; what an earlier run of the same plan committed is not done again.

    `run` is the root of a run or one checkpoint folder, `others` the further members of an ensemble; `output` is a
    file or (ending in `/`) a folder; input and output are `-` for the standard ones, of which `stdout` is the real
    descriptor. `column` says where JSONL and Parquet have their text; `overwrite` removes first what another run has
    written; `prefixes` is a file with what the translation of each line begins with.

    Raises:
        UsageError: the runs do not translate together, or input and output do not fit.
        DataError: more lines fail than max(10, 0.1 %), or the prefixes have another number of lines.
        LockedError: the output was begun with another plan, or is somebody else's.
    """
    started_s = time.monotonic()
    driver.check_streams(input, output, column)
    _check_output(output, decoding, prefixes)
    if decoding.method == "sample" and decoding.seed is None:
        decoding = decoding.model_copy(update={"seed": settings.seed_of(run)})
    models = _open([run, *others], decoding)
    if input == "-":
        computing.set_threads(cluster.cpus_per_worker)
        ready = models.translator(decoding, compute, _device(cluster))
        totals = driver.stream("translations", sys.stdin.buffer, stdout, decoding.part_lines, ready.translate)
        done = {**summarise(totals), **driver.speed(totals.lines, started_s)}
        return {**models.report, "input": input, "output": output, **done}
    target = outputs.Output.at("translations", paths.writable(output, "--output"), output.endswith("/"), "--output")
    files = _scan(input, prefixes, column, decoding.part_lines, target)
    spec = _spec(models, files, decoding, compute, cluster, target)
    pieces = inputs.pieces(files)
    num_done = 0
    with target.lock("translate"):
        store = target.begin(spec.plan, overwrite)
        manifest = target.finished(store)
        if manifest is None:
            with reporter.stage("translate", files[0].num_lines, "lines") as stage:
                records, num_done = driver.do_parts(spec, "translate", driver.of_lines(pieces), session, stage.advance)
                manifest = target.finish(store, records, {"summary": summarise(driver.Totals.of(records))})
        _write_beside(target, manifest, pieces, models, spec)
    place = paths.locate(input, "--input")
    report = {**models.report, "input": str(place), "output": str(target.file or target.folder), **manifest["summary"]}
    return {**report, **driver.speed(num_done, started_s)}


def summarise(totals: driver.Totals) -> dict[str, Any]:
    """The figures of the corpus."""
    nats = part_worker.spelt(totals.nats)
    return {"lines": totals.lines, **totals.problems(), "tokens": totals.tokens, "score_nats": nats}


def _check_output(output: str, decoding: inference_settings.DecodingConfig, prefixes: str | None) -> None:
    """Refuses what the form of the output has no place for."""
    if output == "-" and prefixes is not None:
        raise errors.UsageError("--prefixes: goes with a file of lines, not with standard input; name an input file")
    for name in ("alignments", "attention_maps"):
        if getattr(decoding, name) and (output == "-" or output.endswith("/")):
            raise errors.UsageError(f"decoding.{name}: is written beside an output file; name one by --output")


def _open(runs: Sequence[location.Location], decoding: inference_settings.DecodingConfig) -> Models:
    """Loads what translates, checked to fit together."""
    opened = [driver.open_run("translate", run, decoding.average_checkpoints) for run in runs]
    members = [
        target_tokens.with_target_token(one.bundle, decoding.target_token, "decoding.target_token") for one in opened
    ]
    beside = None
    if decoding.fusion is not None:
        beside = bundles.find(paths.locate(decoding.fusion.run, "decoding.fusion.run")).bundle
    loaded = None if beside is None else bundles.load(beside)
    translator.check(members, decoding, loaded)
    report = opened[0].report
    if len(opened) > 1:
        report = {**report, "members": [one.member for one in opened]}
    table = None
    if decoding.shortlist is not None:
        asked = "decoding.shortlist: is learnt from training pairs"
        dataset = driver.open_dataset(runs[0], members[0], asked, "leave it out")
        table = shortlist.prepare(runs[0], dataset, decoding.shortlist.candidates)
    urls = tuple(one.urls for one in opened)
    return Models(members, urls, loaded, None if beside is None else beside.url, report, table)


def _device(cluster: schema.ClusterConfig) -> str:
    return "cuda" if cluster.use_gpu else "cpu"


def _spec(
    models: Models,
    files: Sequence[inputs.Input],
    decoding: inference_settings.DecodingConfig,
    compute: schema.ComputeConfig,
    cluster: schema.ClusterConfig,
    target: outputs.Output,
) -> part_worker.Spec:
    """Says what the workers need to know."""
    return part_worker.Spec(
        bundle=models.urls[0][0],
        kind="translations",
        decoding=decoding,
        scoring=inference_settings.ScoringConfig(),
        compute=compute,
        folder=target.folder.url,
        plan=plan(models, files, decoding, compute),
        device=_device(cluster),
        threads=cluster.cpus_per_worker,
        members=models.urls,
        beside=models.beside_url,
        table=None if models.table is None else models.table.url,
    )


def _scan(
    source: str, prefixes: str | None, column: str | None, part_lines: int, target: outputs.Output
) -> list[inputs.Input]:
    """Reads the input, and the prefixes beside it, which are lines of text."""
    named = [(source, "--input", column)] + ([] if prefixes is None else [(prefixes, "--prefixes", None)])
    places = [(paths.locate(text, where), where, its_column) for text, where, its_column in named]
    target.refuse_inputs([place for place, _, _ in places])
    return [inputs.scan(place, one, part_lines, target.folder, where) for place, where, one in places]


def _write_beside(
    target: outputs.Output,
    manifest: Mapping[str, Any],
    pieces: Sequence[inputs.Piece],
    models: Models,
    spec: part_worker.Spec,
) -> None:
    """Writes the alignments of all lines and the attention of the first, as the settings ask."""
    if spec.decoding.alignments:
        target.put_beside(outputs.ALIGNMENTS, _pharaoh_lines(target, manifest, pieces, models.members[0]))
    if spec.decoding.attention_maps:
        computing.set_threads(spec.threads)
        every = itertools.chain.from_iterable(map(inputs.read, pieces))
        first = list(itertools.islice(every, spec.decoding.attention_maps))
        lines = [("", "") if isinstance(line, corpus.BadLine) else (line[0], line[-1]) for line in first]
        begun = [prefix for _, prefix in lines] if pieces and len(pieces[0].sides) == 2 else None
        ready = models.translator(spec.decoding, spec.compute, spec.device)
        maps = ready.attention_maps([line for line, _ in lines], begun)
        target.put_beside(outputs.ATTENTION, [alignments.to_json(maps)])


def _pharaoh_lines(
    target: outputs.Output, manifest: Mapping[str, Any], pieces: Sequence[inputs.Piece], member: bundles.Bundle
) -> Iterator[str]:
    for piece, table in zip(pieces, target.tables(manifest), strict=True):
        lines = ["" if isinstance(line, corpus.BadLine) else line[0] for line in inputs.read(piece)]
        tokens = member.codecs["source"].encode_lines(lines)
        for row, ids in zip(table.column("alignment").to_pylist(), tokens, strict=True):
            yield alignments.pharaoh(row, len(ids))
