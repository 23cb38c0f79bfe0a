"""Times of a series: parsing, the regular axis that they lie on, and their labels."""

import calendar
import dataclasses
import datetime
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Unit = Literal["microsecond", "month", "number"]

_DAY_US = 86_400_000_000
_SIZES_US = {"day": _DAY_US, "hour": 3_600_000_000, "minute": 60_000_000, "second": 1_000_000, "microsecond": 1}
_EPOCH = datetime.datetime(1970, 1, 1)
_DATE_DIGITS = re.compile(r"(19|20)\d{2}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")
_MONTH = re.compile(r"\d{4}-\d{2}")
# Times that are numbers are decimal fractions, which floating point rounds: this much of a step does not count.
_TOLERANCE = 1e-6


class Times(NamedTuple):
    """Times of rows as a file has them: microseconds since 1970, or numbers.

    Attributes:
        values_T: int64 microseconds, or float64 numbers.
        is_utc: whether the file gave offsets, so that times are in UTC.
    """

    values_T: npt.NDArray[Any]
    is_utc: bool = False

    @property
    def are_dates(self) -> bool:
        """True for dates and times of day, False for numbers."""
        return self.values_T.dtype.kind == "i"

    def label(self, row: int) -> str:
        """Returns the time of a row as text."""
        value = self.values_T[row]
        return _format_us(int(value), self.is_utc, with_clock=None) if self.are_dates else f"{value:.12g}"


@dataclasses.dataclass(frozen=True)
class Axis:
    """Regular times: row i is at `start + i * step`.

    Attributes:
        unit: unit of start and step; months begin with January 1970.
        start: time of row 0.
        step: time between two rows.
        within_month_us: with months, the time after the beginning of the month; None: the last day of the month.
        is_utc: whether times are in UTC, not in a local time that the file does not name.
        has_clock: whether times have a time of day.
    """

    unit: Unit
    start: float
    step: float
    within_month_us: int | None = 0
    is_utc: bool = False
    has_clock: bool = False

    def shifted(self, rows: int) -> "Axis":
        """Returns the axis whose row 0 is the given row of this one."""
        return dataclasses.replace(self, start=self.start + rows * self.step)

    def offset_of(self, other: "Axis") -> int | None:
        """Returns the row of this axis that is row 0 of another one; None if its rows lie between those of this one."""
        if self.unit != other.unit or not np.isclose(self.step, other.step, rtol=_TOLERANCE):
            return None
        offset = (other.start - self.start) / self.step
        return round(offset) if abs(offset - round(offset)) <= _TOLERANCE * max(1.0, abs(offset)) else None

    def date_and_time(self, row: int) -> datetime.datetime | None:
        """Returns the date and time of a row; None where times are numbers."""
        if self.unit == "number":
            return None
        value = int(self.start + row * self.step)
        if self.unit == "microsecond":
            return _EPOCH + datetime.timedelta(microseconds=value)
        year, month = 1970 + value // 12, value % 12 + 1
        days = calendar.monthrange(year, month)[1]
        if self.within_month_us is None:
            return datetime.datetime(year, month, days)
        return datetime.datetime(year, month, 1) + datetime.timedelta(microseconds=self.within_month_us)

    def instant(self, row: int) -> float | datetime.datetime:
        """Returns the time of a row: date and time, or a number."""
        time = self.date_and_time(row)
        return self.start + row * self.step if time is None else time

    def label(self, row: int) -> str:
        """Returns the time of a row as text: ISO 8601, or a number."""
        time = self.date_and_time(row)
        if time is None:
            return f"{self.start + row * self.step:.12g}"
        return _format_us((time - _EPOCH) // datetime.timedelta(microseconds=1), self.is_utc, self.has_clock)

    def describe_step(self) -> str:
        """Returns the step with its unit, such as `1 day`."""
        if self.unit == "number":
            return f"{self.step:.12g}"
        size, unit = int(self.step), str(self.unit)
        if unit == "microsecond":
            unit = next(name for name, size_us in _SIZES_US.items() if size % size_us == 0)
            size //= _SIZES_US[unit]
        return f"{size} {unit}{'' if size == 1 else 's'}"

    def to_json(self) -> dict[str, Any]:
        """Returns the stored form."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Axis":
        """Reads the stored form.

        Raises:
            ValueError, TypeError: it is not valid.
        """
        axis = cls(**content)
        if axis.unit not in ("microsecond", "month", "number") or not axis.step > 0:
            raise ValueError("times: the unit or the step is not valid")
        return axis


class IrregularError(ValueError):
    """Times of which one does not follow the others regularly.

    Attributes:
        row: the row, from 0.
        reason: the problem, with the time of the row.
    """

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(reason)
        self.row, self.reason = row, reason


def parse(
    texts: Sequence[str],
    numbers_T: npt.NDArray[np.float64] | None = None,
    wrong: int | None = None,
    time_format: str | None = None,
) -> Times:
    """Parses the times of a text file.

    Args:
        texts: ISO 8601 dates and times (2026-01-31, 20260131, 2026-01-31 13:00, 2026-01), or numbers.
        numbers_T: the numbers that the texts mean, up to the first that is none.
        wrong: the row of the first text that is not a number, if there is one.
        time_format: another form of dates and times, as strptime has it; then no text is a number.

    Raises:
        IrregularError: a text is not a time, or some have an offset from UTC and others none.
    """
    if "" in texts:
        raise IrregularError(texts.index(""), "has no time")
    if time_format is None and numbers_T is not None and wrong != 0 and not all(map(_DATE_DIGITS.fullmatch, texts)):
        if wrong is not None:
            raise IrregularError(wrong, f"has the time {texts[wrong]!r}, which is not a number as those before")
        if np.isnan(numbers_T).any():
            raise IrregularError(int(np.isnan(numbers_T).argmax()), "has no time")
        return Times(numbers_T)
    values_T, offsets = np.empty(len(texts), dtype=np.int64), set()
    for row, text in enumerate(texts):
        try:
            if time_format is not None:
                time = datetime.datetime.strptime(text, time_format)
            else:
                time = datetime.datetime.fromisoformat(f"{text}-01" if _MONTH.fullmatch(text) else text)
        except ValueError as error:
            remedy = "write times as 2026-01-31, 2026-01-31 13:00, or as numbers, or set csv.time_format"
            if time_format is not None:
                remedy = f"it is not of the form csv.time_format, {time_format!r}; correct one of them"
            raise IrregularError(row, f"has the time {text!r}; {remedy}") from error
        offsets.add(time.tzinfo is not None)
        if len(offsets) > 1:
            raise IrregularError(row, f"has the time {text!r}, only some have an offset from UTC; give it to all")
        if time.tzinfo is not None:
            time = time.astimezone(datetime.UTC).replace(tzinfo=None)
        values_T[row] = (time - _EPOCH) // datetime.timedelta(microseconds=1)
    return Times(values_T, is_utc=offsets == {True})


def place(times: Times, of_training: Axis | None) -> tuple[Axis, npt.NDArray[np.int64]]:
    """Places times on a regular axis: that of calendar months if they have the same day of the month, else of a step.

    Args:
        times: in the order of the rows.
        of_training: an axis that has the step; None: the most frequent difference of two times is the step.

    Returns:
        The axis, and the row on it of each time; rows that are left out are gaps.

    Raises:
        IrregularError: a time falls, repeats, or lies between two steps; or the step cannot be known.
    """
    check_order(times)
    if of_training is None and len(times.values_T) < 2:
        raise IrregularError(0, "is the only row, so that the step of its times is not known; give more rows")
    axis, values_T = _months(times, of_training) or _fixed(times, of_training)
    steps = np.diff(values_T) / axis.step
    rows = np.rint(steps).astype(np.int64)
    is_between = (np.abs(steps - rows) > np.maximum(_TOLERANCE, _TOLERANCE * rows)) | (rows < 1)
    if is_between.any():
        row = int(np.flatnonzero(is_between)[0]) + 1
        raise IrregularError(
            row,
            f"has the time {times.label(row)} after {times.label(row - 1)}, which is not a multiple of the step "
            f"({axis.describe_step()}); correct it",
        )
    return axis, np.concatenate([[0], np.cumsum(rows)])


def check_order(times: Times) -> None:
    """Checks that times rise.

    Raises:
        IrregularError: a time falls or repeats.
    """
    is_wrong = np.diff(times.values_T) <= 0
    if is_wrong.any():
        row = int(np.flatnonzero(is_wrong)[0]) + 1
        is_equal = times.values_T[row] == times.values_T[row - 1]
        remedy = "keep one row for each time" if is_equal else "sort the rows, the oldest first"
        reason = f"repeats the time {times.label(row)}" if is_equal else f"has the time {times.label(row)} after "
        raise IrregularError(row, f"{reason}{'' if is_equal else times.label(row - 1)}; {remedy}")


def _fixed(times: Times, of_training: Axis | None) -> tuple[Axis, npt.NDArray[Any]]:
    """Returns an axis with a step of constant duration, and the times in its unit."""
    unit: Unit = "microsecond" if times.are_dates else "number"
    if of_training is None:
        step = _most_frequent(np.diff(times.values_T))
    elif of_training.unit != unit:
        raise IrregularError(
            0, f"has the time {times.label(0)}, but the model was trained on a step of {of_training.describe_step()}"
        )
    else:
        step = of_training.step
    start = times.values_T[0].item()
    has_clock = times.are_dates and bool((times.values_T % _DAY_US).any())
    return Axis(unit, start, step, 0, times.is_utc, has_clock), times.values_T


def _months(times: Times, of_training: Axis | None) -> tuple[Axis, npt.NDArray[Any]] | None:
    """Returns an axis of calendar months and the months, if all times have the same place in different months."""
    if not times.are_dates or (of_training is not None and of_training.unit != "month"):
        return None
    instants_T = times.values_T.astype("datetime64[us]")
    months_T = instants_T.astype("datetime64[M]")
    within_T = (instants_T - months_T.astype("datetime64[us]")).astype(np.int64)
    to_next_T = ((months_T + 1).astype("datetime64[us]") - instants_T).astype(np.int64)
    numbers_T = months_T.astype(np.int64)
    is_last_day = (to_next_T == _DAY_US).all()
    if (np.diff(numbers_T) < 1).any() or not (is_last_day or (within_T == within_T[0]).all()):
        return None
    step = _most_frequent(np.diff(numbers_T)) if of_training is None else of_training.step
    within_us = None if is_last_day else int(within_T[0])
    has_clock = not is_last_day and bool(within_T[0] % _DAY_US)
    return Axis("month", int(numbers_T[0]), step, within_us, times.is_utc, has_clock), numbers_T


def _most_frequent(differences: npt.NDArray[Any]) -> float:
    """Returns the most frequent difference, of equally frequent ones the smallest."""
    if differences.dtype.kind == "f":
        # Equal decimal fractions differ by their rounding.
        rounded = np.round(differences / differences.min(), 6)
        _, first, inverse = np.unique(rounded, return_index=True, return_inverse=True)
        differences = differences[first[inverse]]
    values, counts = np.unique(differences, return_counts=True)
    step: float = values[np.argmax(counts)].item()
    return step


def _format_us(value: int, is_utc: bool, with_clock: bool | None) -> str:
    """Formats microseconds since 1970; `with_clock` None: with a time of day only where it is not midnight."""
    time = _EPOCH + datetime.timedelta(microseconds=value)
    shows_clock = value % _DAY_US != 0 if with_clock is None else with_clock
    if not shows_clock:
        return time.date().isoformat()
    has_seconds = time.second or time.microsecond
    text = time.isoformat(timespec="auto" if has_seconds else "minutes")
    return f"{text}Z" if is_utc else text
