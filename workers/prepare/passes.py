"""A pass of prepare: the tasks of one kind are fanned out, and one that is committed is not done again."""

from collections.abc import Callable, Sequence
from typing import Any

from core.storage import commit
from core.telemetry import catalog
from workers.fanout import executor as executors
from workers.fanout import progress_display
from workers.prepare import sharding

STAGE = "prepare"

Records = dict[str, sharding.Record]
Factory = Callable[[], Callable[[Any], Any]]


class Runner:
    """Does the tasks of one pass after the other."""

    def __init__(
        self, store: commit.PartStore, session: executors.Session, reporter: progress_display.Reporter
    ) -> None:
        self._store = store
        self._session = session
        self._reporter = reporter

    def fan_out(self, title: str, unit: str, tasks: Sequence[tuple[Any, int]], factory: Factory) -> Records:
        """Does the tasks that are not committed yet and returns the records of all, by name."""
        records: Records = {}
        todo = []
        for task, weight in tasks:
            record = self._store.committed(task.name)
            if record is None:
                todo.append(executors.Task(task.name, task, weight))
            else:
                records[task.name] = record

        def on_done(task: executors.Task, record: sharding.Record) -> None:
            records[task.name] = record
            if "shards" in record:
                self._measure(record)

        self.execute(title, unit, todo, factory, on_done)
        return records

    def execute(
        self,
        title: str,
        unit: str,
        tasks: Sequence[executors.Task],
        factory: Factory,
        on_done: Callable[[executors.Task, Any], None],
    ) -> None:
        """Does tasks and shows how far they are."""
        if not tasks:
            return
        with self._reporter.stage(title, float(sum(task.weight for task in tasks)), unit) as shown:
            self._session.executor(STAGE, len(tasks)).run(
                STAGE,
                tasks,
                factory,
                on_done,
                executors.Monitor(self._session.metrics, shown.advance, self._session.should_stop),
            )

    def _measure(self, record: sharding.Record) -> None:
        kept = sum(shard["rows"] for shard in record["shards"].values())
        tokens = sum(sum(shard["tokens"].values()) for shard in record["shards"].values())
        self._session.metrics.count(catalog.PREPARE_LINES, kept, outcome="done")
        self._session.metrics.count(catalog.PREPARE_LINES, record["lines"] - kept, outcome="skipped")
        self._session.metrics.count(catalog.PREPARE_TOKENS, tokens)
