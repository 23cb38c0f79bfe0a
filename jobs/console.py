"""What a person sees while a job runs: progress and log lines, on stderr only.

On a terminal each stage has a bar; elsewhere it has a line every few seconds. Text that came from users or
files is shown through `shown`, so that no line break or control sequence in it can imitate our own output.
"""

import contextlib
import dataclasses
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import rich.console
import rich.progress

LINE_EVERY_S = 5.0
REPEAT_EVERY_S = 60.0
_QUIET = ("ray", "urllib3", "asyncio", "fsspec", "s3fs", "botocore", "aiobotocore", "matplotlib", "PIL", "fontTools")


class Stage(Protocol):
    """A stretch of work whose progress is shown."""

    def advance(self, amount: float = 1.0, **shown: float | str) -> None:
        """Says that `amount` more is done, and values worth showing beside it, such as the loss."""


class Reporter(Protocol):
    """Where stages report to."""

    def stage(self, name: str, total: float | None, unit: str) -> contextlib.AbstractContextManager[Stage]:
        """Opens a stage of `total` units; None where nobody knows how many there are."""


def shown(text: str, limit: int = 200) -> str:
    """Returns untrusted text as one printable line of at most `limit` characters."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in cut)


def reporter() -> Reporter:
    """Returns bars where stderr is a terminal, else lines."""
    return BarReporter() if sys.stderr.isatty() else LineReporter(write_line)


class SilentReporter:
    """Shows nothing: for tests, and for callers that have no console."""

    @contextlib.contextmanager
    def stage(self, name: str, total: float | None, unit: str) -> Iterator[Stage]:
        """Opens a stage that nobody watches."""
        del name, total, unit
        yield _SilentStage()


class _SilentStage:
    def advance(self, amount: float = 1.0, **shown: float | str) -> None:
        """Does nothing."""


class LineReporter:
    """A line every few seconds for each stage, and one at its end.

    Args:
        write: takes a line.
        clock: seconds of a monotonic clock.
        every_s: the shortest time between two lines of a stage.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        every_s: float = LINE_EVERY_S,
    ) -> None:
        self._write = write
        self._clock = clock
        self._every_s = every_s

    @contextlib.contextmanager
    def stage(self, name: str, total: float | None, unit: str) -> Iterator[Stage]:
        """Opens a stage; its last line says how long it took, and whether it was left by an error."""
        stage = _LineStage(self._write, self._clock, self._every_s, name, total, unit)
        try:
            yield stage
        except BaseException:
            stage.finish("stopped")
            raise
        stage.finish("done")


@dataclasses.dataclass
class _LineStage:
    write: Callable[[str], None]
    clock: Callable[[], float]
    every_s: float
    name: str
    total: float | None
    unit: str

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._started_s = self._written_s = self.clock()
        self._done = 0.0

    def advance(self, amount: float = 1.0, **shown: float | str) -> None:
        """Counts, and writes a line if the last one is old enough."""
        with self._lock:
            self._done += amount
            now_s = self.clock()
            if now_s - self._written_s >= self.every_s:
                self._written_s = now_s
                self.write(self._line(now_s, shown))

    def finish(self, outcome: str) -> None:
        """Writes the last line."""
        elapsed_s = self.clock() - self._started_s
        self.write(f"{self.name}: {outcome}, {_number(self._done)} {self.unit} in {elapsed_s:.1f} s")

    def _line(self, now_s: float, values: dict[str, float | str]) -> str:
        elapsed_s = max(now_s - self._started_s, 1e-9)
        rate = self._done / elapsed_s
        parts = [f"{self.name}: {_number(self._done)} {self.unit}"]
        if self.total:
            parts = [f"{self.name}: {_number(self._done)} of {_number(self.total)} {self.unit}"]
            parts.append(f"{min(1.0, self._done / self.total):.0%}")
        parts.append(f"{_number(rate)} {self.unit}/s")
        if self.total and rate > 0:
            parts.append(f"about {max(0.0, self.total - self._done) / rate:.0f} s left")
        return ", ".join(parts + _pairs(values))


class BarReporter:
    """A bar for each stage, for a terminal."""

    def __init__(self) -> None:
        self._console = rich.console.Console(stderr=True)

    @contextlib.contextmanager
    def stage(self, name: str, total: float | None, unit: str) -> Iterator[Stage]:
        """Opens a stage with its own bar, which stays on the screen afterwards."""
        columns = (
            rich.progress.TextColumn("{task.description}", markup=False),
            rich.progress.BarColumn(),
            rich.progress.TaskProgressColumn(),
            rich.progress.TimeElapsedColumn(),
            rich.progress.TimeRemainingColumn(),
            rich.progress.TextColumn("{task.fields[note]}", markup=False),
        )
        with rich.progress.Progress(*columns, console=self._console, refresh_per_second=4) as progress:
            task = progress.add_task(name, total=total, note=unit)
            yield _BarStage(progress, task, unit)
            if total is None:
                progress.update(task, total=1, completed=1)


@dataclasses.dataclass
class _BarStage:
    progress: rich.progress.Progress
    task: rich.progress.TaskID
    unit: str

    def advance(self, amount: float = 1.0, **shown: float | str) -> None:
        """Moves the bar."""
        note = " ".join([self.unit, *_pairs(shown)])
        self.progress.update(self.task, advance=amount, note=note)


def _pairs(values: dict[str, float | str]) -> list[str]:
    return [
        f"{name} {_number(value) if isinstance(value, int | float) else shown(value)}" for name, value in values.items()
    ]


def _number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) and abs(value) < 1e15 else f"{value:.4g}"


def set_up_logging() -> None:
    """Sends our log lines to stderr and keeps libraries at warnings; safe to call twice."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _StderrHandler)]:
        root.removeHandler(handler)
    handler = _StderrHandler()
    handler.setFormatter(_OneLine("%(asctime)s %(levelname).1s %(name)s: %(message)s", "%H:%M:%S"))
    handler.addFilter(RepeatFilter())
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


class _StderrHandler(logging.Handler):
    """Writes to what stderr is at that moment, which a progress bar may have wrapped."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one line."""
        write_line(self.format(record))


class _OneLine(logging.Formatter):
    """Escapes control characters in messages; tracebacks keep their lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Formats the record as one printable line."""
        record.message = shown(record.message, limit=2000)
        return super().formatMessage(record)


class RepeatFilter(logging.Filter):
    """Lets a warning through once a minute; the next one that passes says how many were kept back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._last: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Decides by logger and unformatted message."""
        if record.levelno < logging.WARNING:
            return True
        key = (record.name, str(record.msg)[:200])
        last_s, held_back = self._last.get(key, (float("-inf"), 0))
        if self._clock() - last_s < REPEAT_EVERY_S:
            self._last[key] = (last_s, held_back + 1)
            return False
        self._last[key] = (self._clock(), 0)
        if held_back:
            record.msg = f"{record.getMessage()} (and {held_back} times since the last line)"
            record.args = None
        return True


def complain(message: str) -> None:
    """Says what is wrong, as one line."""
    write_line(shown(message, limit=2000))


def write_line(line: str) -> None:
    """Writes a line to stderr."""
    # A reader of stderr that has gone away must not end a run that took hours.
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def take_stdout() -> int:
    """Points descriptor 1 at stderr, where libraries may print what they like, and returns the real stdout."""
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    return real
