"""Tests of blocks, parts and lines: no line is lost, repeated or moved, for any block size."""

import collections
import pathlib
import resource
from collections.abc import Sequence

import hypothesis
import pytest
from hypothesis import strategies as st

from core import errors
from core.data.text import corpus
from core.storage import location

ODD = "a\u0085b\u2028c\u2029d\x0be\x0cf\x1cg\x1dh\x1ei\rj"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("corpus")


def stored(folder: pathlib.Path, *contents: bytes) -> corpus.Group:
    files = []
    for number, content in enumerate(contents):
        (folder / f"{number}.txt").write_bytes(content)
        files.append(location.Location.parse(str(folder / f"{number}.txt")))
    return tuple(files)


def cut(
    source: Sequence[corpus.Group],
    block_bytes: int,
    columns: tuple[int, int] | None = None,
    max_line_bytes: int = 1 << 20,
) -> list[corpus.LineRange]:
    counts = [
        [
            [corpus.count_block(file, start, stop) for start, stop in corpus.blocks(file.size_bytes(), block_bytes)]
            for file in group
        ]
        for group in source
    ]
    return corpus.cut_by_blocks(source, counts, columns, max_line_bytes)


def read(parts: Sequence[corpus.LineRange]) -> list[tuple[int, corpus.Sides | corpus.BadLine]]:
    return [row for part in parts for row in corpus.read_lines(part)]


def lines_of(content: bytes) -> list[str]:
    """The lines of a file, by the simplest code."""
    lines = content.split(b"\n")
    return [line.removesuffix(b"\r").decode() for line in (lines if lines[-1] else lines[:-1])]


CONTENT = st.lists(st.sampled_from([b"\n", b"\r\n", b"a", b"bcd", "é€😀".encode(), b" ", b"\t"]), max_size=40).map(
    b"".join
)


@hypothesis.settings(max_examples=50)
@hypothesis.given(CONTENT, st.integers(1, 30))
def test_parts_by_blocks_cover_the_file(scratch: pathlib.Path, content: bytes, block_bytes: int) -> None:
    parts = cut([stored(scratch, content)], block_bytes)
    assert read(parts) == [(number, (line,)) for number, line in enumerate(lines_of(content))]
    assert all(part.num_lines for part in parts)


@hypothesis.settings(max_examples=50)
@hypothesis.given(
    st.lists(st.tuples(st.text("ab", max_size=9), st.text("cé", max_size=30)), max_size=12), st.integers(1, 40)
)
def test_parts_of_two_files_stay_aligned(scratch: pathlib.Path, rows: list[tuple[str, str]], block_bytes: int) -> None:
    sides = ["".join(f"{row[side]}\n" for row in rows).encode() for side in (0, 1)]
    assert read(cut([stored(scratch, *sides)], block_bytes)) == list(enumerate(rows))


@hypothesis.settings(max_examples=50)
@hypothesis.given(CONTENT, st.integers(1, 30), st.data())
def test_take_and_narrow_give_a_range_of_lines(
    scratch: pathlib.Path, content: bytes, block_bytes: int, data: st.DataObject
) -> None:
    whole = lines_of(content)
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    parts = cut([stored(scratch, content)], block_bytes)
    kept = []
    for part in corpus.take(parts, stop):
        skipped = min(max(start - part.first_line, 0), part.num_lines)
        kept.append(corpus.narrow(part, skipped, part.num_lines))
    assert read(kept) == [(number, (whole[number],)) for number in range(start, stop)]


@hypothesis.settings(max_examples=50)
@hypothesis.given(CONTENT, st.integers(1, 5))
def test_parts_by_lines_cover_the_file(scratch: pathlib.Path, content: bytes, part_lines: int) -> None:
    group = stored(scratch, content)
    index = corpus.index_lines(group[0], part_lines)
    parts = corpus.cut_by_lines(group, [index])
    assert read(parts) == [(number, (line,)) for number, line in enumerate(lines_of(content))]
    assert [part.num_lines for part in parts[:-1]] == [part_lines] * (len(parts) - 1)


@hypothesis.settings(max_examples=50)
@hypothesis.given(st.binary(max_size=200), st.integers(1, 50))
def test_arbitrary_bytes_give_one_row_per_line(scratch: pathlib.Path, content: bytes, block_bytes: int) -> None:
    rows = read(cut([stored(scratch, content)], block_bytes, max_line_bytes=16))
    assert [number for number, _ in rows] == list(range(content.count(b"\n") + (content[-1:] not in (b"", b"\n"))))


@pytest.mark.parametrize("buffer_bytes", [1, 2, 7])
def test_lines_do_not_depend_on_the_buffer_size(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, buffer_bytes: int
) -> None:
    monkeypatch.setattr(corpus, "BUFFER_BYTES", buffer_bytes)
    content = "é\r\n\nabcdefgh\nxy\n".encode()
    group = stored(tmp_path, content)
    assert [sides for _, sides in read(cut([group], 5))] == [("é",), ("",), ("abcdefgh",), ("xy",)]
    index = corpus.index_lines(group[0], 2)
    assert (index.num_lines, list(index.starts_bytes)) == (4, [0, 5])
    rows = read(cut([group], 5, max_line_bytes=4))
    assert rows[2] == (2, corpus.BadLine("too_long", f"{group[0]}:3"))
    assert rows[3] == (3, ("xy",))


def test_only_line_feeds_end_lines(tmp_path: pathlib.Path) -> None:
    group = stored(tmp_path, f"{ODD}\nx\n".encode(), b"plain\ny\n")
    assert read(cut([group], 4)) == [(0, (ODD, "plain")), (1, ("x", "y"))]


def test_line_numbers_continue_over_all_files(tmp_path: pathlib.Path) -> None:
    files = stored(tmp_path, b"a\nb", b"", b"c\n")
    parts = cut([(file,) for file in files], 2)
    assert read(parts) == [(0, ("a",)), (1, ("b",)), (2, ("c",))]
    assert [part.start_line for part in parts] == [0, 1, 0]


def test_byte_order_marks_and_carriage_returns_are_removed_and_counted(tmp_path: pathlib.Path) -> None:
    group = stored(tmp_path, b"\xef\xbb\xbfa\r\n\xef\xbb\xbfb\r\r\n\r\n")
    repairs: collections.Counter[str] = collections.Counter()
    (part,) = cut([group], 100)
    assert list(corpus.read_lines(part, repairs)) == [(0, ("a",)), (1, ("\ufeffb\r",)), (2, ("",))]
    assert repairs == {"bom": 1, "crlf": 3}


def test_bad_lines_give_reason_file_line_and_byte(tmp_path: pathlib.Path) -> None:
    content = b"good\ncaf\xe9\n\xc0\x80\n\xed\xa0\x80\na\0b\n" + b"x" * 17 + b"\n" + b"y" * 16 + b"\n"
    (file,) = stored(tmp_path, content)
    assert [row for _, row in read(cut([(file,)], 9, max_line_bytes=16))] == [
        ("good",),
        ("invalid_utf8", f"{file}:2:4"),
        ("invalid_utf8", f"{file}:3:1"),
        ("invalid_utf8", f"{file}:4:1"),
        ("control_char", f"{file}:5:2"),
        ("too_long", f"{file}:6"),
        ("y" * 16,),
    ]


def test_a_pair_with_a_bad_side_is_a_bad_line(tmp_path: pathlib.Path) -> None:
    source, target = stored(tmp_path, b"a\nb\nc\n", b"1\n\xff\n3\n")
    assert read(cut([(source, target)], 3)) == [
        (0, ("a", "1")),
        (1, corpus.BadLine("invalid_utf8", f"{target}:2:1")),
        (2, ("c", "3")),
    ]


def test_columns_are_split_at_tabs_and_quotes_are_kept(tmp_path: pathlib.Path) -> None:
    (file,) = stored(tmp_path, b'"Go."\tVa !\tCC-BY\nonly one\n\t\na\tb\n')
    assert read(cut([(file,)], 100, (0, 1))) == [
        (0, ('"Go."', "Va !")),
        (1, corpus.BadLine("field_count", f"{file}:2 (1 columns)")),
        (2, ("", "")),
        (3, ("a", "b")),
    ]
    assert read(cut([(file,)], 100, (2, 0)))[0] == (0, ("CC-BY", '"Go."'))


def test_aligned_files_must_have_equal_numbers_of_lines(tmp_path: pathlib.Path) -> None:
    group = stored(tmp_path, b"a\n" * 1000, b"b\n" * 999)
    with pytest.raises(errors.DataError, match="source 1000 lines, target 999"):
        cut([group], 64)
    with pytest.raises(errors.DataError, match="source 1000 lines, target 999"):
        corpus.cut_by_lines(group, [corpus.index_lines(file, 10) for file in group])


@pytest.mark.parametrize("content", [b"a\nb\nc\nd\n", b"a\n"])
def test_a_change_of_size_while_reading_is_an_error(tmp_path: pathlib.Path, content: bytes) -> None:
    parts = cut([stored(tmp_path, b"a\nb\nc\n")], 100)
    stored(tmp_path, content)
    with pytest.raises(errors.DataError, match="changed while it was being read"):
        read(parts)


def test_a_change_of_the_number_of_lines_while_reading_is_an_error(tmp_path: pathlib.Path) -> None:
    parts = cut([stored(tmp_path, b"a\nb\nc\n")], 100)
    stored(tmp_path, b"abcde\n")
    with pytest.raises(errors.DataError, match="changed"):
        read(parts)


def test_a_removed_file_is_named_in_the_error(tmp_path: pathlib.Path) -> None:
    parts = cut([stored(tmp_path, b"a\n")], 100)
    (tmp_path / "0.txt").unlink()
    with pytest.raises(errors.NotFoundError, match=r"0\.txt"):
        read(parts)


def test_block_hashes_depend_on_the_bytes_alone(tmp_path: pathlib.Path) -> None:
    (file,) = stored(tmp_path, b"a\nbb\nccc")
    counts = [corpus.count_block(file, start, stop) for start, stop in corpus.blocks(8, 3)]
    assert [block.num_lines for block in counts] == [2, 1, 0]
    whole = corpus.count_block(file, 3, 6)
    assert counts[1] == whole
    (tmp_path / "1.txt").write_bytes(b"b\nc")
    assert corpus.count_block(location.Location.parse(str(tmp_path / "1.txt")), 0, 3).sha256 == whole.sha256


def test_memory_does_not_grow_with_the_length_of_a_line(tmp_path: pathlib.Path) -> None:
    with (tmp_path / "0.txt").open("wb") as file:
        file.seek(100 << 20)
        file.write(b"\nlast\n")
    group = (location.Location.parse(str(tmp_path / "0.txt")),)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = read(cut([group], 1 << 24))
    after_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert rows == [(0, corpus.BadLine("too_long", f"{group[0]}:1")), (1, ("last",))]
    assert after_kib - before_kib < 32 << 10


def test_memory_urls_are_read_like_local_files() -> None:
    file = location.Location.parse("memory://corpus-test/a.txt")
    file.replace(b"a\nb\nc")
    try:
        assert read(cut([(file,)], 2)) == [(0, ("a",)), (1, ("b",)), (2, ("c",))]
    finally:
        file.remove()


@pytest.mark.data
@pytest.mark.parametrize("block_bytes", [1000, 1 << 24])
def test_the_time_machine_is_read_back(corpora: pathlib.Path, block_bytes: int) -> None:
    path = corpora / "timemachine" / "timemachine.txt"
    rows = read(cut([(location.Location.parse(str(path)),)], block_bytes))
    assert len(rows) == 3221
    assert "".join(f"{row[0]}\n" for _, row in rows) == path.read_text()
