"""Laws of input: all formats give the same lines, in parts that cover them once."""

import gzip
import json
import pathlib

import pyarrow as pa
import pytest
from pyarrow import parquet

from core import errors
from core.data.text import corpus
from core.decoding.lines import inputs
from core.storage import location

LINES = ["le chat", "", "a\u2028b", "é𝄞", "the end", "6", "seven"]


def _write(folder: pathlib.Path, form: str) -> location.Location:
    path = folder / f"in.{form}"
    text = "".join(f"{line}\n" for line in LINES)
    if form == "txt":
        path.write_text(text, newline="\n")
    elif form == "txt.gz":
        path.write_bytes(gzip.compress(text.encode()))
    elif form in ("jsonl", "ndjson"):
        path.write_text("".join(json.dumps({"id": 1, "said": line}) + "\n" for line in LINES))
    else:
        parquet.write_table(pa.table({"id": range(7), "said": LINES}), path, row_group_size=3)
    return location.Location.parse(str(path))


def _scan(path: location.Location, part_lines: int = 2, column: str | None = None) -> inputs.Input:
    return inputs.scan(path, column, part_lines, path.parent.join("scratch"), "--input")


@pytest.mark.parametrize("part_lines", [1, 2, 7, 100])
@pytest.mark.parametrize("form", ["txt", "txt.gz", "jsonl", "ndjson", "parquet"])
def test_parts_cover_the_lines_of_every_format_once_in_order(
    form: str, part_lines: int, tmp_path: pathlib.Path
) -> None:
    scanned = _scan(_write(tmp_path, form), part_lines, None if form.startswith("txt") else "said")
    parts = inputs.parts([scanned])
    assert scanned.num_lines == 7
    assert [line for part in parts for line in inputs.read(part)] == [(line,) for line in LINES]
    assert [part.first_line for part in parts] == list(range(0, 7, part_lines))


@pytest.mark.parametrize("form", ["txt", "jsonl", "parquet"])
def test_narrow_selects_lines_of_a_part(form: str, tmp_path: pathlib.Path) -> None:
    (part,) = inputs.parts([_scan(_write(tmp_path, form), 100, None if form == "txt" else "said")])
    assert inputs.read(part.narrow(2, 5)) == [(line,) for line in LINES[2:5]]
    assert inputs.read(part.narrow(2, 5).narrow(1, 2)) == [(LINES[3],)]


def test_aligned_files_give_pairs_and_a_bad_side_invalidates_only_its_own_line(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\ntwo\nthree\n")
    (tmp_path / "b.txt").write_bytes(b"un\n\xff\ntrois\n")
    files = [_scan(location.Location.parse(str(tmp_path / name))) for name in ("a.txt", "b.txt")]
    rows = [line for part in inputs.parts(files) for line in inputs.read(part)]
    assert rows[0] == ("one", "un")
    assert isinstance(rows[1], corpus.BadLine)
    assert rows[2] == ("three", "trois")


def test_files_of_different_lengths_are_refused_with_both_counts(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.txt").write_text("1\n2\n3\n")
    (tmp_path / "b.txt").write_text("1\n2\n")
    files = [_scan(location.Location.parse(str(tmp_path / name))) for name in ("a.txt", "b.txt")]
    with pytest.raises(errors.DataError, match=r"has 2 lines, but .* has 3;"):
        inputs.parts(files)


def test_rows_without_text_are_bad_lines(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"said": "x"}\n{"said": 3}\nnot json\n[]\n')
    (part,) = inputs.parts([_scan(location.Location.parse(str(tmp_path / "a.jsonl")), 10, "said")])
    reasons = [row.reason if isinstance(row, corpus.BadLine) else row for row in inputs.read(part)]
    assert reasons == [("x",), "no_text", "invalid_json", "no_text"]


def test_the_identity_depends_on_the_content_and_not_on_the_location(tmp_path: pathlib.Path) -> None:
    first = _scan(_write(tmp_path, "txt")).identity()
    (tmp_path / "other.txt").write_bytes((tmp_path / "in.txt").read_bytes())
    assert _scan(location.Location.parse(str(tmp_path / "other.txt"))).identity() == first
    (tmp_path / "other.txt").write_text("x\n")
    assert _scan(location.Location.parse(str(tmp_path / "other.txt"))).identity() != first


def test_invalid_files_and_columns_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.UsageError, match="does not exist"):
        _scan(location.Location.parse(str(tmp_path / "missing.txt")))
    with pytest.raises(errors.UsageError, match="leave out --column"):
        _scan(_write(tmp_path, "txt"), column="said")
    with pytest.raises(errors.UsageError, match="name its text column"):
        _scan(_write(tmp_path, "jsonl"))
    with pytest.raises(errors.DataError, match="its columns are id, said"):
        _scan(_write(tmp_path, "parquet"), column="text")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(errors.DataError, match="not valid Parquet"):
        _scan(location.Location.parse(str(tmp_path / "broken.parquet")), column="text")


def test_an_empty_file_has_no_parts(tmp_path: pathlib.Path) -> None:
    (tmp_path / "empty.txt").write_bytes(b"")
    assert not inputs.parts([_scan(location.Location.parse(str(tmp_path / "empty.txt")))])
