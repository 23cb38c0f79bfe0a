"""The verb `evaluate`: quality of files of any format."""

import json
import pathlib

import pytest
from typer.testing import CliRunner

from core import errors
from jobs import __main__ as main
from jobs import evaluate
from tests import reporters

LINES = ["the cat sat on the mat", "a dog barks at the door", "un \u2028 deux trois quatre"]


def _write(path: pathlib.Path, lines: list[str]) -> str:
    path.write_text("".join(f"{line}\n" for line in lines), newline="\n")
    return str(path)


def test_equal_files_have_perfect_scores(tmp_path: pathlib.Path) -> None:
    hypotheses, reference = _write(tmp_path / "h.txt", LINES), _write(tmp_path / "r.txt", LINES)
    report = evaluate.run(hypotheses, [reference], reporters.SilentReporter())
    assert (report["bleu"], report["chrf"], report["ter"]) == pytest.approx((100.0, 100.0, 0.0))
    assert report["d2l_bleu"] == [1.0]
    assert report["lines"] == 3
    assert set(report["signatures"]) == {"bleu", "chrf", "ter"}


def test_the_text_column_of_translate_is_read(tmp_path: pathlib.Path) -> None:
    hypotheses = _write(tmp_path / "h.jsonl", [json.dumps({"line": 0, "text": line}) for line in LINES])
    references = [_write(tmp_path / "r1.txt", ["x y z w"] * 3), _write(tmp_path / "r2.txt", LINES)]
    report = evaluate.run(hypotheses, references, reporters.SilentReporter())
    assert report["bleu"] == pytest.approx(100.0)
    assert report["d2l_bleu"] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--d2l-bleu-k", "1"], (3 / 4) ** (1 / 2)),  # a, b and c match
        ([], (3 / 4) ** (1 / 2) * (2 / 3) ** (1 / 4)),  # default k = 2: "a b" and "b c" match too
        (["--d2l-bleu-k", "3"], (3 / 4) ** (1 / 2) * (2 / 3) ** (1 / 4) * (1 / 2) ** (1 / 8)),  # and "a b c"
        (["--d2l-bleu-k", "4"], 0.0),  # the only 4-gram does not match
    ],
)
def test_d2l_bleu_counts_ngrams_of_up_to_k_tokens(tmp_path: pathlib.Path, options: list[str], expected: float) -> None:
    hypotheses, reference = _write(tmp_path / "h.txt", ["a b c d"]), _write(tmp_path / "r.txt", ["a b c x"])
    job = main.app(["evaluate", "--hypotheses", hypotheses, "--references", reference, *options], standalone_mode=False)
    report = job.call(1)
    assert report["d2l_bleu"] == report["documents_bleu"] == [pytest.approx(expected, abs=1e-12)]
    assert report["d2l_bleu_k"] == report["documents_bleu_k"] == (int(options[1]) if options else 2)


def test_the_deprecated_option_documents_k_is_accepted_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert evaluate.ngram_order(None, 3) == 3
    assert [record.getMessage() for record in caplog.records] == ["--documents-k: is deprecated; use --d2l-bleu-k"]
    with pytest.raises(errors.UsageError, match="--documents-k: --d2l-bleu-k is given, too"):
        evaluate.ngram_order(2, 3)


def test_the_deprecated_option_documents_k_is_not_in_the_help(tmp_path: pathlib.Path) -> None:
    hypotheses, reference = _write(tmp_path / "h.txt", ["a b c d"]), _write(tmp_path / "r.txt", ["a b c x"])
    command = ["evaluate", "--hypotheses", hypotheses, "--references", reference, "--documents-k", "3"]
    assert main.app(command, standalone_mode=False).call(1)["d2l_bleu_k"] == 3
    shown = CliRunner().invoke(main.app, ["evaluate", "--help"]).output
    assert "--d2l-bleu-k" in shown
    assert "--documents-k" not in shown


def test_unequal_files_are_an_error_with_both_counts(tmp_path: pathlib.Path) -> None:
    hypotheses, reference = _write(tmp_path / "h.txt", LINES), _write(tmp_path / "r.txt", LINES[:2])
    with pytest.raises(errors.DataError, match="2 lines for 3 translations"):
        evaluate.run(hypotheses, [reference], reporters.SilentReporter())


def test_a_line_that_is_not_utf8_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "h.txt").write_bytes(b"ok\n\xff\n")
    reference = _write(tmp_path / "r.txt", LINES[:2])
    with pytest.raises(errors.DataError, match=r"h\.txt:2.*invalid_utf8"):
        evaluate.run(str(tmp_path / "h.txt"), [reference], reporters.SilentReporter())
