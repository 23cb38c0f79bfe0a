"""Console output: progress bars, progress lines and log lines, all on stderr.

On a terminal each stage has a bar; elsewhere it has a line every few seconds. Text from users or files passes through
`sanitize`, so that no line break or control sequence in it can imitate our own output.
"""

import collections
import contextlib
import dataclasses
import logging
import os
import pathlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

import rich.console
import rich.progress
import rich.text

from core import errors
from workers.fanout import progress_display

CONSOLE_COMMAND = "raycurrent"
LINE_EVERY_S = 5.0
NO_PROGRESS_S = 20.0  # time without progress after which a line reports it
# The speed is the mean over the last 30 s, or over the last 8 samples if they took longer.
RECENT_S, SAMPLE_S, NUM_SAMPLES = 30.0, 0.5, 8
NOTES = "jobs.notes"  # the logger that `--quiet` disables
SLOW_RATE = 0.5  # units per second; below it, seconds per unit are shown


def program() -> str:
    """Returns the command as the user typed it, for help and messages."""
    is_console_command = pathlib.Path(sys.argv[0]).stem == CONSOLE_COMMAND
    return CONSOLE_COMMAND if is_console_command else "python -m jobs"


def sanitize(text: str, limit: int = 200) -> str:
    """Returns untrusted text as one printable line; at most `limit` characters of it are kept, before escaping."""
    return errors.escaped(text if len(text) <= limit else text[: limit - 1] + "…")


def reporter() -> progress_display.Reporter:
    """Returns a reporter for stderr: bars on a terminal, else lines; with `--quiet` one that shows nothing."""
    if not shows_notes():
        return QuietReporter()
    return BarReporter() if sys.stderr.isatty() else LineReporter(write_line)


class QuietReporter:
    """Reporter that shows nothing."""

    @contextlib.contextmanager
    def stage(self, name: str, total: float | None, unit: str, done: float = 0.0) -> Iterator[progress_display.Stage]:  # noqa: ARG002
        """Opens a stage that shows nothing."""
        yield _QuietStage()


class _QuietStage:
    def advance(self, amount: float = 1.0, **shown: float | str) -> None:
        """Does nothing."""

    def wait_for(self, what: str) -> None:
        """Does nothing."""


class Pace:
    """Speed of a stage, from its recent progress.

    Args:
        done: units done before the stage was opened; they do not count in the speed.
        clock: seconds of a monotonic clock.
    """

    def __init__(self, done: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.done = done
        self._clock = clock
        self._samples = collections.deque([(clock(), done)])

    def add(self, amount: float) -> None:
        """Adds progress; an amount of 0 or less is a start: the time since the last progress is not work."""
        now_s = self._clock()
        self.done += amount
        if amount <= 0:
            # Everything before moves up to here, so that the speed stays what it was.
            pause_s = now_s - self._samples[-1][0]
            self._samples = collections.deque((at_s + pause_s, done + amount) for at_s, done in self._samples)
            return
        # At most one sample per SAMPLE_S: a stage may advance thousands of times a second.
        if len(self._samples) > 1 and now_s - self._samples[-2][0] < SAMPLE_S:
            self._samples.pop()
        self._samples.append((now_s, self.done))
        while len(self._samples) > NUM_SAMPLES and self._samples[1][0] < now_s - RECENT_S:
            self._samples.popleft()

    def rate(self) -> float:
        """Returns units per second; 0 in the first `SAMPLE_S`, when progress at once would give an absurd speed."""
        since_s, before = self._samples[0]
        elapsed_s = self._clock() - since_s
        return (self.done - before) / elapsed_s if elapsed_s >= SAMPLE_S else 0.0

    def describe(self, total: float | None, unit: str) -> list[str]:
        """Returns the speed and, if the total is known, the estimated time to the end; empty when all is done."""
        rate = self.rate()
        if rate <= 0 or self.done == total:
            return []
        speed = f"{_format_rate(rate)} {unit}/s" if rate >= SLOW_RATE else f"{1 / rate:.3g} s/{unit.removesuffix('s')}"
        eta = [] if total is None else [f"ETA {format_duration(max(0.0, total - self.done) / rate)}"]
        return [speed, *eta]


def _format_rate(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"


def format_duration(seconds: float) -> str:
    """Formats a duration with at most two units, such as `2 min 40 s`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} days"


class LineReporter:
    """Reporter that writes lines: one every few seconds per stage, one at its end, and one when progress stops.

    Args:
        write: called with each line, without its line end.
        clock: seconds of a monotonic clock.
        every_s: shortest time between two lines of a stage, in seconds.
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
    def stage(self, name: str, total: float | None, unit: str, done: float = 0.0) -> Iterator[progress_display.Stage]:
        """Opens a stage; its last line has the elapsed time and `done`, or `stopped` after an exception."""
        stage = _LineStage(self._write, self._clock, self._every_s, name, total, unit, done)
        ended = threading.Event()
        # A thread, because a stage that hangs never calls `advance`.
        watchdog = threading.Thread(target=stage.watch, args=(ended,), name=f"progress-{name}", daemon=True)
        watchdog.start()
        try:
            yield stage
        except BaseException:
            stage.finish("stopped")
            raise
        else:
            stage.finish("done")
        finally:
            ended.set()


@dataclasses.dataclass
class _LineStage:
    write: Callable[[str], None]
    clock: Callable[[], float]
    every_s: float
    name: str
    total: float | None
    unit: str
    done: float

    def __post_init__(self) -> None:
        self._lock = threading.Lock()  # `advance` and `watch` run in different threads
        self._started_s = self._written_s = self._advanced_s = self.clock()
        self._pace = Pace(self.done, self.clock)
        self._awaited = ""

    def advance(self, amount: float = 1.0, **shown: float | str) -> None:
        """Adds progress, and writes a line if the last one is old enough."""
        with self._lock:
            self._pace.add(amount)
            self._awaited = ""
            now_s = self._advanced_s = self.clock()
            if amount > 0 and now_s - self._written_s >= self.every_s:
                self._written_s = now_s
                speed = self._pace.describe(self.total, self.unit)
                self.write(", ".join([self._progress(), *speed, *_format_values(shown)]))

    def wait_for(self, what: str) -> None:
        """See `progress_display.Stage`."""
        with self._lock:
            self._awaited = what

    def watch(self, ended: threading.Event) -> None:
        """Writes a line whenever there is no progress for `NO_PROGRESS_S`: during a slow start, or a hang."""
        while not ended.wait(self.every_s):
            with self._lock:
                now_s = self.clock()
                if min(now_s - self._written_s, now_s - self._advanced_s) >= NO_PROGRESS_S:
                    self._written_s = now_s
                    state = self._awaited or "no progress"
                    self.write(f"{self._progress()}, {state} for {format_duration(now_s - self._advanced_s)}")

    def finish(self, outcome: str) -> None:
        """Writes the last line."""
        with self._lock:
            self.write(
                f"{self.name}: {_describe_end(outcome, self._pace.done, self.total, self.unit)}, "
                f"{self.clock() - self._started_s:.1f} s"
            )

    def _progress(self) -> str:
        if not self.total:
            return f"{self.name}: {_format_amount(self._pace.done, self.unit)}"
        share = min(1.0, self._pace.done / self.total)
        return f"{self.name}: {_format_number(self._pace.done)} of {_format_amount(self.total, self.unit)}, {share:.0%}"


def _describe_end(outcome: str, done: float, total: float | None, unit: str) -> str:
    """Returns the outcome of a stage; one that returns before its total has `ended`, but is not `done`."""
    # Epochs are added up as fractions, which may miss their total by rounding.
    if total and done < total * (1 - 1e-6):
        verb = "stopped" if outcome == "stopped" else "ended"
        return f"{verb} at {_format_number(done)} of {_format_amount(total, unit)}"
    return f"{outcome}, {_format_amount(done, unit)}"


class BarReporter:
    """Reporter that shows a bar for each stage, for a terminal."""

    def __init__(self, console: rich.console.Console | None = None) -> None:
        self._console = console or rich.console.Console(stderr=True, highlight=False)

    @contextlib.contextmanager
    def stage(self, name: str, total: float | None, unit: str, done: float = 0.0) -> Iterator[progress_display.Stage]:
        """Opens a stage with its own bar, which a permanent line replaces at the end."""
        columns = (
            rich.progress.SpinnerColumn(),
            rich.progress.TextColumn("{task.description}", markup=False),
            rich.progress.BarColumn(bar_width=20),
            rich.progress.TaskProgressColumn(),
            rich.progress.TextColumn("{task.fields[note]}", markup=False),
        )
        started_s = time.monotonic()
        outcome, style = "stopped", "yellow"
        with _ProgressWithValues(*columns, console=self._console, refresh_per_second=5, transient=True) as progress:
            task = progress.add_task(name, total=total, note="starting", values="")
            progress.update(task, completed=done)
            stage = _BarStage(progress, task, total, unit, done)
            try:
                yield stage
                outcome, style = "done", "green"
            finally:
                end = _describe_end(outcome, stage.pace.done, total, unit)
                text = rich.text.Text.assemble(
                    ("✓ " if outcome == "done" else "✗ ", style),
                    (name, "bold"),
                    f": {end}, {format_duration(time.monotonic() - started_s)}",
                    (f"  {stage.last}" if stage.last else "", "dim"),
                )
                progress.console.print(text, no_wrap=True, overflow="ellipsis")


class _ProgressWithValues(rich.progress.Progress):
    """Progress bar with the stage's values (loss, step) on a line below it, where the bar needs no room."""

    def get_renderables(self) -> Iterator[rich.console.RenderableType]:
        """See `rich.progress.Progress`."""
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if task.fields["values"]:
                yield rich.text.Text(f"  {task.fields['values']}", style="dim", no_wrap=True, overflow="ellipsis")


class _BarStage:
    def __init__(
        self, progress: rich.progress.Progress, task: rich.progress.TaskID, total: float | None, unit: str, done: float
    ) -> None:
        self.pace = Pace(done)
        self.last = ""
        self._progress = progress
        self._task = task
        self._total = total
        self._unit = unit

    def advance(self, amount: float = 1.0, **shown: float | str) -> None:
        """Adds progress and redraws the bar."""
        self.pace.add(amount)
        self.last = " · ".join(_format_values(shown)) or self.last
        of = "" if self._total is None else f"{_format_number(self.pace.done)} of "
        amount_of = _format_amount(self.pace.done if self._total is None else self._total, self._unit)
        note = [f"{of}{amount_of}", *self.pace.describe(self._total, self._unit)]
        self._progress.update(self._task, advance=amount, note=" · ".join(note), values=self.last)

    def wait_for(self, what: str) -> None:
        """See `progress_display.Stage`."""
        self._progress.update(self._task, note=what)


def _format_values(values: dict[str, float | str]) -> list[str]:
    return [
        f"{name} {_format_number(value) if isinstance(value, int | float) else sanitize(value)}"
        for name, value in values.items()
    ]


def _format_amount(number: float, unit: str) -> str:
    """Formats a number with its unit, such as `1 file` and `2 files`."""
    return f"{_format_number(number)} {unit.removesuffix('s') if number == 1 else unit}"


def _format_number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.4g}"


def note(line: str) -> None:
    """Writes a line for people to stderr; not with `--quiet`. Names of files in it may have any characters."""
    if shows_notes():
        write_line(errors.escaped(line))


def shows_notes() -> bool:
    """Returns whether lines for people are written: not with `--quiet`."""
    return not logging.getLogger(NOTES).disabled


def print_error(message: str) -> None:
    """Writes an error message to stderr, as one line, without the passwords of URLs."""
    write_line(sanitize(errors.without_credentials(message), limit=2000))


def write_line(line: str) -> None:
    """Writes a line to stderr."""
    # A closed stderr (a pipe whose reader has ended) must not end a run that took hours.
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def redirect_stdout() -> int:
    """Redirects descriptor 1 to stderr and returns the descriptor of the real stdout.

    Stdout carries one JSON document or result lines; libraries, native code included, print to descriptor 1.
    """
    if sys.stdout is None:  # closed by the caller (`>&-`): what is written to the result fails, and is reported
        os.dup2(2, 1)
        return os.open(os.devnull, os.O_RDONLY)
    sys.stdout.flush()  # what is buffered belongs to the real stdout
    real = os.dup(1)
    os.dup2(2, 1)
    return real
