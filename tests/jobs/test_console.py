"""What a person sees: lines at most every few seconds, escaped text, repeated warnings counted."""

import io
import logging
import re
import threading
import time

import pytest
import rich.console

from jobs import console


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_stage_has_a_line_every_five_seconds_and_one_at_its_end() -> None:
    clock, lines = Clock(), list[str]()
    with console.LineReporter(lines.append, clock).stage("train", 40, "steps") as stage:
        for _ in range(20):
            clock.now_s += 1
            stage.advance(1, loss=2.5)
    assert lines == [
        "train: 5 of 40 steps, 12%, 1 steps/s, 35 s left, loss 2.5",
        "train: 10 of 40 steps, 25%, 1 steps/s, 30 s left, loss 2.5",
        "train: 15 of 40 steps, 38%, 1 steps/s, 25 s left, loss 2.5",
        "train: 20 of 40 steps, 50%, 1 steps/s, 20 s left, loss 2.5",
        "train: ended at 20 of 40 steps, 20.0 s",
    ]


def test_a_stage_that_fails_does_not_say_done() -> None:
    lines = list[str]()
    with pytest.raises(ZeroDivisionError), console.LineReporter(lines.append, Clock()).stage("score", None, "lines"):
        raise ZeroDivisionError
    assert lines == ["score: stopped, 0 lines, 0.0 s"]


def test_a_stage_that_stands_still_says_so() -> None:
    """Twenty seconds, and not sooner, after the last thing that happened."""
    clock, lines, moved, ended = Clock(), list[str](), threading.Event(), threading.Event()

    def write(line: str) -> None:
        lines.append(line)
        moved.set()

    with console.LineReporter(write, clock, every_s=0.01).stage("train", 40, "steps") as stage:
        stage.advance(0)
        clock.now_s += console.SILENT_S - 1
        assert not ended.wait(0.1)
        assert lines == []
        clock.now_s += 1
        assert moved.wait(5)
    assert lines[0] == "train: 0 of 40 steps, 0%, nothing new for 20 s"


def test_what_comes_with_the_beginning_says_nothing_of_the_pace() -> None:
    """The first step of a training is told together with its beginning, which is no time at all."""
    clock = Clock()
    pace = console.Pace(clock=clock)
    pace.add(0)
    clock.now_s += 0.001
    pace.add(1)
    assert pace.words(40, "steps") == []
    clock.now_s += 4
    assert pace.words(41, "steps") == ["4 s/step", "2 min 40 s left"]
    assert pace.words(1, "steps") == [], "all is done"


def screen() -> rich.console.Console:
    """A terminal of 100 columns that keeps what it shows."""
    return rich.console.Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)


def shown_by(terminal: rich.console.Console) -> str:
    assert isinstance(terminal.file, io.StringIO)
    return terminal.file.getvalue()


def test_on_a_terminal_a_bar_has_pace_rest_and_loss_and_makes_room_for_a_line() -> None:
    terminal = screen()
    with console.BarReporter(terminal).stage("train", 4, "epochs", done=1) as stage:
        stage.advance(0)
        time.sleep(console.SAMPLE_S)
        stage.advance(1, step=20, loss=2.5)
    drawn = shown_by(terminal)
    assert re.search(r"train .*50% 2 of 4 epochs · \S+ epochs/s · \d+ s left", drawn), drawn
    assert "step 20 · loss 2.5" in drawn
    assert re.search(r"✓ train: ended at 2 of 4 epochs, \d+ s  step 20 · loss 2\.5", drawn)


def test_on_a_terminal_the_last_line_says_how_it_went() -> None:
    terminal = screen()
    with console.BarReporter(terminal).stage("score", 2, "parts") as stage:
        stage.advance(2)
    with pytest.raises(ZeroDivisionError), console.BarReporter(terminal).stage("[bold]x", 2, "parts"):
        raise ZeroDivisionError
    shown = shown_by(terminal)
    assert "✓ score: done, 2 parts, " in shown
    assert "✗ [bold]x: stopped at 0 of 2 parts, " in shown, "a name is no markup"


def test_untrusted_text_is_one_printable_line_of_200_characters() -> None:
    assert console.shown("a\nb\x1b[31m\udcff") == "a\\nb\\x1b[31m\\udcff"
    assert console.shown("é" * 300) == "é" * 199 + "…"


def test_a_warning_passes_once_a_minute_and_then_says_how_often_it_came() -> None:
    clock = Clock()
    repeated = console.RepeatFilter(clock)

    def passes(level: int = logging.WARNING) -> str | None:
        record = logging.LogRecord("core", level, "", 0, "bad line %d", (7,), None)
        return record.getMessage() if repeated.filter(record) else None

    assert [passes() for _ in range(3)] == ["bad line 7", None, None]
    clock.now_s += 61
    assert passes() == "bad line 7 (and 2 times since the last line)"
    assert [passes(logging.INFO), passes(logging.INFO)] == ["bad line 7", "bad line 7"]
