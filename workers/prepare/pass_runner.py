"""Pass runner: fans out the tasks of one pass of prepare, except those that have a commit record."""

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

from core.storage import commit
from core.telemetry import catalog
from workers.fanout import earlier_records, progress_display
from workers.fanout import executor as executors
from workers.prepare import line_tasks

STAGE = "prepare"

Records = dict[str, line_tasks.Record]
Factory = Callable[[], Callable[[Any], Any]]


class PassTask(Protocol):
    """A task of a pass, such as `line_tasks.PartTask`."""

    @property
    def name(self) -> str:
        """The name of its commit record, unique in the dataset."""

    @property
    def weight(self) -> int:
        """Units of progress, such as the lines of its part."""


class PassRunner:
    """Runs one pass after the other.

    Args:
        store: the commit records of the tasks.
        session: provides the executor, metrics and the stop request.
        reporter: shows progress.
        is_new: whether the plan of the dataset was just written, so that no task is committed yet.
    """

    def __init__(
        self,
        store: commit.PartStore,
        session: executors.Session,
        reporter: progress_display.Reporter,
        is_new: bool,
    ) -> None:
        self._is_new = is_new
        self._store = store
        self._session = session
        self._reporter = reporter

    @functools.cached_property
    def _committed(self) -> Collection[str]:
        """The tasks that were committed before this driver began; those of later passes are its own."""
        return frozenset() if self._is_new else self._store.committed_names()

    def fan_out(self, title: str, unit: str, tasks: Sequence[PassTask], factory: Factory) -> Records:
        """Runs the tasks that are not committed yet, and returns the commit records of all, by name."""
        records: Records = {}
        earlier = [task.name for task in tasks if task.name in self._committed]
        uncommitted = [
            executors.Task(task.name, task, task.weight) for task in tasks if task.name not in self._committed
        ]

        def add_earlier(number: int, record: line_tasks.Record) -> None:
            records[earlier[number]] = record

        with earlier_records.reading_along(
            self._store, earlier, add_earlier, self._session.should_stop
        ) as check_earlier:

            def on_done(task: executors.Task, record: line_tasks.Record) -> None:
                records[task.name] = record
                if "shards" in record:  # lines are counted once, in the encoding pass
                    self._count_lines(record)
                check_earlier()

            self.execute(title, unit, uncommitted, factory, on_done)
        return records

    def execute(
        self,
        title: str,
        unit: str,
        tasks: Sequence[executors.Task],
        factory: Factory,
        on_done: Callable[[executors.Task, Any], None],
    ) -> None:
        """Runs tasks and displays their progress."""
        if not tasks:
            return
        with self._reporter.stage(title, float(sum(task.weight for task in tasks)), unit) as progress:
            progress.wait_for("starting workers")
            # The number decides between the pool and this process: a single task does not start Ray.
            self._session.executor(STAGE, len(tasks)).run(
                STAGE,
                tasks,
                factory,
                on_done,
                executors.Monitor(
                    self._session.metrics, progress.advance, self._session.should_stop, self._session.interrupting
                ),
            )

    def _count_lines(self, record: line_tasks.Record) -> None:
        # Of records that this process made: a resume does not count the lines of an earlier start again.
        kept = sum(shard["rows"] for shard in record["shards"].values())
        tokens = sum(sum(shard["tokens"].values()) for shard in record["shards"].values())
        self._session.metrics.count(catalog.PREPARE_LINES, kept, outcome="done")
        self._session.metrics.count(catalog.PREPARE_LINES, record["lines"] - kept, outcome="skipped")
        self._session.metrics.count(catalog.PREPARE_TOKENS, tokens)
