"""Reading of series: what is read, and what is refused with its row, column and value."""

import contextlib
import datetime
import gzip
import math
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from core import errors
from core.data.series import preparation, reading
from tests.core.data import damaged_parquet
from tests.core.data.series import samples


def _read(tmp_path: pathlib.Path, content: str | bytes, **settings: Any) -> list[list[float]]:
    path = tmp_path / "series.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return samples.read(path, **settings).values_TC.tolist()  # type: ignore[no-any-return]


def test_parquet_and_csv_give_the_same_rows(tmp_path: pathlib.Path) -> None:
    days = np.arange("2026-01-01", "2026-01-11", dtype="datetime64[D]")
    columns = {"day": days, "x": [t / 3 for t in range(10)], "y": [10 * t for t in range(10)]}
    parquet.write_table(pa.table(columns), tmp_path / "table.parquet")
    rows = "".join(f"{days[t]},{t / 3!r},{10 * t}\n" for t in range(10))
    (tmp_path / "table.csv").write_text(f"day,x,y\n{rows}")
    tables = [samples.read(tmp_path / f"table.{form}", names=("x", "y"), time="day") for form in ("parquet", "csv")]
    assert tables[0].sha256 == tables[1].sha256
    assert tables[0].values_TC[3].tolist() == [1.0, 30.0]


@pytest.mark.parametrize(
    ("content", "settings", "values"),
    [
        (
            "date;x\n2026-01-01;5,5\n2026-01-02;1.500,25\n",
            {"delimiter": ";", "decimal": ",", "thousands": "."},
            [5.5, 1500.25],
        ),
        ('n,x\n0,"1,500"\n1,"12,345,678.5"\n', {"thousands": ","}, [1500, 12345678.5]),
        ("x\ty\n5.0\t1\n", {"delimiter": "\t"}, [5]),
        ("n, x\n0, 5.0\n1,  -1e3\n", {}, [5, -1000]),
        (b"\xef\xbb\xbfx\r\n5\r\n6\r\n", {}, [5, 6]),
        (b"x,city\n5,K\xf6ln\n", {}, [5]),
        ("x\n1\n?\n3\n", {"missing": ("?",), "gaps": "interpolate"}, [1, 2, 3]),
        ("x\n1\n\n\n4\n", {"gaps": "interpolate"}, [1, 2, 3, 4]),
        ("x\n1\nna\n3\n\n", {"gaps": "forward"}, [1, 1, 3, 3]),
        ("t,x\n1,1\n2,2\n5,5\n", {"time": "t", "gaps": "interpolate"}, [1, 2, 3, 4, 5]),
        ("t,x\n1,1\n2,2\n5,5\n", {"time": "t", "gaps": "forward"}, [1, 2, 2, 2, 5]),
        (
            "t,x\n30.01.2026,1\n31.01.2026,2\n02.02.2026,4\n",
            {"time": "t", "gaps": "interpolate", "time_format": "%d.%m.%Y"},
            [1, 2, 3, 4],
        ),
    ],
)
def test_files_of_many_dialects_are_read(
    tmp_path: pathlib.Path, content: str | bytes, settings: dict[str, Any], values: list[float]
) -> None:
    assert _read(tmp_path, content, **settings) == [[value] for value in values]


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        ("t,y\n1,2\n", {}, "no column 'x'; it has 't', 'y'; check the header line"),
        ("date;x\n2026-01-01;5,0\n", {}, "separated by ';'.* set corpus.csv.delimiter"),
        ("x\ty\n5.0\t1\n", {}, r"separated by '\\t'"),
        ("# station 7\nx,y\n5,1\n", {}, "no column 'x'; it has '# station 7'"),
        ("x,y\n1,1\n?,2\n", {}, r"row 2 below the header has '\?' in column 'x', which is not a number"),
        ("n,x\n1,2\ntotal,=SUM\n", {}, "row 2 below the header has '=SUM' in column 'x'"),
        ('n,x\n0,"1,500"\n', {}, "row 1 below the header has '1,500' in column 'x'.*thousands"),
        ('n,x\n0,"1,5"\n', {"thousands": ","}, "row 1 below the header has '1,5' in column 'x'"),
        ("x\n1\ninf\n", {}, "row 2 below the header has 'inf'"),
        ("x\n1\n1e999\n", {}, "row 2 below the header has '1e999'"),
        ("x\n1_0\n", {}, "row 1 below the header has '1_0'"),
        ("x\n1\n2\n\n4\n", {}, "row 3 below the header has no number in column 'x'; fill it in, or set corpus.gaps"),
        ("x\n1\n2\n\n", {}, "row 3 below the header has no number"),
        ("x,y\n1,1\n\n3,1\n", {}, "row 2 below the header has no number in column 'x'"),
        ("x\n\n2\n", {"gaps": "forward"}, "row 1 below the header has no number in column 'x'; fill it in$"),
        ("x\n1\n\n", {"gaps": "interpolate"}, "row 2 below the header has no number in column 'x'; fill it in$"),
        ("x\n\n\n", {"gaps": "forward"}, "row 1 below the header has no number"),
        ("x,y\n1,2\n3\n", {}, "row 2 below the header has 1 values, not 2: '3'"),
        ("x,y\n1,2\n3,4,5\n", {}, "row 2 below the header has 3 values, not 2: '3,4,5'"),
        ("x,x\n1,2\n", {}, "has 2 columns 'x'"),
        ("x\n", {}, "0 rows"),
        ("", {}, "no column 'x'; it has none"),
        ("x\n1\n".encode("utf-16"), {}, "looks like UTF-16; convert it to UTF-8"),
        (b"x,Gr\xf6\xdfe\n1,2\n", {}, "the header line is not UTF-8"),
        (gzip.compress(b"x\n1\n", mtime=0), {}, "is not text but gzip; give it the extension .gz"),
        (b"x\n1\0\n", {}, "NUL"),
        (b'x\n1\n"' + b"2\n" * (1 << 20), {}, "is not CSV from line .*is a closing quote missing"),
        ("t,x\n3,1\n2,2\n1,3\n", {"time": "t"}, "row 2 below the header has the time 2 after 3; sort the rows"),
        ("t,x\n1,1\n2,2\n2,3\n", {"time": "t", "gaps": "forward"}, "row 3 below the header repeats the time 2"),
        ("t,x\n1,1\n2,2\n5,5\n", {"time": "t"}, "row 3 below the header has the time 5 after 2: 2 rows are missing"),
        ("t,x\n1,1\n2,2\n9999,5\n", {"time": "t", "gaps": "forward"}, "row 3 below the header is at 9999"),
        (
            "t,x\n1,1\nsum,2\n",
            {"time": "t"},
            "row 2 below the header has the time 'sum', which is not a number as",
        ),
        ("t,x\n1,1\nNA,2\n", {"time": "t"}, "row 2 below the header has no time"),
        ("t,x\n1,1\n,2\n", {"time": "t"}, "row 2 below the header has no time"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_row_column_and_value(
    tmp_path: pathlib.Path, content: str | bytes, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(errors.DataError, match=message):
        _read(tmp_path, content, **settings)


def test_a_row_of_a_later_file_is_counted_in_that_file(tmp_path: pathlib.Path) -> None:
    for name, rows in (("a.csv", "1,1\n2,2\n"), ("b.csv", "3,3\n5,5\n")):
        (tmp_path / name).write_text(f"t,x\n{rows}")
    with pytest.raises(errors.DataError, match=r"b\.csv: row 2 below the header has the time 5 after 3"):
        samples.read(tmp_path / "a.csv", tmp_path / "b.csv", time="t")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (["a", "b"], "is string, not numeric .'a'.; correct it"),
        ([1.0, None], "row 2 below the header has no number in column 'x'"),
        ([1.0, float("inf")], "row 2 below the header has inf in column 'x'"),
    ],
)
def test_columns_of_parquet_that_are_not_numbers_are_refused(
    tmp_path: pathlib.Path, column: list[Any], message: str
) -> None:
    parquet.write_table(pa.table({"x": column}), tmp_path / "t.parquet")
    with pytest.raises(errors.DataError, match=message):
        samples.read(tmp_path / "t.parquet")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(errors.DataError, match="is not valid Parquet"):
        samples.read(tmp_path / "t.parquet")


def test_text_of_parquet_that_is_not_utf_8_is_refused_with_its_row(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "t.parquet"
    texts = pa.array([b"2026-01-01", b"2026-01-\xff"]).view(pa.string())
    parquet.write_table(pa.table({"x": [1.0, 2.0], "t": texts}), path)
    with pytest.raises(errors.DataError, match="row 2 is not valid UTF-8 in column 't'; correct it"):
        samples.read(path, time="t")
    with pytest.raises(errors.DataError, match="column 't' is string, not numeric"):
        samples.read(path, names=("t",))


def test_a_bit_that_flips_in_a_footer_of_parquet_loses_no_row(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "t.parquet"
    for _ in damaged_parquet.flipped_footers(path, pa.array(range(7))):
        with contextlib.suppress(errors.DataError):
            assert len(samples.read(path, names=("s",)).values_TC) == 7


@pytest.mark.parametrize("name", ["mark.csv", "mark.parquet"])
def test_a_process_ends_well_after_a_refusal(tmp_path: pathlib.Path, name: str) -> None:
    """No thread of a library may hold a file of ours when the interpreter ends: it would end in SIGABRT."""
    path = tmp_path / name
    if name.endswith(".csv"):
        path.write_text("x,y\n" + "5.0,1\n" * 30 + "?,1\n")
    else:
        parquet.write_table(pa.table({"x": ["?"] * 30}), path)
    code = (
        "import os, pathlib, sys\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from core import errors\nfrom tests.core.data.series import samples\n"
        f"try:\n    samples.read(pathlib.Path({str(path)!r}))\n"
        "except errors.DataError:\n    sys.exit(3)\n"
    )
    assert [subprocess.run([sys.executable, "-c", code], check=False).returncode for _ in range(3)] == [3, 3, 3]


def test_columns_in_memory_are_the_rows_of_a_file(tmp_path: pathlib.Path) -> None:
    (tmp_path / "t.csv").write_text("day,x\n2026-01-01,1\n2026-01-02,\n2026-01-04,4\n")
    prepared = preparation.Preparation(time="day", gaps="interpolate")
    days = [datetime.date(2026, 1, day) for day in (1, 2, 4)]
    for times in (days, [day.isoformat() for day in days], np.array(days, dtype="datetime64[D]")):
        columns = {"day": times, "x": [1.0, float("nan"), 4.0]}
        table = reading.from_columns(columns, ["x"], prepared, "values")
        assert table.sha256 == samples.read(tmp_path / "t.csv", time="day", gaps="interpolate").sha256
        assert table.values_TC.ravel().tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x": [1.0]}, "no column 'day'; it has x"),
        ({"x": [1.0, 2.0], "day": ["2026-01-02", "2026-01-01"]}, "row 1 has the time 2026-01-01 after 2026-01-02"),
        ({"x": [1.0, math.inf], "day": [1, 2]}, "row 1 has no finite number in column 'x'"),
        ({"x": ["a", "b"], "day": [1, 2]}, "column 'x' is not numeric"),
        ({"x": [1.0, 2.0], "day": [1]}, "different numbers of rows"),
        ({"x": [], "day": []}, "0 rows"),
    ],
)
def test_columns_in_memory_that_are_no_series_are_refused(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.DataError, match=message):
        reading.from_columns(columns, ["x"], preparation.Preparation(time="day"), "values")


@pytest.mark.parametrize(
    ("rows", "warns"),
    [
        ("2026-03-02,2\n2026-03-01,1\n", True),
        ("2026-03-01,2\n2026-03-01,1\n", True),
        ("2026-03-01,1\n2026-03-02,2\n", False),
        ("5,1\n4,2\n", False),
    ],
)
def test_dates_in_another_order_than_the_rows_are_warned_of(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, rows: str, warns: bool
) -> None:
    (tmp_path / "t.csv").write_text(f"date,x\n{rows}")
    assert len(samples.read(tmp_path / "t.csv")) == 2
    assert ("column 'date', row 2 below the header" in caplog.text) == warns
