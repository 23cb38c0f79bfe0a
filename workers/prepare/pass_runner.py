"""Pass runner: fans out the tasks of one pass of prepare, except those that have a commit record."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from core.storage import commit
from core.telemetry import catalog
from workers.fanout import executor as executors
from workers.fanout import progress_display
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
    """Runs one pass after the other."""

    def __init__(
        self, store: commit.PartStore, session: executors.Session, reporter: progress_display.Reporter
    ) -> None:
        self._store = store
        self._session = session
        self._reporter = reporter

    def fan_out(self, title: str, unit: str, tasks: Sequence[PassTask], factory: Factory) -> Records:
        """Runs the tasks that are not committed yet, and returns the commit records of all, by name."""
        records: Records = {}
        uncommitted = []
        for task in tasks:
            # Asked by name, never by listing: a listing may lag behind, or show what a killed writer left.
            record = self._store.committed(task.name)
            if record is None:
                uncommitted.append(executors.Task(task.name, task, task.weight))
            else:
                records[task.name] = record

        def on_done(task: executors.Task, record: line_tasks.Record) -> None:
            records[task.name] = record
            if "shards" in record:  # lines are counted once, in the encoding pass
                self._count_lines(record)

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
