"""Surveys of texts and pairs, counted by hand."""

from pathlib import Path

import pytest

from core import errors
from core.data.text import survey
from core.storage import location


def _file(path: Path, content: bytes | str) -> location.Location:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return location.Location.parse(str(path))


def test_lengths_words_and_irregularities_of_a_text_by_hand(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbfone two\r\nthree\n\none two three four\nthree\nab\x01c\nabcdefghijkl\n\xff\n"
    figures = survey.survey([(_file(tmp_path / "a.txt", content),)])
    (side,) = figures.sides
    assert (figures.num_lines, figures.num_examined, figures.duplicates) == (8, 8, 1)
    assert (side.num_words, side.empty, side.odd, side.script) == (10, 1, 1, None)
    # Of the seven lines that can be read, in words: 0 1 1 1 1 2 4.
    assert (side.words.median, side.words.p90, side.words.longest) == (1, 4, 4)
    assert side.distinct_words["three"] == 3
    assert dict(figures.bad_lines) == {"invalid_utf8": 1}
    assert (figures.repairs["bom"], figures.repairs["crlf"]) == (1, 1)


def test_pairs_with_equal_and_with_unequal_sides_are_counted(tmp_path: Path) -> None:
    long = " ".join(["word"] * 31)
    lines = ["a b\tc d", "same here\tsame here", f"{long}\tten words are a third of it, so they are", f"x\t{long}"]
    figures = survey.survey([(_file(tmp_path / "a.tsv", "\n".join(lines)),)], columns=(0, 1))
    assert (figures.same, figures.unequal) == (1, 2)
    assert figures.sides[1].words.longest == 31


def test_two_files_are_aligned_line_by_line(tmp_path: Path) -> None:
    source = _file(tmp_path / "a.en", "one\ntwo words\n")
    figures = survey.survey([(source, _file(tmp_path / "a.de", "eins\nzwei Wörter\n"))])
    assert [side.num_words for side in figures.sides] == [3, 3]
    with pytest.raises(errors.DataError, match="2 lines"):
        survey.survey([(source, _file(tmp_path / "b.de", "eins\n"))])


def test_a_long_text_is_examined_at_its_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "MAX_LINES", 10)
    figures = survey.survey([(_file(tmp_path / "a.txt", "a b c\n" * 25),)])
    assert (figures.num_lines, figures.num_examined, figures.is_sample, figures.scale) == (25, 10, True, 2.5)
    assert figures.sides[0].num_words == 30
