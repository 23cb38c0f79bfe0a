"""Columns of JSONL and Parquet files as lines of text; two columns are separated by a tab."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from core import errors

JSON_EXTENSIONS = (".jsonl", ".ndjson")
EXTENSIONS = (*JSON_EXTENSIONS, ".parquet")
_BATCH_ROWS = 4096
# A row must stay one line, and a tab would begin another column.
_BREAKS = str.maketrans("\n\r\t", "   ")

Row = Sequence[object]


def lines(path: Path, name: str, columns: Sequence[str], where: str) -> Iterator[bytes]:
    """Yields a line for each row. Line breaks and tabs within a value become spaces, and null an empty text.

    Args:
        path: the file.
        name: its original name, whose extension gives its format.
        columns: names of the one or two columns to read.
        where: the name of the file for errors.

    Raises:
        DataError: the file does not match its extension, or a column does not exist or does not contain text.
    """
    if not name.endswith(EXTENSIONS):
        raise errors.DataError(f"{where}: has none of the extensions of a table ({', '.join(EXTENSIONS)}); rename it")
    rows = _parquet_rows(path, columns, where) if name.endswith(".parquet") else _json_rows(path, columns, where)
    for number, row in rows:
        for column, value in zip(columns, row, strict=True):
            if not isinstance(value, str | None):
                raise errors.DataError(
                    f"{where}: row {number} has {type(value).__name__}, not text, in column {column!r}; "
                    "name a column of text"
                )
        text = "\t".join("" if value is None else str(value).translate(_BREAKS) for value in row)
        # JSON can contain half a surrogate pair. Its bytes are invalid UTF-8, so the reader of the line counts one bad
        # line, where a strict encoder would fail for the whole file.
        yield text.encode("utf-8", "surrogatepass") + b"\n"


def _json_rows(path: Path, columns: Sequence[str], where: str) -> Iterator[tuple[int, Row]]:
    # As bytes: in text mode a lone carriage return would end a row, too.
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.strip():  # blank lines are usual at the end of JSONL files
                continue
            try:
                row = json.loads(raw)
            except (ValueError, RecursionError) as error:
                raise errors.DataError(f"{where}: row {number} is not valid JSON ({error}); correct it") from error
            missing = [column for column in columns if not isinstance(row, dict) or column not in row]
            if missing:
                raise errors.DataError(
                    f"{where}: row {number} has no column {missing[0]!r}; name one that it has under columns"
                )
            yield number, [row[column] for column in columns]


def _parquet_rows(path: Path, columns: Sequence[str], where: str) -> Iterator[tuple[int, Row]]:
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for column in columns:
                if column not in file.schema_arrow.names:
                    raise errors.DataError(
                        f"{where}: has no column {column!r}, it has {', '.join(file.schema_arrow.names)}; "
                        "name one of them under columns"
                    )
            # In batches, because a row group may be as large as the file; only the named columns are decoded.
            for batch in file.iter_batches(_BATCH_ROWS, columns=list(columns)):
                for row in zip(*(batch.column(column).to_pylist() for column in columns), strict=True):
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError) as error:
        raise errors.DataError(
            f"{where}: cannot be read as Parquet ({' '.join(str(error).split())[:120]}); check it"
        ) from error
