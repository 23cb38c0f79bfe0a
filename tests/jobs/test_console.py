"""What a person sees: lines at most every few seconds, escaped text, repeated warnings counted."""

import logging

import pytest

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
