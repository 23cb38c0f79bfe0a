"""Laws of columns of text: which types of Arrow are text, and what becomes of a row without text."""

import contextlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from core import errors
from core.data.text import tables
from tests.core.data import damaged_parquet

VALUES = ["été", None, "b"]
ENCODED = ["été".encode(), None, b"b"]
# Functions, because arrays of a module would count as memory in use for other tests.
TEXT_TYPES: dict[str, Callable[[], pa.Array]] = {
    "string": lambda: pa.array(VALUES),
    "large_string": lambda: pa.array(VALUES, pa.large_string()),
    "string_view": lambda: pa.array(VALUES).cast(pa.string_view()),
    "binary": lambda: pa.array(ENCODED, pa.binary()),
    "large_binary": lambda: pa.array(ENCODED, pa.large_binary()),
    "binary_view": lambda: pa.array(ENCODED, pa.binary()).cast(pa.binary_view()),
    "dictionary": lambda: pa.array(VALUES).dictionary_encode(),
    "dictionary of large_string": lambda: pa.array(VALUES, pa.large_string()).dictionary_encode(),
}
OTHER_TYPES: dict[str, Callable[[], pa.Array]] = {
    "int64": lambda: pa.array([1, 2]),
    "list": lambda: pa.array([["a"], ["b"]]),
    "struct": lambda: pa.array([{"en": "a", "fr": "b"}] * 2),
    "dictionary of int64": lambda: pa.array([1, 2]).dictionary_encode(),
    "timestamp": lambda: pa.array([1, 2], pa.timestamp("s")),
}


def lines(path: pathlib.Path, *columns: str, strict: bool = False) -> list[bytes]:
    return list(tables.lines(path, path.name, columns, str(path), strict))


@pytest.mark.parametrize("kind", TEXT_TYPES)
def test_every_type_of_text_gives_the_same_lines(kind: str, tmp_path: pathlib.Path) -> None:
    column = TEXT_TYPES[kind]()
    assert tables.is_text(column.type)
    assert tables.text_values(column) == ENCODED
    assert tables.text_values(pa.chunked_array([column, column])) == ENCODED * 2
    parquet.write_table(pa.table({"s": column}), tmp_path / "a.parquet")
    assert lines(tmp_path / "a.parquet", "s") == ["été\n".encode(), b"\n", b"b\n"]


@pytest.mark.parametrize("kind", OTHER_TYPES)
def test_other_types_are_refused_by_their_name(kind: str, tmp_path: pathlib.Path) -> None:
    parquet.write_table(pa.table({"s": OTHER_TYPES[kind]()}), tmp_path / "a.parquet")
    with pytest.raises(errors.DataError, match=r"a\.parquet: column 's' holds .*, not text; cast it"):
        lines(tmp_path / "a.parquet", "s")


def test_a_column_without_values_is_a_column_of_empty_lines(tmp_path: pathlib.Path) -> None:
    parquet.write_table(pa.table({"s": pa.nulls(3), "t": ["a", "b", "c"]}), tmp_path / "a.parquet")
    assert lines(tmp_path / "a.parquet", "s", "t") == [b"\ta\n", b"\tb\n", b"\tc\n"]


def test_a_column_that_is_missing_or_named_twice_is_refused(tmp_path: pathlib.Path) -> None:
    both = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["s", "s"])
    parquet.write_table(both, tmp_path / "a.parquet")
    with pytest.raises(errors.DataError, match="has 2 columns 's'; rename all but one"):
        lines(tmp_path / "a.parquet", "s")
    with pytest.raises(errors.DataError, match="has no column 't'; its columns are s, s"):
        lines(tmp_path / "a.parquet", "t")


@pytest.mark.parametrize("damage", ["cut", "text", "arrow"])
def test_a_file_that_is_not_parquet_is_refused(damage: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"s": ["a", "b"]})
    if damage == "text":
        path.write_text("s\na\n")
    elif damage == "arrow":
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
    else:
        parquet.write_table(table, path)
        path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(errors.DataError, match=r"a\.parquet: is not valid Parquet"):
        lines(path, "s")


def test_a_bit_that_flips_in_a_page_is_an_error_where_the_file_has_checksums(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"s": ["a plain value", "another one"]})
    parquet.write_table(
        table, path, compression="none", use_dictionary=False, write_page_checksum=True, write_statistics=False
    )
    path.write_bytes(path.read_bytes().replace(b"a plain value", b"a plein value", 1))
    with pytest.raises(errors.DataError, match="CRC"):
        lines(path, "s")


def test_a_bit_that_flips_in_a_footer_loses_no_row(tmp_path: pathlib.Path) -> None:
    path, whole = tmp_path / "a.parquet", 0
    for _ in damaged_parquet.flipped_footers(path, pa.array([f"line {number}" for number in range(7)])):
        with contextlib.suppress(errors.DataError):
            assert len(lines(path, "s")) == 7
            whole += 1
    assert whole > 100, "names and encodings that are not needed"


BAD_ROWS: dict[str, tuple[Any, str, str]] = {
    "a number": ({"s": 1}, "no_text", "has int, not text, in column 's'"),
    "another column": ({"t": "a"}, "no_text", "has no column 's'; it has t"),
    "no object": (["a"], "no_text", "is list, not an object"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_a_bad_line_or_an_error(name: str, tmp_path: pathlib.Path) -> None:
    row, reason, problem = BAD_ROWS[name]
    path = tmp_path / "a.jsonl"
    path.write_text('{"s": "one"}\n' + json.dumps(row) + '\n{"s": "three"}\n')
    assert lines(path, "s") == [b"one\n", b"\0" + reason.encode() + b"\n", b"three\n"]
    with pytest.raises(errors.DataError, match=f"a.jsonl: row 2 {problem}.*on_bad_line: skip"):
        lines(path, "s", strict=True)
    path.write_text(f"{json.dumps(row)}\n" * 2)
    with pytest.raises(errors.DataError, match=f"row 1 {problem}.*and so with all rows"):
        lines(path, "s")


def test_invalid_json_and_invalid_utf8_are_different_reasons(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"s": "one"}\n{"s": \n\n{"s": "\xff"}\n' + b"[" * 100_000 + b'\n{"s": "\\ud83d"}\n')
    assert lines(path, "s") == [
        b"one\n",
        b"\0invalid_json\n",
        b"\0invalid_utf8\n",
        b"\0invalid_json\n",
        b"\xed\xa0\xbd\n",  # half a surrogate pair, which the reader of the line finds to be invalid UTF-8
    ]


def test_a_row_over_the_limit_is_a_bad_row_and_the_next_one_is_read(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MAX_ROW_BYTES", 40)
    rows = [json.dumps({"x": text}) for text in ("a", "b" * 30, "c" * 31, "d" * 400, "e")]
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join([*rows, ""]))
    bad = b"\0invalid_json\n"
    assert lines(path, "x") == [b"a\n", b"b" * 30 + b"\n", bad, bad, b"e\n"]
    path.write_text("\n".join([rows[0], rows[3]]))
    assert lines(path, "x") == [b"a\n", bad], "at the end of the file"
