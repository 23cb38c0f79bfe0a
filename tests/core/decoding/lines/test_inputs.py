"""Laws of input: all formats give the same lines, in parts that cover them once."""

import contextlib
import gzip
import json
import os
import pathlib
import threading

import pyarrow as pa
import pytest
from pyarrow import parquet

from core import errors
from core.data.text import corpus
from core.decoding.lines import inputs
from core.storage import location
from tests.core.data import damaged_parquet

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


@pytest.mark.parametrize("num_lines", [1, 2, 3, 5, 6, 7, 8])
@pytest.mark.parametrize("part_lines", [1, 2, 3, 100])
def test_lines_are_spread_over_all_parts(part_lines: int, num_lines: int, tmp_path: pathlib.Path) -> None:
    parts = inputs.parts([_scan(_write(tmp_path, "txt"), part_lines)])
    spread = inputs.spread(parts, num_lines)
    numbers = [part.first_line + row for part in spread for row in range(part.num_lines)]
    # Each part gives its first lines; only a short last part makes them fewer than asked for.
    assert min(num_lines, 7) - part_lines < len(numbers) <= min(num_lines, 7)
    assert sorted(set(numbers)) == numbers
    assert [line for part in spread for line in inputs.read(part)] == [(LINES[number],) for number in numbers]
    if num_lines >= len(parts):
        assert [part.name for part in spread] == [part.name for part in parts]


def test_lines_of_a_large_input_come_from_its_beginning_middle_and_end(tmp_path: pathlib.Path) -> None:
    (tmp_path / "in.txt").write_text("line\n" * 10_000)
    spread = inputs.spread(inputs.parts([_scan(location.Location.parse(str(tmp_path / "in.txt")), 10)]), 100)
    # 1,000 parts of 10 lines: 5 times the 10 parts that 100 lines fill, each 200 lines from the next.
    assert [(part.first_line, part.num_lines) for part in spread] == [(200 * number, 2) for number in range(50)]


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
    with pytest.raises(errors.DataError, match="has no column 'text'; its columns are id, said"):
        _scan(_write(tmp_path, "parquet"), column="text")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(errors.DataError, match="not valid Parquet"):
        _scan(location.Location.parse(str(tmp_path / "broken.parquet")), column="text")


def _read(path: location.Location, column: str | None = None) -> list[inputs.Line]:
    return [line for part in inputs.parts([_scan(path, column=column)]) for line in inputs.read(part)]


def _reasons(path: location.Location, column: str | None = None) -> list[str]:
    return [line.reason if isinstance(line, corpus.BadLine) else line[0] for line in _read(path, column)]


def test_text_from_escapes_is_checked_as_text_from_files_is(tmp_path: pathlib.Path) -> None:
    """Half a surrogate pair and NUL: both can be written in JSON, and no line of a file may hold them."""
    path = tmp_path / "in.jsonl"
    path.write_text(
        '{"t": "good"}\n{"t": "half a pair \\ud83d"}\n{"t": "nul \\u0000 here"}\n{"t": "whole \\ud83d\\ude00"}\n'
        '{"t": 1}\n{"u": "x"}\n{"t": \n'
    )
    expected = ["good", "invalid_utf8", "control_char", "whole 😀", "no_text", "no_text", "invalid_json"]
    assert _reasons(location.Location.parse(str(path)), "t") == expected
    first = _read(location.Location.parse(str(path)), "t")[1]
    assert isinstance(first, corpus.BadLine)
    assert first.where == f"{path}:2"


def test_a_column_of_any_type_of_text_is_read_and_checked(tmp_path: pathlib.Path) -> None:
    columns = {
        "dictionary": pa.array(["a", None, "b"]).dictionary_encode(),
        "binary": pa.array([b"a", b"\xff", b"nul \0"]),
        "view": pa.array(["a", "b", "c"]).cast(pa.string_view()),
        "null": pa.nulls(3),
        "number": pa.array([1, 2, 3]),
    }
    parquet.write_table(pa.table(columns), tmp_path / "in.parquet", row_group_size=2)
    path = location.Location.parse(str(tmp_path / "in.parquet"))
    assert _reasons(path, "dictionary") == ["a", "no_text", "b"]
    assert _reasons(path, "binary") == ["a", "invalid_utf8", "control_char"]
    assert _reasons(path, "view") == ["a", "b", "c"]
    assert _reasons(path, "null") == ["no_text"] * 3
    with pytest.raises(errors.DataError, match="column 'number' holds int64, not text; cast it"):
        _read(path, "number")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"said": "a"}\n' * 3, r"in\.jsonl:1: has no column 't'; it has said, and so with all of the first 3 rows"),
        ('[\n {\n  "t": "a"\n }\n]\n', r"in\.jsonl:1: is not valid JSON"),
        ("plain text\n", "is not valid JSON"),
    ],
)
def test_a_table_without_the_column_is_refused_at_once(content: str, message: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "in.jsonl").write_text(content)
    with pytest.raises(errors.DataError, match=message):
        _scan(location.Location.parse(str(tmp_path / "in.jsonl")), column="t")


def test_a_bit_that_flips_in_a_footer_loses_no_row(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.parquet"
    for _ in damaged_parquet.flipped_footers(path, pa.array(LINES)):
        with contextlib.suppress(errors.DataError):
            assert len(_read(location.Location.parse(str(path)), "s")) == len(LINES)


@pytest.mark.parametrize("named", ["a FIFO", "a descriptor"])
def test_a_pipe_is_read_to_its_end(named: str, tmp_path: pathlib.Path) -> None:
    data = "".join(f"{line}\n" for line in LINES).encode()
    plain = _scan(_write(tmp_path, "txt"))
    if named == "a FIFO":
        os.mkfifo(tmp_path / "pipe")
        writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(data,))
        writer.start()
        piped = _scan(location.Location.parse(str(tmp_path / "pipe")))
        writer.join()
    else:
        reader, descriptor = os.pipe()
        os.write(descriptor, data)
        os.close(descriptor)
        folder = location.Location.parse(str(tmp_path / "scratch"))
        piped = inputs.scan(location.Location.parse(f"/dev/fd/{reader}"), None, 2, folder, "--input")
        os.close(reader)
    assert piped.identity() == plain.identity()
    assert [line for part in inputs.parts([piped]) for line in inputs.read(part)] == [(line,) for line in LINES]


def test_a_device_is_refused_before_it_is_read() -> None:
    with pytest.raises(errors.UsageError, match=r"^--input: '/dev/zero' is a device"):
        inputs.scan(location.Location.parse("/dev/zero"), None, 2, location.Location.parse("memory://x"), "--input")


def test_an_empty_file_has_no_parts(tmp_path: pathlib.Path) -> None:
    (tmp_path / "empty.txt").write_bytes(b"")
    assert not inputs.parts([_scan(location.Location.parse(str(tmp_path / "empty.txt")))])
