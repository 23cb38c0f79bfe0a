"""What a person sees while a job runs: progress and log lines, on stderr only.

On a terminal each stage has a bar; elsewhere it has a line every few seconds. Text that came from users or
files is shown through `shown`, so that no line break or control sequence in it can imitate our own output.
"""

import collections
import contextlib
import dataclasses
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

import rich.console
import rich.progress
import rich.text

from workers.fanout import progress_display

LINE_EVERY_S = 5.0
SILENT_S = 20.0  # a stage that does not move for so long says so
RECENT_S, SAMPLE_S, NUM_SAMPLES = 30.0, 0.5, 8  # the pace is that of so long, or of so many samples if they took longer
SLOW = 0.5  # units a second; of slower things one says how long each takes
REPEAT_EVERY_S = 60.0
_QUIET = ("ray", "urllib3", "asyncio", "fsspec", "s3fs", "botocore", "aiobotocore", "matplotlib", "PIL", "fontTools")


def shown(text: str, limit: int = 200) -> str:
    """Returns untrusted text as one printable line of at most `limit` characters."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in cut)


def reporter() -> progress_display.Reporter:
    """Returns bars where stderr is a terminal, else lines."""
    return BarReporter() if sys.stderr.isatty() else LineReporter(write_line)


class SilentReporter:
    """Shows nothing: for tests, and for callers that have no console."""

    @contextlib.contextmanager
    def stage(self, name: str, total: float | None, unit: str, done: float = 0.0) -> Iterator[progress_display.Stage]:
        """Opens a stage that nobody watches."""
        del name, total, unit, done
        yield _SilentStage()


class _SilentStage:
    def advance(self, amount: float = 1.0, **shown: float | str) -> None:
        """Does nothing."""


class Pace:
    """How fast a stage goes, told from what it did lately.

    Args:
        done: what was done before.
        clock: seconds of a monotonic clock.
    """

    def __init__(self, done: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.done = self._before = done
        self._clock = clock
        self._samples = collections.deque([(clock(), done)])

    def add(self, amount: float) -> None:
        """Counts; nothing, before anything else, says that the work begins only now."""
        now_s = self._clock()
        if not amount and self.done == self._before:
            self._samples = collections.deque([(now_s, self.done)])
            return
        self.done += amount
        if len(self._samples) > 1 and now_s - self._samples[-2][0] < SAMPLE_S:
            self._samples.pop()
        self._samples.append((now_s, self.done))
        while len(self._samples) > NUM_SAMPLES and self._samples[1][0] < now_s - RECENT_S:
            self._samples.popleft()

    def rate(self) -> float:
        """Units for each second; 0 while nobody knows: what came at once with the beginning says nothing yet."""
        since_s, before = self._samples[0]
        elapsed_s = self._clock() - since_s
        return (self.done - before) / elapsed_s if elapsed_s >= SAMPLE_S else 0.0

    def words(self, total: float | None, unit: str) -> list[str]:
        """How fast, and how much longer, as people say it; nothing when all is done."""
        rate = self.rate()
        if rate <= 0 or self.done == total:
            return []
        speed = f"{_speed(rate)} {unit}/s" if rate >= SLOW else f"{1 / rate:.3g} s/{unit.removesuffix('s')}"
        left = [] if total is None else [f"{duration(max(0.0, total - self.done) / rate)} left"]
        return [speed, *left]


def _speed(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}"


def duration(seconds: float) -> str:
    """Returns a length of time with two units at most."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} days"


class LineReporter:
    """A line every few seconds for each stage, one at its end, and one now and then where nothing moves.

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
    def stage(self, name: str, total: float | None, unit: str, done: float = 0.0) -> Iterator[progress_display.Stage]:
        """Opens a stage; its last line says how long it took, and whether it was left by an error."""
        stage = _LineStage(self._write, self._clock, self._every_s, name, total, unit, done)
        ended = threading.Event()
        watch = threading.Thread(target=stage.watch, args=(ended,), name=f"silence-{name}", daemon=True)
        watch.start()
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
        self._lock = threading.Lock()
        self._started_s = self._written_s = self._moved_s = self.clock()
        self._pace = Pace(self.done, self.clock)

    def advance(self, amount: float = 1.0, **shown: float | str) -> None:
        """Counts, and writes a line if the last one is old enough."""
        with self._lock:
            self._pace.add(amount)
            now_s = self._moved_s = self.clock()
            if amount and now_s - self._written_s >= self.every_s:
                self._written_s = now_s
                self.write(", ".join([self._where(), *self._pace.words(self.total, self.unit), *_pairs(shown)]))

    def watch(self, ended: threading.Event) -> None:
        """Says when nothing has moved for long: a start takes its time, and so does a hang."""
        while not ended.wait(self.every_s):
            with self._lock:
                now_s = self.clock()
                if min(now_s - self._written_s, now_s - self._moved_s) >= SILENT_S:
                    self._written_s = now_s
                    self.write(f"{self._where()}, nothing new for {duration(now_s - self._moved_s)}")

    def finish(self, outcome: str) -> None:
        """Writes the last line."""
        with self._lock:
            self.write(
                f"{self.name}: {_ending(outcome, self._pace.done, self.total, self.unit)}, "
                f"{self.clock() - self._started_s:.1f} s"
            )

    def _where(self) -> str:
        if not self.total:
            return f"{self.name}: {_number(self._pace.done)} {self.unit}"
        share = min(1.0, self._pace.done / self.total)
        return f"{self.name}: {_number(self._pace.done)} of {_number(self.total)} {self.unit}, {share:.0%}"


def _ending(outcome: str, done: float, total: float | None, unit: str) -> str:
    """How a stage ended: one that is stopped in good order is not done, though no error left it."""
    if total and done < total * (1 - 1e-6):
        return f"{'stopped' if outcome == 'stopped' else 'ended'} at {_number(done)} of {_number(total)} {unit}"
    return f"{outcome}, {_number(done)} {unit}"


class BarReporter:
    """A bar for each stage, for a terminal."""

    def __init__(self, console: rich.console.Console | None = None) -> None:
        self._console = console or rich.console.Console(stderr=True, highlight=False)

    @contextlib.contextmanager
    def stage(self, name: str, total: float | None, unit: str, done: float = 0.0) -> Iterator[progress_display.Stage]:
        """Opens a stage with its own bar; when it ends, the bar makes room for a line that stays."""
        columns = (
            rich.progress.SpinnerColumn(),
            rich.progress.TextColumn("{task.description}", markup=False),
            rich.progress.BarColumn(bar_width=20),
            rich.progress.TaskProgressColumn(),
            rich.progress.TextColumn("{task.fields[note]}", markup=False),
        )
        started_s = time.monotonic()
        outcome, style = "stopped", "yellow"
        with _WithValues(*columns, console=self._console, refresh_per_second=5, transient=True) as progress:
            task = progress.add_task(name, total=total, note="starting", values="")
            progress.update(task, completed=done)
            stage = _BarStage(progress, task, total, unit, done)
            try:
                yield stage
                outcome, style = "done", "green"
            finally:
                ending = _ending(outcome, stage.pace.done, total, unit)
                text = rich.text.Text.assemble(
                    ("✓ " if outcome == "done" else "✗ ", style),
                    (name, "bold"),
                    f": {ending}, {duration(time.monotonic() - started_s)}",
                    (f"  {stage.last}" if stage.last else "", "dim"),
                )
                progress.console.print(text, no_wrap=True, overflow="ellipsis")


class _WithValues(rich.progress.Progress):
    """A bar, and under it the values that are worth showing: beside it they would take its room."""

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
        """Moves the bar."""
        self.pace.add(amount)
        self.last = " · ".join(_pairs(shown)) or self.last
        of = "" if self._total is None else f" of {_number(self._total)}"
        words = [f"{_number(self.pace.done)}{of} {self._unit}", *self.pace.words(self._total, self._unit)]
        self._progress.update(self._task, advance=amount, note=" · ".join(words), values=self.last)


def _pairs(values: dict[str, float | str]) -> list[str]:
    return [
        f"{name} {_number(value) if isinstance(value, int | float) else shown(value)}" for name, value in values.items()
    ]


def _number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.4g}"


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
