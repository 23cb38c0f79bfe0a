"""Recognition of a series' files."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from core import errors
from core.config import corpus_settings
from core.data.series import recognition
from core.data.text import source_files


def _recognize(path: Path) -> recognition.Recognized:
    source = corpus_settings.SourceConfig(csv=(str(path),))
    return recognition.recognize([group[0] for group in source_files.resolve(source, "FILE", {})])


def _write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_semicolons_decimal_commas_dates_and_missing_values_are_recognized(tmp_path: Path) -> None:
    lines = ["Datum;Ort;Wert;Menge", "2026-01-01;Ulm;1,5;10", "2026-01-02;Ulm;-;20", "2026-01-04;Ulm;4,5;40"]
    recognized = _recognize(_write(tmp_path / "a.csv", lines))
    assert recognized.columns == ["Wert", "Menge"]
    assert recognized.settings["time"] == "Datum"
    assert recognized.settings["gaps"] == "interpolate"
    assert {name: recognized.settings["csv"][name] for name in ("delimiter", "decimal")} == {
        "delimiter": ";",
        "decimal": ",",
    }
    # The missing value of the 2nd and the missing 3rd lie on the line from 1.5 to 4.5.
    np.testing.assert_allclose(recognized.table.values_TC[:, 0], [1.5, 2.5, 3.5, 4.5])
    np.testing.assert_allclose(recognized.table.values_TC[:, 1], [10, 20, 30, 40])


@pytest.mark.parametrize(
    ("dates", "form"),
    [
        (["30.01.2026", "31.01.2026", "01.02.2026"], "%d.%m.%Y"),
        (["1/30/2026", "1/31/2026", "2/1/2026"], "%m/%d/%Y"),
        # Days before months fit, too, but do not rise.
        (["01/11/2026", "01/12/2026", "02/01/2026", "02/02/2026"], "%m/%d/%Y"),
        (["30-Jan-26", "31-Jan-26", "01-Feb-26"], "%d-%b-%y"),
        (["31.01.2026 22:00", "31.01.2026 23:00", "01.02.2026 00:00"], "%d.%m.%Y %H:%M"),
    ],
)
def test_dates_of_other_forms_than_iso_8601_are_recognized(tmp_path: Path, dates: list[str], form: str) -> None:
    lines = [f"{date};{number},5" for number, date in enumerate(dates)]
    recognized = _recognize(_write(tmp_path / "a.csv", ["Datum;Wert", *lines]))
    assert (recognized.columns, recognized.settings["time"]) == (["Wert"], "Datum")
    assert recognized.settings["csv"]["time_format"] == form
    assert any(f"read as {form}" in note for note in recognized.notes)


def test_dates_of_another_form_that_fall_are_refused(tmp_path: Path) -> None:
    lines = ["Date,Open", "19-Sep-03,29.76", "18-Sep-03,28.49", "17-Sep-03,28.76"]
    with pytest.raises(errors.DataError, match="2003-09-18 after 2003-09-19; sort the rows, the oldest first"):
        _recognize(_write(tmp_path / "a.csv", lines))


def test_a_column_that_is_not_used_is_named_with_a_value(tmp_path: Path) -> None:
    recognized = _recognize(_write(tmp_path / "a.csv", ["week,x", "W1 2026,1", "W2 2026,2"]))
    assert any("not used: week ('W1 2026')" in note for note in recognized.notes)


def test_a_line_above_the_header_is_said(tmp_path: Path) -> None:
    with pytest.raises(errors.DataError, match=r"below its header line, # Data of station 7; remove lines above"):
        _recognize(_write(tmp_path / "a.csv", ["# Data of station 7", "t,x", "1,2", "2,5"]))


def test_marks_of_thousands_are_told_from_decimal_marks(tmp_path: Path) -> None:
    english = _recognize(_write(tmp_path / "a.csv", ["x", '"1,234.5"', '"2,000.0"', "7.25"]))
    assert english.settings["csv"]["thousands"] == ","
    assert english.table.values_TC[:, 0].tolist() == [1234.5, 2000.0, 7.25]
    german = _recognize(_write(tmp_path / "b.csv", ["x;y", "1.234,5;1", "2.000,0;2", "7,25;4"]))
    assert german.table.values_TC[:, 0].tolist() == [1234.5, 2000.0, 7.25]


def test_numbers_that_rise_under_the_name_of_a_time_are_the_time(tmp_path: Path) -> None:
    lines = ["t,x", *(f"{row},{math.sin(row):.4f}" for row in range(20))]
    recognized = _recognize(_write(tmp_path / "a.csv", lines))
    assert (recognized.columns, recognized.settings) == (["x"], {"time": "t"})
    alone = _recognize(_write(tmp_path / "b.csv", ["t", "1", "2", "4"]))
    assert alone.columns == ["t"], "the only column is the series"


def test_constant_columns_are_left_out(tmp_path: Path) -> None:
    recognized = _recognize(_write(tmp_path / "a.csv", ["x,y", "1,5", "2,5", "3,5"]))
    assert recognized.columns == ["x"]
    assert any("y" in note and "Constant" in note for note in recognized.notes)
    with pytest.raises(errors.DataError, match="every column is constant"):
        _recognize(_write(tmp_path / "b.csv", ["y", "5", "5"]))


def test_columns_of_a_parquet_file_are_chosen_by_their_types(tmp_path: Path) -> None:
    table = pa.table({"name": ["a", "b", "c"], "value": [1.0, 2.0, 4.0]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert _recognize(tmp_path / "a.parquet").columns == ["value"]


def test_a_file_without_numbers_or_with_falling_times_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.DataError, match="no column of numbers"):
        _recognize(_write(tmp_path / "a.csv", ["source,target", "one,eins", "two,zwei"]))
    with pytest.raises(errors.DataError, match="the oldest first"):
        _recognize(_write(tmp_path / "b.csv", ["date,x", "2026-01-02,1", "2026-01-01,2"]))
    with pytest.raises(errors.DataError, match="no row below the header"):
        _recognize(_write(tmp_path / "c.csv", ["date,x"]))
