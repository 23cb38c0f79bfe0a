"""Quality metrics, against values worked by hand."""

import math

import pytest

from core import errors
from core.config import evaluation_settings
from core.evaluation import quality


@pytest.mark.parametrize(
    ("hypothesis", "reference", "k", "expected"),
    [
        ("je t aime", "je t aime .", 2, math.exp(1 - 4 / 3)),  # all n-grams match, one word short: 0.7165
        ("je t aime .", "je t aime .", 2, 1.0),
        ("a b c d", "a x c d", 2, (3 / 4) ** 0.5 * (1 / 3) ** 0.25),  # a, c, d and "c d" match
        ("a a a a", "a b", 1, (1 / 4) ** 0.5),  # the reference has one a to match; no penalty for length
        ("a", "a b", 2, 0.0),  # no bigram to match
        ("", "a b", 2, 0.0),
    ],
)
def test_d2l_bleu_worked_by_hand(hypothesis: str, reference: str, k: int, expected: float) -> None:
    assert quality.d2l_bleu(hypothesis, reference, k) == pytest.approx(expected, abs=1e-12)


def test_equal_lines_have_perfect_scores() -> None:
    lines = ["the cat sat on the mat", "a dog barks at the old door"]
    scores = quality.corpus(lines, [lines])
    assert (scores.bleu, scores.chrf, scores.ter) == pytest.approx((100.0, 100.0, 0.0))
    assert set(scores.signatures) == {"bleu", "chrf", "ter"}
    assert "tok:13a" in scores.signatures["bleu"]


def test_bleu_worked_by_hand() -> None:
    """N-gram precisions 4/5, 3/4, 2/3, 1/2; equal lengths, so no brevity penalty."""
    scores = quality.corpus(["a b c d x"], [["a b c d e"]])
    assert scores.bleu == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    assert scores.ter == pytest.approx(20.0)


def test_a_second_reference_cannot_lower_bleu() -> None:
    hypotheses, far, near = ["a b c d x"], ["v w y z u"], ["a b c d x"]
    assert quality.corpus(hypotheses, [far, near]).bleu == pytest.approx(100.0)
    assert "nrefs:2" in quality.corpus(hypotheses, [far, near]).signatures["bleu"]


@pytest.mark.parametrize("hypotheses", [[""], ["", "x"], ["a b c d e", ""]])
def test_empty_and_short_translations_have_finite_scores(hypotheses: list[str]) -> None:
    scores = quality.corpus(hypotheses, [["a b c d e", "f"][: len(hypotheses)]])
    assert 0 <= scores.bleu <= 100
    assert math.isfinite(scores.ter)


def test_unequal_numbers_of_lines_are_an_error_with_both_counts() -> None:
    with pytest.raises(errors.DataError, match="3 lines for 2 translations"):
        quality.corpus(["a", "b"], [["a", "b"], ["a", "b", "c"]])


def test_nothing_cannot_be_compared() -> None:
    with pytest.raises(errors.DataError, match="nothing to compare"):
        quality.corpus([], [[]])


def test_lowercase_bleu_and_chrf_do_not_regard_case() -> None:
    settings = evaluation_settings.EvaluationConfig(lowercase=True)
    hypotheses, reference = ["the cat sat on the mat"], ["The Cat Sat On The Mat"]
    assert quality.corpus(hypotheses, [reference]).bleu < 50
    scores = quality.corpus(hypotheses, [reference], settings)
    assert (scores.bleu, scores.chrf) == pytest.approx((100.0, 100.0))
    assert all("case:lc" in scores.signatures[name] for name in ("bleu", "chrf", "ter"))


def test_ter_counts_characters_where_bleu_does() -> None:
    """One of eight characters differs, which is the only word of the line where words are split at spaces."""
    settings = evaluation_settings.EvaluationConfig(tokenize="zh")
    hypotheses, reference = ["我的朋友看见房屋"], ["我的朋友看见房子"]
    assert quality.corpus(hypotheses, [reference]).ter == pytest.approx(100.0)
    assert quality.corpus(hypotheses, [reference], settings).ter == pytest.approx(100 / 8)


def test_no_reference_is_an_error() -> None:
    with pytest.raises(errors.DataError, match="at least one"):
        quality.corpus(["a"], [])
