"""Reporter for tests, which shows nothing."""

import contextlib
from collections.abc import Iterator

from workers.fanout import progress_display


class SilentReporter:
    """Reporter that shows nothing."""

    @contextlib.contextmanager
    def stage(self, name: str, total: float | None, unit: str, done: float = 0.0) -> Iterator[progress_display.Stage]:
        """Opens a stage that shows nothing."""
        del name, total, unit, done
        yield _SilentStage()


class _SilentStage:
    def advance(self, amount: float = 1.0, **shown: float | str) -> None:
        """Does nothing."""

    def wait_for(self, what: str) -> None:
        """Does nothing."""
