"""Console output: progress lines and bars, escaped text, rate-limited warnings."""

import io
import logging
import re
import threading
import time

import pytest
import rich.console

from core import errors
from jobs import console, log


class Clock:
    """A clock with a settable time, in seconds."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_stage_writes_a_line_every_five_seconds_and_one_at_its_end() -> None:
    clock, lines = Clock(), list[str]()
    with console.LineReporter(lines.append, clock).stage("train", 40, "steps") as stage:
        for _ in range(20):
            clock.now_s += 1
            stage.advance(1, loss=2.5)
    assert lines == [
        "train: 5 of 40 steps, 12%, 1 steps/s, ETA 35 s, loss 2.5",
        "train: 10 of 40 steps, 25%, 1 steps/s, ETA 30 s, loss 2.5",
        "train: 15 of 40 steps, 38%, 1 steps/s, ETA 25 s, loss 2.5",
        "train: 20 of 40 steps, 50%, 1 steps/s, ETA 20 s, loss 2.5",
        "train: ended at 20 of 40 steps, 20.0 s",
    ]


def test_a_failed_stage_is_stopped_not_done() -> None:
    lines = list[str]()
    with pytest.raises(ZeroDivisionError), console.LineReporter(lines.append, Clock()).stage("score", None, "lines"):
        raise ZeroDivisionError
    assert lines == ["score: stopped, 0 lines, 0.0 s"]


def test_a_line_reports_no_progress_after_twenty_seconds_and_not_earlier() -> None:
    clock, lines, written, waiting = Clock(), list[str](), threading.Event(), threading.Event()

    def write(line: str) -> None:
        lines.append(line)
        written.set()

    with console.LineReporter(write, clock, every_s=0.01).stage("train", 40, "steps") as stage:
        stage.advance(0)
        clock.now_s += console.NO_PROGRESS_S - 1
        assert not waiting.wait(0.1)
        assert lines == []
        clock.now_s += 1
        assert written.wait(5)
    assert lines[0] == "train: 0 of 40 steps, 0%, no progress for 20 s"


def test_progress_at_the_start_does_not_count_in_the_speed() -> None:
    """Training reports its first step together with its start, no time later."""
    clock = Clock()
    pace = console.Pace(clock=clock)
    pace.add(0)
    clock.now_s += 0.001
    pace.add(1)
    assert pace.describe(40, "steps") == []
    clock.now_s += 4
    assert pace.describe(41, "steps") == ["4 s/step", "ETA 2 min 40 s"]
    assert pace.describe(1, "steps") == [], "no speed when all is done"


def test_time_without_steps_is_no_speed() -> None:
    """A rank dies at 3 of 10 epochs; after 45 s the group is back at its checkpoint of 2.5 epochs."""
    clock = Clock()
    pace = console.Pace(clock=clock)
    pace.add(0)
    for _ in range(60):
        clock.now_s += 0.5
        pace.add(0.05)
    assert pace.describe(10, "epochs") == ["10 s/epoch", "ETA 1 min 10 s"]
    clock.now_s += 45
    pace.add(-0.5)
    assert pace.done == pytest.approx(2.5)
    assert pace.describe(10, "epochs") == ["10 s/epoch", "ETA 1 min 15 s"]
    for _ in range(10):
        clock.now_s += 0.5
        pace.add(0.05)
    assert pace.describe(10, "epochs") == ["10 s/epoch", "ETA 1 min 10 s"], "what was lost is done again"


def test_a_start_of_workers_is_no_stall() -> None:
    clock, lines, written = Clock(), list[str](), threading.Event()

    def write(line: str) -> None:
        lines.append(line)
        written.set()

    with console.LineReporter(write, clock, every_s=0.01).stage("train", 1, "epochs") as stage:
        stage.wait_for("starting workers")
        clock.now_s += console.NO_PROGRESS_S
        assert written.wait(5)
        stage.advance(0)
        written.clear()
        clock.now_s += console.NO_PROGRESS_S
        assert written.wait(5)
    assert lines[:2] == [
        "train: 0 of 1 epoch, 0%, starting workers for 20 s",
        "train: 0 of 1 epoch, 0%, no progress for 20 s",
    ]


def test_one_is_singular() -> None:
    lines = list[str]()
    for total, done in ((1, 1), (2, 1), (2, 2), (None, 1)):
        with console.LineReporter(lines.append, Clock()).stage("report", total, "files") as stage:
            stage.advance(done)
    assert [line.removeprefix("report: ") for line in lines] == [
        "done, 1 file, 0.0 s",
        "ended at 1 of 2 files, 0.0 s",
        "done, 2 files, 0.0 s",
        "done, 1 file, 0.0 s",
    ]


def screen() -> rich.console.Console:
    """Returns a terminal of 100 columns that keeps its output."""
    return rich.console.Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)


def output_of(terminal: rich.console.Console) -> str:
    assert isinstance(terminal.file, io.StringIO)
    return terminal.file.getvalue()


def test_a_bar_has_speed_eta_and_loss_and_is_replaced_by_a_line() -> None:
    terminal = screen()
    with console.BarReporter(terminal).stage("train", 4, "epochs", done=1) as stage:
        stage.advance(0)
        time.sleep(console.SAMPLE_S)
        stage.advance(1, step=20, loss=2.5)
    output = output_of(terminal)
    assert re.search(r"train .*50% 2 of 4 epochs · \S+ epochs/s · ETA \d+ s", output), output
    assert "step 20 · loss 2.5" in output
    assert re.search(r"✓ train: ended at 2 of 4 epochs, \d+ s  step 20 · loss 2\.5", output)


def test_the_last_line_of_a_bar_has_the_outcome() -> None:
    terminal = screen()
    with console.BarReporter(terminal).stage("score", 2, "parts") as stage:
        stage.advance(2)
    with pytest.raises(ZeroDivisionError), console.BarReporter(terminal).stage("[bold]x", 2, "parts"):
        raise ZeroDivisionError
    output = output_of(terminal)
    assert "✓ score: done, 2 parts, " in output
    assert "✗ [bold]x: stopped at 0 of 2 parts, " in output, "names are not markup"


def test_untrusted_text_becomes_one_printable_line_of_200_characters() -> None:
    assert console.sanitize("a\nb\x1b[31m\udcff") == "a\\nb\\x1b[31m\\udcff"
    assert console.sanitize("é" * 300) == "é" * 199 + "…"


def test_notes_errors_and_lines_of_the_log_escape_alike(capsys: pytest.CaptureFixture[str]) -> None:
    name = "r\u202etxt.jsonl"
    console.note(f"page: {name}")
    console.print_error(f"{name}: wrong")
    assert capsys.readouterr().err == "page: r\\u202etxt.jsonl\nr\\u202etxt.jsonl: wrong\n"
    assert str(errors.DataError(f"{name}: wrong")) == console.sanitize(f"{name}: wrong")


def test_equal_warnings_pass_once_a_minute_and_the_next_has_their_number() -> None:
    clock = Clock()
    repeated = log.RepeatFilter(clock)

    def passes(level: int = logging.WARNING) -> str | None:
        record = logging.LogRecord("core", level, "", 0, "bad line %d", (7,), None)
        return record.getMessage() if repeated.filter(record) else None

    assert [passes() for _ in range(3)] == ["bad line 7", None, None]
    clock.now_s += 61
    assert passes() == "bad line 7 (repeated 2 times since)"
    assert [passes(logging.INFO), passes(logging.INFO)] == ["bad line 7", "bad line 7"]
