"""Figures of files, whatever their form."""

import json
import pathlib

import pytest

from core import errors
from jobs import __main__ as main
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


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (["--documents-k", "1"], (3 / 4) ** (1 / 2)),  # a, b and c are right
        ([], (3 / 4) ** (1 / 2) * (2 / 3) ** (1 / 4)),  # k = 2; so are "a b" and "b c"
        (["--documents-k", "3"], (3 / 4) ** (1 / 2) * (2 / 3) ** (1 / 4) * (1 / 2) ** (1 / 8)),  # and "a b c"
        (["--documents-k", "4"], 0.0),  # the only n-gram of four is wrong
    ],
)
def test_the_documents_bleu_has_the_k_that_is_asked_for(
    tmp_path: pathlib.Path, asked: list[str], expected: float
) -> None:
    hypotheses, reference = _write(tmp_path / "h.txt", ["a b c d"]), _write(tmp_path / "r.txt", ["a b c x"])
    job = main.app(["evaluate", "--hypotheses", hypotheses, "--references", reference, *asked], standalone_mode=False)
    report = job.call(1)
    assert report["documents_bleu"] == [pytest.approx(expected, abs=1e-12)]
    assert report["documents_bleu_k"] == (int(asked[1]) if asked else 2)


def test_unequal_files_are_refused_with_both_counts(tmp_path: pathlib.Path) -> None:
    hypotheses, reference = _write(tmp_path / "h.txt", LINES), _write(tmp_path / "r.txt", LINES[:2])
    with pytest.raises(errors.DataError, match="2 lines for 3 translations"):
        evaluate.run(hypotheses, [reference], console.SilentReporter())


def test_a_line_that_is_no_text_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "h.txt").write_bytes(b"ok\n\xff\n")
    reference = _write(tmp_path / "r.txt", LINES[:2])
    with pytest.raises(errors.DataError, match=r"h\.txt:2.*invalid_utf8"):
        evaluate.run(str(tmp_path / "h.txt"), [reference], console.SilentReporter())
