"""Columns of text in JSONL and Parquet files: their check, their values, and rows as lines, two columns with a tab."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa
from pyarrow import parquet

from core import errors
from core.data.text import extensions

# A bad row becomes a line with a NUL byte, which makes any line a bad one, and its reason.
BAD_ROW = b"\0"
REASONS = ("invalid_json", "no_text", "invalid_utf8")
_BATCH_ROWS = 4096
MAX_ROW_BYTES = 1 << 24  # of JSONL, with columns that are not read; without a bound a file could be one row
# A row must stay one line, and a tab would begin another column.
_BREAKS = bytes.maketrans(b"\n\r\t", b"   ")

Row = Sequence[bytes | None]


class BadRow(NamedTuple):
    """A row of which no text can be read.

    Attributes:
        reason: one of `REASONS`.
        problem: continues a message that begins with the number of the row.
    """

    reason: str
    problem: str


def lines(path: Path, name: str, columns: Sequence[str], where: str, strict: bool = False) -> Iterator[bytes]:
    """Yields a line for each row. Line breaks and tabs within a value become spaces, and null an empty text.

    A row that is not valid JSON, or has no text in a column, becomes a bad line.

    Args:
        path: the file.
        name: its original name, whose extension gives its format.
        columns: names of the one or two columns to read.
        where: the name of the file for errors.
        strict: whether a bad row is an error.

    Raises:
        DataError: the file does not match its extension; a column does not exist or does not contain text; all rows
            are bad; or one is, with `strict`.
    """
    if not name.endswith(extensions.TABLES):
        names = ", ".join(extensions.TABLES)
        raise errors.DataError(f"{where}: has none of the extensions of a table ({names}); rename it")
    rows = _parquet_rows(path, columns, where) if name.endswith(".parquet") else _json_rows(path, columns)
    first_bad, has_good_row = "", False
    for number, row in rows:
        if isinstance(row, BadRow):
            first_bad = first_bad or f"row {number} {row.problem}"
            if strict:
                raise errors.DataError(f"{where}: {first_bad}; correct it, or set corpus.on_bad_line: skip")
            yield BAD_ROW + row.reason.encode() + b"\n"
            continue
        has_good_row = True
        yield b"\t".join(b"" if value is None else value.translate(_BREAKS) for value in row) + b"\n"
    if first_bad and not has_good_row:
        raise errors.DataError(f"{where}: {first_bad}, and so with all rows; name a column of text under columns")


def parse_json_row(raw: bytes, columns: Sequence[str]) -> Row | BadRow:
    """Returns the values of columns in a row of JSONL; null for a value that is null."""
    try:
        row = json.loads(raw.decode())
    except UnicodeDecodeError as error:
        return BadRow("invalid_utf8", f"is not valid UTF-8 from byte {error.start + 1} on")
    except (ValueError, RecursionError) as error:  # deeply nested brackets exceed the parser's recursion limit
        return BadRow("invalid_json", f"is not valid JSON ({error})")
    if not isinstance(row, dict):
        return BadRow("no_text", f"is {type(row).__name__}, not an object with columns")
    values: list[bytes | None] = []
    for column in columns:
        if column not in row:
            return BadRow("no_text", f"has no column {column!r}; it has {', '.join(row)[:200]}")
        value = row[column]
        if not isinstance(value, str | None):
            return BadRow("no_text", f"has {type(value).__name__}, not text, in column {column!r}")
        # An escape can be half a surrogate pair. Its bytes are not valid UTF-8, so the line is a bad one, where a
        # strict encoder would fail for the whole file.
        values.append(None if value is None else value.encode("utf-8", "surrogatepass"))
    return values


def _json_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Row | BadRow]]:
    # As bytes: in text mode a lone carriage return would end a row, too.
    with path.open("rb") as file:
        for number, raw in enumerate(iter(lambda: file.readline(MAX_ROW_BYTES + 1), b""), start=1):
            if len(raw) > MAX_ROW_BYTES:
                while raw and not raw.endswith(b"\n"):
                    raw = file.readline(MAX_ROW_BYTES)  # the rest of the row
                yield number, BadRow("invalid_json", f"is longer than {MAX_ROW_BYTES} bytes")
            elif raw.strip():  # blank lines are usual at the end of JSONL files
                yield number, parse_json_row(raw, columns)


def _parquet_rows(path: Path, columns: Sequence[str], where: str) -> Iterator[tuple[int, Row]]:
    number = 0
    with open_parquet(path, where) as file:
        for column in columns:
            check_text_column(file.schema_arrow, column, where)
        # In batches, because a row group may be as large as the file; only the named columns are decoded.
        for batch in file.iter_batches(_BATCH_ROWS, columns=list(columns), use_threads=False):
            for row in zip(*(text_values(batch.column(column)) for column in columns), strict=True):
                number += 1
                yield number, row
        check_number_of_rows(number, file.metadata.num_rows, where)


@contextlib.contextmanager
def open_parquet(file: Path | BinaryIO | pa.BufferReader, where: str) -> Iterator[parquet.ParquetFile]:
    """Opens a Parquet file; what fails while it is read, here or in the context, is an error in its data.

    Raises:
        DataError: it is not valid Parquet, or damaged.
    """
    try:
        with parquet.ParquetFile(file, page_checksum_verification=True) as opened:
            footer = opened.metadata
            # A footer has no checksum, and a number that is too small would drop rows.
            rows = sum(footer.row_group(number).num_rows for number in range(footer.num_row_groups))
            check_number_of_rows(rows, footer.num_rows, where)
            yield opened
    except UnicodeDecodeError as error:
        raise errors.DataError(f"{where}: the name of a column is not valid UTF-8; rename the column") from error
    except (pa.ArrowException, OSError) as error:
        raise errors.DataError(
            f"{where}: is not valid Parquet ({' '.join(str(error).split())[:120]}); check the file"
        ) from error


def check_number_of_rows(num_rows: int, expected: int, where: str) -> None:
    """Checks that a Parquet file has as many rows as its footer says.

    Raises:
        DataError: it has not.
    """
    if num_rows != expected:
        raise errors.DataError(f"{where}: has {num_rows} rows, and {expected} by its footer; restore the file")


def check_text_column(schema: pa.Schema, column: str, where: str) -> None:
    """Checks that a table has one column of this name, of text; see `is_text`.

    Raises:
        DataError: it has none or several, or the column holds something else.
    """
    names = schema.names
    if names.count(column) > 1:
        raise errors.DataError(f"{where}: has {names.count(column)} columns {column!r}; rename all but one")
    if column not in names:
        raise errors.DataError(f"{where}: has no column {column!r}; its columns are {', '.join(names)}: name one")
    kind = schema.field(column).type
    if not is_text(kind):
        raise errors.DataError(f"{where}: column {column!r} holds {kind}, not text; cast it, or name another column")


def is_text(kind: pa.DataType) -> bool:
    """Returns whether values of an Arrow type are text: strings, bytes (each is checked), dictionaries of them, nulls.

    pandas writes dictionaries for categories and nulls for a column without values; Hive, Impala and early Spark write
    strings as bytes.
    """
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    types = pa.types
    return any(
        is_kind(kind)
        for is_kind in (
            *(types.is_string, types.is_large_string, types.is_string_view),
            *(types.is_binary, types.is_large_binary, types.is_binary_view, types.is_null),
        )
    )


def text_values(column: pa.Array | pa.ChunkedArray) -> list[bytes | None]:
    """Returns the values of a column of text as bytes, which may be invalid UTF-8: Parquet does not check them."""
    if pa.types.is_null(column.type):
        return [None] * len(column)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    values: list[bytes | None] = column.cast(pa.large_binary()).to_pylist()
    return values
