"""How the parts of an inference job are planned, done and added up: the driver's side of `part_worker`."""

import array
import functools
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, NamedTuple

from core import errors
from core.data import lazy
from core.data.dataset import shards
from core.decoding.lines import inputs, results
from core.models import bundle as bundles
from core.models import checkpoint_averaging
from core.storage import commit, location
from core.telemetry import catalog, metrics
from workers.fanout import executor as executors
from workers.infer import part_worker

ERRORS_ALLOWED = 10
ERROR_SHARE_ALLOWED = 0.001


@dataclass(frozen=True)
class Totals:
    """What all parts of an output have together."""

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
        """Adds up the records of all parts, in their order; the sum does not depend on how they were made."""
        made_by: list[dict[str, Any]] = []
        first_errors: list[dict[str, Any]] = []
        sums = dict.fromkeys(("lines", "errors", "tokens", "unk", "infinite", "characters"), 0)
        for record in records:
            for name in sums:
                sums[name] += record.get(name, 0)
            first_errors += record["first_errors"][: part_worker.SHOWN_ERRORS - len(first_errors)]
            if record["made_by"] not in made_by:
                made_by.append(record["made_by"])
        nats = math.fsum(float(record["nats"]) for record in records)
        # Not every model says what it held for the likeliest.
        correct = [record.get("correct") for record in records]
        num_correct = None if None in correct else sum(number or 0 for number in correct)
        return cls(first_errors=tuple(first_errors), nats=nats, correct=num_correct, made_by=tuple(made_by), **sums)

    def problems(self) -> dict[str, Any]:
        """What a report says of lines that failed, and of parts that were computed in unlike ways."""
        found: dict[str, Any] = {"errors": self.errors}
        if self.errors:
            found["first_errors"] = list(self.first_errors)
        if len(self.made_by) > 1:
            found["mixture"] = list(self.made_by)
        return found


class Opened(NamedTuple):
    """A run's model: the bundles whose mean it is, the best first, and what a report says of it.

    `member` is what a report says of the run where that is more than one checkpoint, or one run of an ensemble.
    """

    bundle: bundles.Bundle
    urls: tuple[str, ...]
    report: dict[str, Any]
    member: dict[str, Any]


def open_run(verb: str, run: location.Location, num_checkpoints: int = 1) -> Opened:
    """Loads the mean of a run's best checkpoints, so many of them; or the bundle of one checkpoint folder.

    Raises:
        UsageError: there are fewer checkpoints, or the model has no weights to average.
        IntegrityError: none of them verifies.
    """
    every = bundles.find_best(run, num_checkpoints)
    loaded = checkpoint_averaging.load([found.bundle for found in every])
    report: dict[str, Any] = {"verb": verb, "run": str(run), "checkpoint": str(every[0].checkpoint)}
    report |= {"step": every[0].step, "passed_over": list(every[-1].passed_over)}
    member = {"run": str(run), "checkpoints": [str(found.checkpoint) for found in every]}
    if num_checkpoints > 1:
        report["members"] = [member]
    return Opened(loaded, tuple(found.bundle.url for found in every), report, member)


def open_dataset(run: location.Location, bundle: bundles.Bundle, asked: str, instead: str) -> shards.Dataset:
    """Opens the dataset that a run was trained on.

    Args:
        run: its root.
        bundle: the run's.
        asked: what asks for it and why, as an error says it.
        instead: what to do without it, likewise.

    Raises:
        UsageError: there is none.
        IntegrityError: it is damaged, or of another tokenizer.
    """
    try:
        dataset = shards.Dataset.open(run.join("dataset"))
    except errors.UsageError as error:
        raise errors.UsageError(
            f"{asked}, and {run} holds no dataset; name the root of the run, or {instead}"
        ) from error
    found = {role: codec.tokenizer.fingerprint for role, codec in dataset.codecs.items()}
    if found != {role: codec.tokenizer.fingerprint for role, codec in bundle.codecs.items()}:
        raise errors.IntegrityError(
            f"{dataset.folder}: was made with another tokenizer than the model has; restore it, or {instead}"
        )
    return dataset


class _Ledger:
    """The records so far, and how many of their lines failed.

    A record is kept as the text that it is in its file, a sixth of what it takes as an object.
    """

    def __init__(self, stage: str, num_lines: int, metrics: metrics.Metrics) -> None:
        self._records: dict[int, bytes] = {}  # by their first line
        self._first_error: dict[str, Any] = {}
        self._stage = stage
        self._metrics = metrics
        self._allowed = max(ERRORS_ALLOWED, ERROR_SHARE_ALLOWED * num_lines)
        self._num_errors = 0
        self.num_lines_done = 0

    def enter(self, first_line: int, record: dict[str, Any]) -> None:
        """Takes the record of a part in; raises DataError when too many lines have failed."""
        self._records[first_line] = json.dumps(record, separators=(",", ":")).encode()
        self._num_errors += record["errors"]
        if record["errors"] and not self._first_error:
            self._first_error = record["first_errors"][0]
        if self._num_errors > self._allowed:
            first = self._first_error
            raise errors.DataError(
                f"{self._stage}: {self._num_errors} lines failed, more than {self._allowed:g} are not accepted; "
                f"the first is line {first['line'] + 1}: {first['error']}; correct the input"
            )

    def on_done(self, task: executors.Task, record: dict[str, Any]) -> None:
        """Measures a part that was just done, and takes its record in."""
        count = functools.partial(self._metrics.count, catalog.INFERENCE_LINES, stage=self._stage)
        count(record["lines"] - record["errors"], outcome="done")
        count(record["errors"], outcome="failed")
        self._metrics.count(catalog.INFERENCE_TOKENS, record["tokens"], stage=self._stage)
        self.num_lines_done += record["lines"]
        self.enter(task.payload.piece.first_line, record)

    def in_order(self) -> Sequence[dict[str, Any]]:
        """Returns the records in order of their lines, each read when it is asked for."""
        order = array.array("q", sorted(self._records))
        return lazy.LazySequence(len(order), lambda number: dict(json.loads(self._records[order[number]])))


def do_parts(
    spec: part_worker.Spec,
    stage: str,
    rounds: Sequence[Sequence[part_worker.Payload]],
    workforce: executors.Session,
    progress: Callable[[int], None],
) -> tuple[Sequence[dict[str, Any]], int]:
    """Does the parts that are not committed yet, round after round.

    Returns all records in order of lines, and how many lines were done in this call.

    Args:
        spec: what the workers need.
        stage: name of the stage.
        rounds: parts of one round do not depend on each other, only on those of rounds before.
        workforce: who does them.
        progress: is told the lines of each part.

    Raises:
        DataError: more lines fail than max(10, 0.1 %); what was done is kept, but the output stays unfinished.
    """
    store = commit.PartStore(location.Location(spec.folder), spec.plan)
    num_lines = sum(payload.piece.num_lines for round_ in rounds for payload in round_)
    ledger = _Ledger(stage, num_lines, workforce.metrics)
    widest = max(map(len, rounds), default=0)
    for round_ in rounds:
        tasks = _not_done(round_, store, ledger, progress)
        if tasks:
            factory = functools.partial(part_worker.make, spec)
            workforce.executor(stage, widest).run(
                stage,
                tasks,
                factory,
                ledger.on_done,
                executors.Monitor(workforce.metrics, progress, workforce.should_stop),
            )
    workforce.metrics.set(catalog.LAST_SUCCESS, time.time(), stage=stage)
    return ledger.in_order(), ledger.num_lines_done


def _not_done(
    payloads: Sequence[part_worker.Payload], store: commit.PartStore, ledger: _Ledger, progress: Callable[[int], None]
) -> Sequence[executors.Task]:
    """Enters the parts that are committed already and returns tasks for the others."""
    todo = array.array("q")
    for number, payload in enumerate(payloads):
        record = store.committed(payload.name)
        if record is None:
            todo.append(number)
        else:
            ledger.enter(payload.piece.first_line, record)
            progress(payload.piece.num_lines)

    def task(place: int) -> executors.Task:
        payload = payloads[todo[place]]
        return executors.Task(payload.name, payload, payload.piece.num_lines)

    return lazy.LazySequence(len(todo), task)


def of_lines(pieces: Sequence[inputs.Piece]) -> Sequence[Sequence[part_worker.Payload]]:
    """Parts that do not depend on each other: one round."""
    return [lazy.LazySequence(len(pieces), lambda number: part_worker.Payload(f"part-{number:06d}", pieces[number]))]


def of_stream(lanes: Sequence[Sequence[inputs.Piece]]) -> Sequence[Sequence[part_worker.Payload]]:
    """Rounds of parts: the n-th of each lane, which goes on from the one before it in its lane."""

    def payload(lane: int, number: int) -> part_worker.Payload:
        before = f"lane-{lane:04d}-{number - 1:06d}" if number else ""
        stream: Literal["start", "after"] = "after" if number else "start"
        return part_worker.Payload(f"lane-{lane:04d}-{number:06d}", lanes[lane][number], stream, before)

    def round_(number: int) -> Sequence[part_worker.Payload]:
        return [payload(lane, number) for lane, pieces in enumerate(lanes) if number < len(pieces)]

    return lazy.LazySequence(max(map(len, lanes), default=0), round_)


def count_tokens(
    spec: part_worker.Spec,
    stage: str,
    pieces: Sequence[inputs.Piece],
    workforce: executors.Session,
    progress: Callable[[int], None],
) -> list[int]:
    """Counts the tokens that each piece has in a stream."""
    counts = [0] * len(pieces)

    def on_done(task: executors.Task, lines: list[int]) -> None:
        counts[int(task.name)] = sum(lines)

    def task(number: int) -> executors.Task:
        return executors.Task(str(number), pieces[number], pieces[number].num_lines)

    tasks = lazy.LazySequence(len(pieces), task)
    factory = functools.partial(part_worker.CountWorker, spec)
    workforce.executor(stage, len(tasks)).run(
        stage, tasks, factory, on_done, executors.Monitor(workforce.metrics, progress, workforce.should_stop)
    )
    return counts


def check_streams(source: str, output: str, column: str | None) -> None:
    """Makes sure that standard input, if it is named, goes to standard output, as lines.

    Raises:
        UsageError: it does not.
    """
    if "-" not in (source, output):
        return
    if source != output:
        raise errors.UsageError("--input, --output: standard input goes to standard output: both are - or none is")
    if column is not None:
        raise errors.UsageError("--column: standard input is lines of text; leave it out")


def stream(
    kind: results.Kind,
    source: BinaryIO,
    stdout: int,
    part_lines: int,
    compute: Callable[[list[str]], Sequence[results.Result]],
) -> Totals:
    """Answers each line of standard input with a line, so many lines at a time; a bad line with an empty one."""
    num_lines = 0
    records = []
    with os.fdopen(os.dup(stdout), "w", encoding="utf-8", newline="\n") as sink:
        while read := list(itertools.islice(source, part_lines)):
            lines = [_decoded(raw) for raw in read]
            answers = iter(compute([line for line in lines if line is not None]))
            rows = [results.failed(kind, "invalid_utf8") if line is None else next(answers) for line in lines]
            sink.writelines(f"{line}\n" for line in results.text_lines(results.to_table(kind, num_lines, rows)))
            sink.flush()
            records.append({**part_worker.summarise(rows, num_lines), "made_by": {}})
            num_lines += len(rows)
    return Totals.of(records)


def _decoded(raw: bytes) -> str | None:
    try:
        text = raw.removesuffix(b"\n").removesuffix(b"\r").decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def speed(num_lines: int, started_s: float) -> dict[str, float]:
    """How long a job took, and how fast it did so many lines; those that were there before are not among them."""
    elapsed_s = time.monotonic() - started_s
    return {"elapsed_s": elapsed_s, "lines_per_s": num_lines / max(elapsed_s, 1e-9)}
