"""The verb `evaluate`: quality of files of any format."""

import importlib.util
import json
import pathlib
from typing import Any

import pytest
from typer.testing import CliRunner

from core import errors
from core.config import evaluation_settings
from jobs import __main__ as main
from jobs import evaluate, run_checks
from tests import reporters

LINES = ["the cat sat on the mat", "a dog barks at the door", "un \u2028 deux trois quatre"]


def _write(path: pathlib.Path, lines: list[str]) -> str:
    path.write_text("".join(f"{line}\n" for line in lines), newline="\n")
    return str(path)


def _evaluate(hypotheses: str, references: list[str], **settings: Any) -> dict[str, Any]:
    return evaluate.run(evaluate.Request([hypotheses], references, **settings), reporters.SilentReporter())


def test_equal_files_have_perfect_scores(tmp_path: pathlib.Path) -> None:
    hypotheses, reference = _write(tmp_path / "h.txt", LINES), _write(tmp_path / "r.txt", LINES)
    report = _evaluate(hypotheses, [reference])
    assert (report["bleu"], report["chrf"], report["ter"]) == pytest.approx((100.0, 100.0, 0.0))
    assert report["d2l_bleu"] == [1.0]
    assert report["lines"] == 3
    assert set(report["signatures"]) == {"bleu", "chrf", "ter"}


def test_the_text_column_of_translate_is_read(tmp_path: pathlib.Path) -> None:
    hypotheses = _write(tmp_path / "h.jsonl", [json.dumps({"line": 0, "text": line}) for line in LINES])
    references = [_write(tmp_path / "r1.txt", ["x y z w"] * 3), _write(tmp_path / "r2.txt", LINES)]
    report = _evaluate(hypotheses, references)
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
    assert run_checks.ngram_order(None, 3) == 3
    assert [record.getMessage() for record in caplog.records] == ["--documents-k: is deprecated; use --d2l-bleu-k"]
    with pytest.raises(errors.UsageError, match="--documents-k: --d2l-bleu-k is given, too"):
        run_checks.ngram_order(2, 3)


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
        _evaluate(hypotheses, [reference])


def test_a_line_that_is_not_utf8_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "h.txt").write_bytes(b"ok\n\xff\n")
    reference = _write(tmp_path / "r.txt", LINES[:2])
    with pytest.raises(errors.DataError, match=r"h\.txt:2.*invalid_utf8"):
        _evaluate(str(tmp_path / "h.txt"), [reference])


def _run(*arguments: str) -> dict[str, Any]:
    report: dict[str, Any] = main.app(["evaluate", *arguments], standalone_mode=False).call(1)
    return report


def test_nothing_is_not_compared_with_nothing(tmp_path: pathlib.Path) -> None:
    hypotheses, reference = _write(tmp_path / "h.txt", []), _write(tmp_path / "r.txt", [])
    with pytest.raises(errors.DataError, match="no line"):
        _evaluate(hypotheses, [reference])


def test_empty_lines_are_counted_and_warned_about(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    hypotheses, reference = (
        _write(tmp_path / "h.txt", ["", *LINES[1:]]),
        _write(tmp_path / "r.txt", [LINES[0], " ", ""]),
    )
    report = _evaluate(hypotheses, [reference])
    assert (report["empty_hypotheses"], report["empty_references"]) == (1, 2)
    assert [record.getMessage() for record in caplog.records] == report["warnings"]
    assert "1 of 3 lines" in report["warnings"][0]
    assert "2 of 3 lines" in report["warnings"][1]
    assert "warnings" not in _evaluate(_write(tmp_path / "full.txt", LINES), [_write(tmp_path / "same.txt", LINES)])


def test_references_are_also_compared_after_the_cleaning_of_the_training_data(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The model writes lower case and one 0 for each number; both are perfect after the same cleaning."""
    written = ["The Cat Sat On 12 Mats Today", "A Dog Barks At The Old Door"]
    hypotheses = _write(tmp_path / "h.txt", ["the cat sat on 0 mats today", "a dog barks at the old door"])
    reference = _write(tmp_path / "r.txt", written)
    with caplog.at_level("INFO"):
        report = _evaluate(hypotheses, [reference], cleaning=("lower", "digits"))
    assert report["bleu"] < 10
    cleaned = report["cleaned"]
    assert (cleaned["bleu"], cleaned["chrf"], cleaned["ter"]) == pytest.approx((100.0, 100.0, 0.0))
    assert cleaned["d2l_bleu"] == [1.0]
    assert report["faults"]["omitted"] == 14
    assert cleaned["faults"]["omitted"] == 0
    assert "references:cleaned[lower+digits]" in cleaned["signatures"]["bleu"]
    assert "cleaned" not in report["signatures"]["bleu"]
    (message,) = [record.getMessage() for record in caplog.records]
    assert "against the references as written" in message
    assert "100.0 against references cleaned as the training data (lower, digits)" in message


def test_cleaning_that_changes_no_reference_gives_no_second_figure(tmp_path: pathlib.Path) -> None:
    hypotheses, reference = _write(tmp_path / "h.txt", LINES), _write(tmp_path / "r.txt", LINES)
    assert "cleaned" not in _evaluate(hypotheses, [reference], cleaning=("lower", "strip"))


def test_a_run_gives_its_cleaning_and_evaluation_settings_and_options_override_them(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.yaml").write_text(
        f"name: a\nroot: {tmp_path}\ncorpus: {{kind: pairs, train: {{tsv: [a.tsv]}}, cleaning: [lower]}}\n"
        "training: {batch_lines: 4}\nmodel: {kind: seq2seq, hidden_size: 16}\nevaluation: {tokenize: char}\n"
    )
    hypotheses, reference = _write(tmp_path / "h.txt", ["a b c d"]), _write(tmp_path / "r.txt", ["A B C D"])
    files = ["--hypotheses", hypotheses, "--references", reference, "--run", str(tmp_path)]
    report = _run(*files)
    assert (report["tokenize"], report["lowercase"], report["cleaned"]["cleaning"]) == ("char", False, ["lower"])
    assert "tok:char" in report["signatures"]["bleu"]
    report = _run(*files, "--tokenize", "intl", "--lowercase")
    assert (report["tokenize"], report["bleu"]) == ("intl", pytest.approx(100.0))
    assert "case:lc" in report["signatures"]["bleu"]
    with pytest.raises(errors.UsageError, match="holds no run"):
        _run(*files[:-1], str(tmp_path / "elsewhere"))


def test_text_without_spaces_is_warned_about_and_counts_with_a_tokenizer_that_fits(tmp_path: pathlib.Path) -> None:
    """The last of eight characters differs in each line."""
    reference = _write(tmp_path / "r.txt", ["我的朋友看见房子", "我们的老师喜欢苹"])
    hypotheses = _write(tmp_path / "h.txt", ["我的朋友看见房屋", "我们的老师喜欢果"])
    files = ["--hypotheses", hypotheses, "--references", reference]
    report = _run(*files)
    assert report["bleu"] == 0
    assert report["warnings"][0].startswith("--tokenize: 13a splits words at spaces, which this Chinese text")
    assert report["warnings"][0].endswith("use zh")
    report = _run(*files, "--tokenize", "zh")
    assert report["bleu"] == pytest.approx(100 * (7 / 8 * 6 / 7 * 5 / 6 * 4 / 5) ** 0.25)
    assert (report["ter"], report["faults"]["omitted"]) == (pytest.approx(12.5), 2)
    assert "warnings" not in report


def test_a_tokenizer_whose_package_is_missing_is_refused_in_a_sentence(tmp_path: pathlib.Path) -> None:
    hypotheses, reference = _write(tmp_path / "h.txt", ["a"]), _write(tmp_path / "r.txt", ["a"])
    settings = evaluation_settings.EvaluationConfig(tokenize="ja-mecab")
    if importlib.util.find_spec("MeCab") is not None:
        pytest.skip("the optional package is installed")
    with pytest.raises(errors.UsageError, match=r"MeCab.*pip install 'sacrebleu\[ja\]', or use char"):
        _evaluate(hypotheses, [reference], settings=settings)


def test_systems_are_compared_with_the_first(tmp_path: pathlib.Path) -> None:
    lines = [f"the {noun} of {place} was {colour} today" for noun in "ab" for place in "cdefgh" for colour in "ijk"]
    worse = [line.replace("today", "then") if number % 2 else line for number, line in enumerate(lines)]
    near = [line.replace("today", "then") if number == 0 else line for number, line in enumerate(lines)]
    reference = _write(tmp_path / "r.txt", lines)
    hypotheses = [_write(tmp_path / f"{name}.txt", text) for name, text in (("a", lines), ("b", worse), ("c", near))]
    report = _run(*(word for path in hypotheses for word in ("--hypotheses", path)), "--references", reference)
    assert report["hypotheses"] == hypotheses[0]
    assert report["bleu"] == pytest.approx(100.0)
    first, second, third = report["systems"]
    assert [row["hypotheses"] for row in report["systems"]] == hypotheses
    assert first["p_values"] == {}
    assert second["significant"] == {"bleu": True, "chrf": True, "ter": True}
    assert third["significant"] == {"bleu": False, "chrf": False, "ter": False}
    assert report["significance"]["baseline"] == hypotheses[0]
    assert "bs:1000" in report["significance"]["signatures"]["bleu"]
    # All references are of six words: one row, in which each system has its own difference.
    (bucket,) = report["improvement_by_length"]
    assert bucket["lines"] == 36
    baseline, *others = (row["changes"] for row in bucket["systems"])
    assert baseline == {}
    assert [changes["bleu"] < 0 for changes in others] == [True, True]


def test_a_single_system_has_confidence_intervals_but_no_test(tmp_path: pathlib.Path) -> None:
    hypotheses, reference = (
        _write(tmp_path / "h.txt", ["a b c d e", "a b c d x"]),
        _write(tmp_path / "r.txt", ["a b c d e"] * 2),
    )
    files = ["--hypotheses", hypotheses, "--references", reference]
    interval = _run(*files, "--confidence")["confidence"]["bleu"]
    assert interval["low"] < _run(*files)["bleu"] < interval["high"]
    assert interval["high"] - interval["low"] == pytest.approx(2 * interval["half_width"])
    with pytest.raises(errors.UsageError, match="--significance: compares several systems"):
        _run(*files, "--significance", "randomization")


def test_a_system_with_another_number_of_lines_is_named(tmp_path: pathlib.Path) -> None:
    paths = [_write(tmp_path / f"{name}.txt", LINES[:count]) for name, count in (("a", 3), ("b", 2), ("r", 3))]
    with pytest.raises(errors.DataError, match=r"b\.txt: reference 1: 3 lines for 2 translations"):
        _run("--hypotheses", paths[0], "--hypotheses", paths[1], "--references", paths[2])
