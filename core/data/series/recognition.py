"""Recognition of a series' files: the dialect of a CSV file, its time column, and its columns of numbers."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from core import errors
from core.config import series_settings
from core.data.series import csv_file, preparation, reading, times
from core.data.text import source_files, sources, tables

SAMPLE_LINES = 1000
SAME_WIDTH = 0.9
"""Share of lines with as many values as the header, from which on a character is taken for the delimiter."""
_MOST_SHOWN = 40  # characters of a header or of a value in a message
MAX_COLUMNS = 16  # a small model forecasts few columns well
_DELIMITERS = (",", ";", "\t", "|")
# Decimal mark and mark of thousands; of equally good ones the first is chosen.
_MARKS: tuple[tuple[Any, Any], ...] = (
    (".", None),
    (",", None),
    (".", ","),
    (",", "."),
    (".", " "),
    (",", " "),
    (".", "'"),
)
# Dates besides those of ISO 8601, each also with a time of day; of those that fit, the first in which all rows rise.
_DATE_FORMS = ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%Y/%m/%d", "%Y.%m.%d", "%d.%m.%y", "%m/%d/%y")
_NAMED_MONTHS = ("%d-%b-%Y", "%d-%b-%y", "%d %b %Y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y", "%b %Y", "%B %Y")
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
_MISSING = ("-", "--", "?", ".", "#N/A", "none", "missing", "-999", "-9999")
_TIME_NAMES = ("t", "time", "times", "date", "datetime", "timestamp", "year", "month", "day", "hour", "step", "index")


class Recognized(NamedTuple):
    """Columns of a series, and how to read them.

    Attributes:
        settings: settings of the corpus besides its files: `time`, `gaps` and `csv`, where they are not the default.
        columns: columns of numbers.
        table: their values.
        notes: sentences for the user: what was seen, and what was chosen for it.
    """

    settings: dict[str, Any]
    columns: list[str]
    table: reading.Table
    notes: list[str]


def recognize(files: Sequence[source_files.File]) -> Recognized:
    """Recognizes CSV files with a header line, or Parquet files, by the first of them, and reads all.

    Raises:
        DataError: there is no column of numbers, or the times are not regular.
    """
    name, data = sources.read(files[0])
    where = str(files[0])
    texts: Mapping[str, Sequence[str]] = {}
    unused: dict[str, str] = {}
    if name.endswith(".parquet"):
        dialect = series_settings.CsvConfig()
        numeric, time = _parquet_columns(data, where)
    else:
        sources.refuse_signature(data, where)
        dialect, texts = _dialect(data, where)
        numeric, time, dialect = _csv_columns(texts, dialect)
        unused = {name: column[0] for name, column in texts.items() if name not in numeric and name != time and column}
    if not numeric:
        header = f" below its header line, {_shortened(', '.join(texts))}" if texts else ""
        raise errors.DataError(
            f"{where}: has no column of numbers{header}; remove lines above the header; "
            "text is read from lines, tab-separated pairs, JSONL or Parquet"
        )
    settings: dict[str, Any] = (
        {"csv": changed} if (changed := dialect.model_dump(mode="json", exclude_defaults=True)) else {}
    )
    notes = [f"{_described(name, dialect)}, columns of numbers: {', '.join(numeric[:MAX_COLUMNS])}."]
    if len(numeric) > MAX_COLUMNS:
        notes.append(f"{len(numeric) - MAX_COLUMNS} more columns of numbers are not used.")
    if unused:
        shown = ", ".join(f"{name} ({_shortened(value)!r})" for name, value in unused.items())
        notes.append(f"Columns of neither numbers nor times, which are not used: {shown}.")
    if time is not None:
        settings["time"] = time
    columns = numeric[:MAX_COLUMNS]
    table, gaps = _read(files, columns, preparation.Preparation(time, "refuse", dialect))
    if gaps != "refuse":
        settings["gaps"] = gaps
        notes.append(f"{int(table.is_filled_TC.sum()):,} missing values are interpolated (corpus.gaps).")
    if table.axis is None:
        notes.append("No column of times: rows are taken to be regular in time, the oldest first.")
    else:
        axis = table.axis
        notes.append(
            f"Times in column {time}: {axis.label(0)} to {axis.label(len(table) - 1)}, {axis.describe_step()}"
            + (f"; read as {dialect.time_format} (corpus.csv.time_format)." if dialect.time_format else ".")
        )
    constant = [name for index, name in enumerate(columns) if np.ptp(table.values_TC[:, index]) == 0]
    if constant:
        notes.append(f"Constant columns, which are left out: {', '.join(constant)}.")
    kept = [index for index, name in enumerate(columns) if name not in constant]
    if not kept:
        raise errors.DataError(f"{where}: every column is constant; there is nothing to forecast")
    chosen = reading.Table(table.values_TC[:, kept], table.is_filled_TC[:, kept], table.axis)
    return Recognized(settings, [columns[index] for index in kept], chosen, notes)


def _read(
    files: Sequence[source_files.File], columns: Sequence[str], prepared: preparation.Preparation
) -> tuple[reading.Table, preparation.Gaps]:
    """Reads the columns; missing values and rows are interpolated if there are any."""
    try:
        return reading.read(files, columns, prepared, "FILE"), "refuse"
    except errors.DataError:
        interpolated = preparation.Preparation(prepared.time, "interpolate", prepared.csv)
        return reading.read(files, columns, interpolated, "FILE"), "interpolate"


def _described(name: str, dialect: series_settings.CsvConfig) -> str:
    if name.endswith(".parquet"):
        return "Parquet file"
    marks = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
    decimal = ", decimal commas" if dialect.decimal == "," else ""
    thousands = "" if dialect.thousands is None else f", thousands marked by {dialect.thousands!r}"
    return f"CSV file separated by {marks[dialect.delimiter]}{decimal}{thousands}"


def _parquet_columns(data: bytes, where: str) -> tuple[list[str], str | None]:
    with tables.open_parquet(pa.BufferReader(data), where) as opened:
        schema = opened.schema_arrow
    types = pa.types
    time = next((field.name for field in schema if types.is_date(field.type) or types.is_timestamp(field.type)), None)
    return [field.name for field in schema if types.is_integer(field.type) or types.is_floating(field.type)], time


def _dialect(data: bytes, where: str) -> tuple[series_settings.CsvConfig, Mapping[str, Sequence[str]]]:
    """Returns the dialect with the most columns of numbers, and the texts of all columns in the first lines."""
    text = data.decode("utf-8-sig", "replace")
    lines = [line for line in itertools.islice(text.splitlines(), SAMPLE_LINES) if line.strip()]
    if len(lines) < 2:
        raise errors.DataError(f"{where}: has no row below the header line; name a file with values")
    delimiter = max(_DELIMITERS, key=lambda mark: _width(lines, mark, where))
    rows = list(csv_file.split(lines, delimiter, where))
    header = [name.strip() for name in rows[0]]
    whole = [row for row in rows[1:] if len(row) == len(header)]
    texts = {name: [row[index].strip() for row in whole] for index, name in enumerate(header)}
    candidates = [
        _with_missing(series_settings.CsvConfig(delimiter=delimiter, decimal=decimal, thousands=thousands), texts)
        for decimal, thousands in _MARKS
        if decimal != delimiter
    ]
    return max(candidates, key=lambda dialect: len(_numeric(texts, dialect))), texts


def _width(lines: Sequence[str], delimiter: str, where: str) -> int:
    """Returns the number of columns with a delimiter, if most lines have as many as the header."""
    rows = list(csv_file.split(lines, delimiter, where))
    width = len(rows[0])
    return width if sum(len(row) == width for row in rows) >= SAME_WIDTH * len(rows) else 0


def _with_missing(dialect: series_settings.CsvConfig, texts: Mapping[str, Sequence[str]]) -> series_settings.CsvConfig:
    """Adds marks of missing values that occur in otherwise numeric columns."""
    used: list[str] = []
    for column in texts.values():
        wrong = {text for text in column if csv_file.convert([text], dialect)[1] is not None}
        if wrong and len(wrong) < len(set(column)) and wrong <= set(_MISSING):
            used += sorted(wrong - set(used))
    if not used:
        return dialect
    return dialect.model_copy(update={"missing": (*dialect.missing, *used)})


def _numeric(texts: Mapping[str, Sequence[str]], dialect: series_settings.CsvConfig) -> list[str]:
    """Returns the columns that have numbers, and nothing else but marks of missing values."""
    names = []
    for name, column in texts.items():
        numbers_T, wrong = csv_file.convert(column, dialect)
        if wrong is None and np.isfinite(numbers_T).any():
            names.append(name)
    return names


def _csv_columns(
    texts: Mapping[str, Sequence[str]], dialect: series_settings.CsvConfig
) -> tuple[list[str], str | None, series_settings.CsvConfig]:
    """Returns the columns of numbers, that of times (dates, or numbers that rise under a usual name), and the dialect.

    The dialect has the form of the dates, if it is not that of ISO 8601.
    """
    numeric = _numeric(texts, dialect)
    for name, column in texts.items():
        if name not in numeric and column and _parsed(column, None) is not None:
            return numeric, name, dialect
    for name, column in texts.items():
        # 31.12.2026 is a date also where the point marks thousands; 01.2026 is a number.
        if name not in numeric and (form := _form_of(column)) is not None:
            return numeric, name, dialect.model_copy(update={"time_format": form})
    for name in numeric:
        numbers_T, _ = csv_file.convert(texts[name], dialect)
        if name.lower() in _TIME_NAMES and len(numeric) > 1 and bool((np.diff(numbers_T) > 0).all()):
            return [other for other in numeric if other != name], name, dialect
    return numeric, None, dialect


def _form_of(column: Sequence[str]) -> str | None:
    """Returns the form of dates and times in which a column rises, else the first that fits; None if none does."""
    fitting = {}
    for form in (date + clock for date in (*_DATE_FORMS, *_NAMED_MONTHS) for clock in _CLOCKS):
        # Most forms do not fit the first value.
        if column and _parsed(column[:1], form) is not None and (parsed := _parsed(column, form)) is not None:
            fitting[form] = parsed
    rising = [form for form, parsed in fitting.items() if bool((np.diff(parsed.values_T) > 0).all())]
    return next(iter([*rising, *fitting]), None)


def _parsed(column: Sequence[str], time_format: str | None) -> times.Times | None:
    try:
        return times.parse(column, time_format=time_format)
    except times.IrregularError:
        return None


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"
