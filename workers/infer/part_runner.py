"""Runs the parts of an output that are not committed yet, wave after wave, and collects the commit records of all."""

import array
import collections
import functools
import itertools
import json
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from core import errors
from core.data import lazy
from core.decoding.lines import inputs
from core.telemetry import catalog, metrics
from workers.fanout import earlier_records
from workers.fanout import executor as executors
from workers.infer import part_worker

# A job fails if more lines fail than the larger of these.
ERRORS_ALLOWED = 10
ERROR_SHARE_ALLOWED = 0.001


class _PartRecords:
    """The commit records of parts, with a limit on the number of lines of an input that failed.

    A record is kept in the encoding of its file, which takes a sixth of the memory of the parsed object. Records may be
    added in several threads: those of earlier runs are read while workers make new ones.

    Args:
        stage: name of the stage.
        waves: all parts.
        metrics: receives the measurements.
    """

    def __init__(self, stage: str, waves: Sequence[Sequence[inputs.Part]], metrics: metrics.Metrics) -> None:
        self._encoded: dict[int, bytes] = {}  # by the position of the part
        self._first_errors: dict[inputs.Origin | None, dict[str, Any]] = {}
        self._stage = stage
        self._waves = waves
        self._metrics = metrics
        self._num_errors: collections.Counter[inputs.Origin | None] = collections.Counter()
        self._lock = threading.Lock()
        self.num_lines_done = 0

    @functools.cached_property
    def _num_lines(self) -> collections.Counter[inputs.Origin | None]:
        """The number of lines of each input; counted when many have failed, since it makes every part once."""
        num_lines: collections.Counter[inputs.Origin | None] = collections.Counter()
        for part in itertools.chain.from_iterable(self._waves):
            num_lines[part.origin] += part.num_lines
        return num_lines

    def add(self, part: inputs.Part, record: dict[str, Any]) -> None:
        """Adds the record of a part.

        Raises:
            DataError: too many lines of its input failed.
        """
        encoded = json.dumps(record, separators=(",", ":")).encode()
        with self._lock:
            self._encoded[part.position] = encoded
            if record["errors"]:
                self._add_errors(part.origin, record)

    def _add_errors(self, origin: inputs.Origin | None, record: dict[str, Any]) -> None:
        self._num_errors[origin] += record["errors"]
        # Of the first part that completed with an error, which need not be the first in the input.
        first = self._first_errors.setdefault(origin, record["first_errors"][0])
        # At once, not at the end: an input in a wrong encoding must not cost a whole run.
        if self._num_errors[origin] <= ERRORS_ALLOWED:
            return
        max_errors = max(ERRORS_ALLOWED, ERROR_SHARE_ALLOWED * self._num_lines[origin])
        if self._num_errors[origin] > max_errors:
            lines = "lines" if origin is None else f"lines of the input of {origin.file}"
            raise errors.DataError(
                f"{self._stage}: {self._num_errors[origin]} {lines} failed, at most {max_errors:g} may; "
                f"the first is line {first['line'] + 1}: {first['error']}; correct the input"
            )

    def on_done(self, task: executors.Task, record: dict[str, Any]) -> None:
        """Adds the record of a part that was just computed, and measures it."""
        count = functools.partial(self._metrics.count, catalog.INFERENCE_LINES, stage=self._stage)
        count(record["lines"] - record["errors"], outcome="done")
        count(record["errors"], outcome="failed")
        self._metrics.count(catalog.INFERENCE_TOKENS, record["tokens"], stage=self._stage)
        self.num_lines_done += record["lines"]
        # After the metrics, since it may raise, and the lines are computed in any case.
        self.add(task.payload, record)

    def in_order(self) -> Sequence[dict[str, Any]]:
        """Returns the records in the order of their lines, each parsed on access."""
        # By position: parts are done in any order, and of a backward model even planned from the end.
        order = array.array("q", sorted(self._encoded))
        return lazy.LazySequence(len(order), lambda number: dict(json.loads(self._encoded[order[number]])))


def run_parts(
    spec: part_worker.Spec,
    waves: Sequence[Sequence[inputs.Part]],
    session: executors.Session,
    progress: Callable[[int], None],
    is_new: bool,
) -> tuple[Sequence[dict[str, Any]], int]:
    """Computes the parts that are not committed yet, wave after wave.

    Args:
        spec: specification of the workers.
        waves: the parts; those of one wave depend only on parts of earlier waves.
        session: provides the executor, metrics and the stop request.
        progress: called with the number of lines of parts, new or committed before.
        is_new: whether the plan of the output was just written, so that no part is committed yet.

    Returns:
        All commit records in the order of their inputs and lines, and the number of lines computed in this call.

    Raises:
        DataError: more lines of an input fail than max(10, 0.1 %); committed parts stay, but the output is not
            finished.
    """
    store = spec.store
    # Listed once, not asked for one by one: a request a part would keep all workers waiting for hours.
    committed: Collection[str] = frozenset() if is_new else store.committed_names()
    divided: Sequence[_Divided] = lazy.LazySequence(len(waves), lambda number: _divide(waves[number], committed))
    earlier: Sequence[inputs.Part] = ()
    if committed:
        divided = list(divided)
        earlier = inputs.join([wave.earlier for wave in divided])
    records = _PartRecords(spec.stage, waves, session.metrics)
    # All waves use one pool, sized for the widest: a last wave of one part must not be run in the driver instead.
    widest = max(map(len, waves), default=0)
    monitor = executors.Monitor(session.metrics, progress, session.should_stop)
    factory = functools.partial(part_worker.make, spec)
    with earlier_records.reading_along(
        store,
        lazy.LazySequence(len(earlier), lambda number: earlier[number].name),
        lambda number, record: records.add(earlier[number], record),
        session.should_stop,
    ) as check_earlier:

        def on_done(task: executors.Task, record: dict[str, Any]) -> None:
            records.on_done(task, record)
            check_earlier()

        for wave in divided:
            if wave.num_earlier_lines:
                progress(wave.num_earlier_lines)
            if tasks := _tasks(wave.pending):
                session.executor(spec.stage, widest, runs_model=True).run(spec.stage, tasks, factory, on_done, monitor)
    # Wall-clock time, as Prometheus compares it with its own.
    session.metrics.set(catalog.LAST_SUCCESS, time.time(), stage=spec.stage)
    return records.in_order(), records.num_lines_done


class _Divided(NamedTuple):
    """The parts of a wave that are to be done, and those that are committed, with the number of their lines."""

    pending: Sequence[inputs.Part]
    earlier: Sequence[inputs.Part]
    num_earlier_lines: int


def _divide(parts: Sequence[inputs.Part], committed: Collection[str]) -> _Divided:
    if not committed:
        return _Divided(parts, (), 0)
    # Indices alone: the parts of millions of lines are made when a worker is free for them.
    pending, earlier, num_lines = array.array("q"), array.array("q"), 0
    for number, part in enumerate(parts):
        if part.name in committed:
            earlier.append(number)
            num_lines += part.num_lines
        else:
            pending.append(number)
    return _Divided(_chosen(parts, pending), _chosen(parts, earlier), num_lines)


def _chosen(parts: Sequence[inputs.Part], numbers: Sequence[int]) -> Sequence[inputs.Part]:
    return lazy.LazySequence(len(numbers), lambda index: parts[numbers[index]])


def _tasks(parts: Sequence[inputs.Part]) -> Sequence[executors.Task]:
    def task(number: int) -> executors.Task:
        part = parts[number]
        return executors.Task(part.name, part, part.num_lines)

    return lazy.LazySequence(len(parts), task)
