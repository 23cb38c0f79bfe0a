"""Figures of files, whatever their form."""

import json
import pathlib

import pytest

from core import errors
from jobs import console, evaluate

LINES = ["the cat sat on the mat", "a dog barks at the door", "un \u2028 deux trois quatre"]


def _write(path: pathlib.Path, lines: list[str]) -> str:
    path.write_text("".join(f"{line}\n" for line in lines), newline="\n")
    return str(path)


def test_equal_files_are_perfect(tmp_path: pathlib.Path) -> None:
    hypotheses, reference = _write(tmp_path / "h.txt", LINES), _write(tmp_path / "r.txt", LINES)
    report = evaluate.run(hypotheses, [reference], console.SilentReporter())
    assert (report["bleu"], report["chrf"], report["ter"]) == pytest.approx((100.0, 100.0, 0.0))
    assert report["documents_bleu"] == [1.0]
    assert report["lines"] == 3
    assert set(report["signatures"]) == {"bleu", "chrf", "ter"}


def test_rows_of_translate_are_read_by_their_text(tmp_path: pathlib.Path) -> None:
    hypotheses = _write(tmp_path / "h.jsonl", [json.dumps({"line": 0, "text": line}) for line in LINES])
    references = [_write(tmp_path / "r1.txt", ["x y z w"] * 3), _write(tmp_path / "r2.txt", LINES)]
    report = evaluate.run(hypotheses, references, console.SilentReporter())
    assert report["bleu"] == pytest.approx(100.0)
    assert report["documents_bleu"] == [0.0, 1.0]


def test_unequal_files_are_refused_with_both_counts(tmp_path: pathlib.Path) -> None:
    hypotheses, reference = _write(tmp_path / "h.txt", LINES), _write(tmp_path / "r.txt", LINES[:2])
    with pytest.raises(errors.DataError, match="2 lines for 3 translations"):
        evaluate.run(hypotheses, [reference], console.SilentReporter())


def test_a_line_that_is_no_text_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "h.txt").write_bytes(b"ok\n\xff\n")
    reference = _write(tmp_path / "r.txt", LINES[:2])
    with pytest.raises(errors.DataError, match=r"h\.txt:2.*invalid_utf8"):
        evaluate.run(str(tmp_path / "h.txt"), [reference], console.SilentReporter())
