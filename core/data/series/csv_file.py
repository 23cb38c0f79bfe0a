"""Columns of a CSV file: their texts, and the numbers that these mean in the dialect of the file.

Read by the standard library: the whole file is in memory anyway, every problem is reported with its row, column and
value, and no thread of another library holds the file when the process ends.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from core import errors
from core.config import series_settings

Array = npt.NDArray[np.float64]

_DATE = re.compile(r"\d{4}-\d{2}")  # the beginning of a date in ISO 8601
_MOST_SHOWN = 40  # characters of a value in a message
_MOST_CELL_CHARACTERS = 1 << 20


def read_columns(
    data: bytes, names: Sequence[str], dialect: series_settings.CsvConfig, where: str, setting: str
) -> dict[str, list[str]]:
    """Returns the texts of the named columns, without spaces around them; a blank line is a row of empty texts.

    Args:
        data: the file.
        names: columns, as in the header line; spaces around a name in the header do not count.
        dialect: its delimiter.
        where: the option and the file, for errors.
        setting: name of the setting of the dialect, for errors.

    Raises:
        DataError: the text is not UTF-8, a column is missing, or a row has more or fewer values than the header.
    """
    rows = _rows(data, dialect, where)
    header = next(rows, [])
    indices = {name: _index(header, name, dialect, where, setting) for name in names}
    texts: dict[str, list[str]] = {name: [] for name in names}
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            if row:
                raise errors.DataError(
                    f"{where}: row {number} below the header has {len(row)} values, not {len(header)}: "
                    f"{_shown(dialect.delimiter.join(row))}; correct it, or set {setting}.delimiter"
                )
            row = [""] * len(header)
        for name, index in indices.items():
            texts[name].append(row[index].strip())
    return texts


def find_dates(data: bytes, used: Sequence[str], dialect: series_settings.CsvConfig) -> str | None:
    """Returns the first column besides the used ones whose first values look like dates; None without one."""
    sample = b"\n".join(data.split(b"\n", 3)[:3])
    try:
        header, *rows = _rows(sample, dialect, "")
    except (errors.DataError, ValueError):
        return None  # no header line, or one that `read_columns` refuses
    for index, name in enumerate(header):
        values = [row[index].strip() for row in rows if index < len(row)]
        if name.strip() not in used and header.count(name) == 1 and values and all(map(_DATE.match, values)):
            return name
    return None


def to_numbers(
    texts: Sequence[str], dialect: series_settings.CsvConfig, column: str, where: str, setting: str
) -> Array:
    """Returns the numbers that texts mean; NaN for a missing value.

    Raises:
        DataError: a text is neither a number nor a mark of a missing value.
    """
    numbers_T, wrong = convert(texts, dialect)
    if wrong is not None:
        remedy = f", or describe the file in {setting} (decimal, thousands, missing)"
        raise errors.DataError(f"{where}: {describe_wrong(wrong, column, texts[wrong])}{remedy}")
    return numbers_T


def describe_wrong(row: int, column: str, value: object) -> str:
    """Returns the message for a value that is not a number, in a row counted from 0."""
    return f"row {row + 1} below the header has {_shown(value)} in column {column!r}, which is not a number; correct it"


def convert(texts: Sequence[str], dialect: series_settings.CsvConfig) -> tuple[Array, int | None]:
    """Returns the numbers that texts mean, NaN for missing ones, and the first row with a text that is not a number."""
    missing = {mark.strip().casefold() for mark in dialect.missing}
    pattern = _number_pattern(dialect)
    numbers_T = np.full(len(texts), np.nan)
    for row, text in enumerate(texts):
        if text.casefold() in missing:
            continue
        if pattern.fullmatch(text) is None:
            return numbers_T, row
        if dialect.thousands is not None:
            text = text.replace(dialect.thousands, "")
        number = float(text.replace(dialect.decimal, "."))
        if not np.isfinite(number):
            return numbers_T, row
        numbers_T[row] = number
    return numbers_T, None


def _number_pattern(dialect: series_settings.CsvConfig) -> re.Pattern[str]:
    """Returns the pattern of a number: groups of three digits are whole, so that 1,5 is not read as 15."""
    decimal = re.escape(dialect.decimal)
    digits = "[0-9]+"
    if dialect.thousands is not None:
        digits = f"(?:[0-9]{{1,3}}(?:{re.escape(dialect.thousands)}[0-9]{{3}})+|[0-9]+)"
    return re.compile(f"[-+]?(?:{digits}(?:{decimal}[0-9]*)?|{decimal}[0-9]+)(?:[eE][-+]?[0-9]+)?")


def _rows(data: bytes, dialect: series_settings.CsvConfig, where: str) -> Iterator[list[str]]:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise errors.DataError(f"{where}: looks like UTF-16; convert it to UTF-8")
    # Columns that are not used may have another encoding; that of the header is checked.
    text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    header = re.match(r"[^\r\n]*", text)
    if header is not None and any("\udc80" <= letter <= "\udcff" for letter in header[0]):
        raise errors.DataError(f"{where}: the header line is not UTF-8; convert the file to UTF-8")
    if "\0" in text:
        raise errors.DataError(f"{where}: contains NUL bytes, so it is not CSV; name a CSV or Parquet file")
    return split(io.StringIO(text, newline=""), dialect.delimiter, where)


def split(lines: Iterable[str], delimiter: str, where: str) -> Iterator[list[str]]:
    """Yields the cells of each row.

    Raises:
        DataError: a cell is longer than a mebibyte: mostly what follows a quote without a second one.
    """
    csv.field_size_limit(_MOST_CELL_CHARACTERS)
    rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    try:
        yield from rows
    except csv.Error as error:
        raise errors.DataError(
            f"{where}: is not CSV from line {rows.line_num} on ({error}); is a closing quote missing?"
        ) from error


def _index(header: Sequence[str], name: str, dialect: series_settings.CsvConfig, where: str, setting: str) -> int:
    """Returns the index of a column."""
    matches = [index for index, column in enumerate(header) if column == name]
    matches = matches or [index for index, column in enumerate(header) if column.strip() == name.strip()]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise errors.DataError(f"{where}: has {len(matches)} columns {name!r}; rename all but one")
    others = [mark for mark in (";", "\t", ",", "|") if mark != dialect.delimiter and any(mark in c for c in header)]
    advice = f"are values separated by {others[0]!r}? set {setting}.delimiter" if others else "check the header line"
    shown = ", ".join(repr(column) for column in header[:20])
    raise errors.DataError(f"{where}: has no column {name!r}; it has {shown or 'none'}; {advice}")


def _shown(value: object) -> str:
    # Bytes that are not UTF-8 are shown as escapes.
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"
