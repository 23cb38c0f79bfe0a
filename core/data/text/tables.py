"""Columns of JSONL and Parquet files as lines of text, tab-separated where there are two."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from core import errors

JSON_ENDINGS = (".jsonl", ".ndjson")
ENDINGS = (*JSON_ENDINGS, ".parquet")
_BATCH_ROWS = 4096
_BREAKS = str.maketrans("\n\r\t", "   ")

Row = Sequence[object]


def lines(path: Path, name: str, columns: Sequence[str], where: str) -> Iterator[bytes]:
    """Yields a line for each row; a line break or tab within a value becomes a space, no value an empty text.

    Args:
        path: the file.
        name: tells by its ending what the file is.
        columns: the one or two columns that are read.
        where: names the file in errors.

    Raises:
        DataError: it is no such file, or has no text in one of the columns.
    """
    if not name.endswith(ENDINGS):
        raise errors.DataError(f"{where}: is taken for a table by none of {', '.join(ENDINGS)}; give it its ending")
    rows = _parquet_rows(path, columns, where) if name.endswith(".parquet") else _json_rows(path, columns, where)
    for number, row in rows:
        for column, value in zip(columns, row, strict=True):
            if not isinstance(value, str | None):
                raise errors.DataError(
                    f"{where}: row {number} has no text in column {column!r} but {type(value).__name__}; "
                    "name a column of text"
                )
        text = "\t".join("" if value is None else str(value).translate(_BREAKS) for value in row)
        # Half a surrogate pair, which JSON can spell, gives bytes that are no UTF-8: a bad line, counted as such.
        yield text.encode("utf-8", "surrogatepass") + b"\n"


def _json_rows(path: Path, columns: Sequence[str], where: str) -> Iterator[tuple[int, Row]]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            try:
                row = json.loads(raw)
            except (ValueError, RecursionError) as error:
                raise errors.DataError(f"{where}: row {number} is no valid JSON ({error}); correct it") from error
            missing = [column for column in columns if not isinstance(row, dict) or column not in row]
            if missing:
                raise errors.DataError(
                    f"{where}: row {number} has no {missing[0]!r}; name one that it has under columns"
                )
            yield number, [row[column] for column in columns]


def _parquet_rows(path: Path, columns: Sequence[str], where: str) -> Iterator[tuple[int, Row]]:
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for column in columns:
                if column not in file.schema_arrow.names:
                    raise errors.DataError(
                        f"{where}: has no column {column!r} but {', '.join(file.schema_arrow.names)}; "
                        "name one that it has under columns"
                    )
            for batch in file.iter_batches(_BATCH_ROWS, columns=list(columns)):
                for row in zip(*(batch.column(column).to_pylist() for column in columns), strict=True):
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError) as error:
        raise errors.DataError(f"{where}: is no readable Parquet ({' '.join(str(error).split())[:120]})") from error
