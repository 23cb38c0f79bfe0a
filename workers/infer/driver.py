"""The driver of inference: opens models, plans waves of parts, and sums up their commit records.

The parts of a *wave* do not depend on each other. Independent lines are one wave; a stream in lanes has one wave for
each position in the lanes, because a part starts from the state that the part before it in its lane committed.
"""

import collections
import functools
import io
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, NamedTuple, cast

from core import errors
from core.data import lazy
from core.data.dataset import shards
from core.data.series import dataset as series_dataset
from core.data.text import buffers as text_buffers
from core.data.text import corpus, sources
from core.decoding.lines import inputs, results
from core.models import bundle as bundles
from core.models import checkpoint_averaging
from core.storage import control_files, location, node_cache, root_layout, streams
from workers.fanout import executor as executors
from workers.infer import part_worker

MAX_LINE_BYTES = 1 << 20  # of a line of standard input, as of one of a file


@dataclass(frozen=True)
class Totals:
    """Sums over the commit records of an output; see `part_worker.summarize`."""

    lines: int
    errors: int
    first_errors: tuple[dict[str, Any], ...]
    tokens: int
    nats: float
    unk: int
    infinite: int
    characters: int
    correct: int | None
    made_by: tuple[dict[str, Any], ...]

    @classmethod
    def of(cls, records: Sequence[Mapping[str, Any]]) -> "Totals":
        """Sums up the records of all parts, in their order; the sums do not depend on how the parts were computed."""
        made_by: list[dict[str, Any]] = []
        first_errors: list[dict[str, Any]] = []
        sums = dict.fromkeys(("lines", "errors", "tokens", "unk", "infinite", "characters"), 0)
        with control_files.parsing("commit records", "run again with --overwrite"):
            # Parsed one at a time: the sequence is lazy.
            for record in records:
                for name in sums:
                    sums[name] += record.get(name, 0)
                own = {"file": record["file"]} if "file" in record else {}
                shown = record["first_errors"][: part_worker.SHOWN_ERRORS - len(first_errors)]
                first_errors += [{**own, **error} for error in shown]
                if record["made_by"] not in made_by:
                    made_by.append(record["made_by"])
            # `float` also reads "inf", the sum of a part with an impossible line.
            nats = math.fsum(float(record["nats"]) for record in records)
            # Not every scoring method ranks the tokens.
            correct = [record.get("correct") for record in records]
            num_correct = None if None in correct else sum(number or 0 for number in correct)
            return cls(first_errors=tuple(first_errors), nats=nats, correct=num_correct, made_by=tuple(made_by), **sums)

    def problems(self) -> dict[str, Any]:
        """Returns the entries of a report on lines that failed, and on parts computed under different circumstances."""
        problems: dict[str, Any] = {"errors": self.errors}
        if self.errors:
            problems["first_errors"] = list(self.first_errors)
        if len(self.made_by) > 1:
            # Stored as "mixture": the mixed circumstances in which the parts were computed.
            problems["mixture"] = list(self.made_by)
        return problems


class OpenedRun(NamedTuple):
    """The model of a run.

    Attributes:
        bundle: the model, the mean of its checkpoints if there are several.
        urls: the bundles whose mean it is, the best first.
        report: the entries of a report on the run and its checkpoint.
        member: the entry of a report on a run with several checkpoints, or on a member of an ensemble.
    """

    bundle: bundles.Bundle
    urls: tuple[str, ...]
    report: dict[str, Any]
    member: dict[str, Any]


def open_run(
    verb: str, run: location.Location, num_checkpoints: int = 1, cache: node_cache.NodeCache | None = None
) -> OpenedRun:
    """Loads the mean of the `num_checkpoints` best checkpoints of a run, or the bundle of one checkpoint folder.

    The tables of an n-gram model in an object store are mapped from their copy in `cache`.

    Raises:
        UsageError: the run has fewer checkpoints, or its model has no weights to average.
        IntegrityError: no checkpoint verifies.
    """
    best = bundles.select_checkpoints(run, num_checkpoints)
    bundle = checkpoint_averaging.load([checkpoint.bundle for checkpoint in best], cache)
    report: dict[str, Any] = {"verb": verb, "run": str(run), "checkpoint": str(best[0].checkpoint)}
    # The search collects damaged checkpoints on its way: the last one that it selected has them all.
    report |= {"step": best[0].step, "passed_over": list(best[-1].damaged)}
    member = {"run": str(run), "checkpoints": [str(checkpoint.checkpoint) for checkpoint in best]}
    if num_checkpoints > 1:
        report["members"] = [member]
    return OpenedRun(bundle, tuple(checkpoint.bundle.url for checkpoint in best), report, member)


def open_dataset(
    run: location.Location, bundle: bundles.Bundle, reason: str, alternative: str, cache: node_cache.NodeCache
) -> shards.Dataset:
    """Opens the dataset that a run was trained on.

    Args:
        run: root of the run.
        bundle: the run's model.
        reason: the setting that needs the dataset, and why; begins the error message.
        alternative: what to do without the dataset; ends the error message.
        cache: its copies on this node, if it is in an object store.

    Raises:
        UsageError: the run has no dataset.
        IntegrityError: the dataset is damaged, or has another tokenizer.
    """
    try:
        dataset = shards.Dataset.open(run.join(root_layout.DATASET), cache=cache)
    except errors.UsageError as error:
        raise errors.UsageError(
            f"{reason}, but {run} has no dataset; name the root of the run, or {alternative}"
        ) from error
    fingerprints = {role: codec.tokenizer.fingerprint for role, codec in dataset.codecs.items()}
    # Ids of another tokenizer are valid ids, too: nothing else would notice.
    if fingerprints != {role: codec.tokenizer.fingerprint for role, codec in bundle.codecs.items()}:
        raise errors.IntegrityError(
            f"{dataset.folder}: has another tokenizer than the model; restore the dataset, or {alternative}"
        )
    return dataset


def open_series(run: location.Location, columns: Sequence[str]) -> series_dataset.Dataset | None:
    """Opens the dataset of series that a run was trained on; None for a checkpoint that was copied out of its run."""
    is_checkpoint = run.join(bundles.CHECKPOINT_MANIFEST).exists()
    folder = (run.parent.parent if is_checkpoint else run).join(root_layout.DATASET)
    if not series_dataset.is_series(folder):
        return None
    dataset = series_dataset.open_dataset(folder)
    return dataset if dataset.columns == list(columns) else None


def waves_of_lanes(lanes: Sequence[Sequence[inputs.Part]]) -> Sequence[Sequence[inputs.Part]]:
    """Returns the waves of a stream in lanes: wave n has the n-th part of each lane, named by lane and position."""

    def part(lane: int, number: int) -> inputs.Part:
        # Lane and position, not lines, name a part: its state is that of one place in one cutting into lanes.
        made = lanes[lane][number]
        name = f"{made.prefix}lane-{lane:04d}"
        predecessor = f"{name}-{number - 1:06d}" if number else None
        return replace(made, name=f"{name}-{number:06d}", predecessor=predecessor)

    def wave(number: int) -> Sequence[inputs.Part]:
        # Lanes have nearly equal numbers of tokens, not of parts: late waves may be narrower.
        return [part(lane, number) for lane, parts in enumerate(lanes) if number < len(parts)]

    return lazy.LazySequence(max(map(len, lanes), default=0), wave)


def count_tokens(
    spec: part_worker.Spec,
    parts: Sequence[inputs.Part],
    session: executors.Session,
    progress: Callable[[int], None],
) -> list[int]:
    """Returns the number of tokens that each part has in a stream."""
    counts = [0] * len(parts)

    def on_done(task: executors.Task, counts_of_lines: list[int]) -> None:
        # By index: parts are done in any order.
        counts[int(task.name)] = sum(counts_of_lines)

    def task(number: int) -> executors.Task:
        return executors.Task(str(number), parts[number], parts[number].num_lines)

    tasks = lazy.LazySequence(len(parts), task)
    factory = functools.partial(part_worker.CountWorker, spec)
    monitor = executors.Monitor(session.metrics, progress, session.should_stop)
    session.executor(spec.stage, len(tasks), runs_model=True).run(spec.stage, tasks, factory, on_done, monitor)
    return counts


def process_stdin(
    kind: results.Kind,
    source: BinaryIO,
    stdout: int,
    part_lines: int,
    compute: Callable[[list[str]], Sequence[results.Result]],
) -> Totals:
    """Writes one line of output for each line of standard input; an empty line for a line that failed.

    Args:
        kind: kind of the results.
        source: standard input.
        stdout: descriptor of standard output.
        part_lines: lines that are read and computed at a time; the output is flushed after each.
        compute: returns the results of lines.

    Raises:
        DataError: the input has carriage returns, but no line feed.
        ClosedOutputError: the reader of standard output went away.
        StorageError: standard output cannot be written, or standard input not read.
    """
    num_lines = 0
    records = []
    all_lines = _stdin_lines(source)
    with streams.open_stdout(stdout) as sink:
        while lines := list(itertools.islice(all_lines, part_lines)):
            # Bad lines are left out of the batches and put back in place: one line in, one line out.
            good_rows = iter(compute([line for line in lines if isinstance(line, str)]))
            rows = [next(good_rows) if isinstance(line, str) else results.failed(kind, line.reason) for line in lines]
            sink.writelines(f"{line}\n" for line in results.text_lines(results.to_table(kind, num_lines, rows)))
            sink.flush()  # a reader at the other end of a pipe waits for these lines
            # Nothing is committed: one process computes all, so there are no circumstances to compare.
            records.append({**part_worker.summarize(rows, num_lines), "made_by": {}})
            num_lines += len(rows)
    return Totals.of(records)


def _stdin_lines(source: BinaryIO) -> Iterator[str | corpus.BadLine]:
    """Yields the lines of standard input, checked and repaired as those of a file."""
    repairs: collections.Counter[str] = collections.Counter()
    beginning = b""

    def buffers() -> Iterator[bytes]:
        nonlocal beginning
        # What has arrived, not a full buffer: lines are computed as they come.
        while buffer := _read_some(source):
            if len(beginning) < sources.SAMPLE_BYTES:
                beginning += buffer
            yield buffer
        sources.check_line_ends("--input: standard input", beginning)

    for number, line in enumerate(text_buffers.split(buffers(), MAX_LINE_BYTES)):
        yield line if isinstance(line, str) else corpus.decode(line, number == 0, repairs)


def _read_some(source: BinaryIO) -> bytes:
    try:
        return cast(io.BufferedReader, source).read1(corpus.BUFFER_BYTES)
    except OSError as error:
        raise errors.StorageError(f"--input: standard input cannot be read ({error.strerror}); check it") from error


def throughput(num_lines: int, started_s: float) -> dict[str, float]:
    """Returns the duration of a job and its speed; `num_lines` counts only lines computed since `started_s`."""
    elapsed_s = time.monotonic() - started_s
    return {"elapsed_s": elapsed_s, "lines_per_s": num_lines / max(elapsed_s, 1e-9)}
