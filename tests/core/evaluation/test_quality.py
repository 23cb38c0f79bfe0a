"""Figures of quality, against values worked by hand."""

import math

import pytest

from core import errors
from core.evaluation import quality


@pytest.mark.parametrize(
    ("hypothesis", "reference", "k", "expected"),
    [
        ("je t aime", "je t aime .", 2, math.exp(1 - 4 / 3)),  # all n-grams right, one word short: 0.7165
        ("je t aime .", "je t aime .", 2, 1.0),
        ("a b c d", "a x c d", 2, (3 / 4) ** 0.5 * (1 / 3) ** 0.25),  # a, c, d and "c d" are right
        ("a a a a", "a b", 1, (1 / 4) ** 0.5),  # the reference has one a to match; longer is not punished
        ("a", "a b", 2, 0.0),  # no bigram to be right
        ("", "a b", 2, 0.0),
    ],
)
def test_the_documents_bleu(hypothesis: str, reference: str, k: int, expected: float) -> None:
    assert quality.documents_bleu(hypothesis, reference, k) == pytest.approx(expected, abs=1e-12)


def test_the_documents_bleu_of_a_corpus_is_the_mean() -> None:
    mean = quality.documents_corpus(["je t aime", "je t aime ."], ["je t aime .", "je t aime ."], 2)
    assert mean == pytest.approx((0.7165 + 1) / 2, abs=1e-4)


def test_a_perfect_corpus() -> None:
    lines = ["the cat sat on the mat", "a dog barks at the old door"]
    found = quality.corpus(lines, [lines])
    assert (found.bleu, found.chrf, found.ter) == pytest.approx((100.0, 100.0, 0.0))
    assert set(found.signatures) == {"bleu", "chrf", "ter"}
    assert "tok:13a" in found.signatures["bleu"]


def test_bleu_worked_by_hand() -> None:
    """Precisions 4/5, 3/4, 2/3, 1/2; equal lengths, so there is no penalty."""
    found = quality.corpus(["a b c d x"], [["a b c d e"]])
    assert found.bleu == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    assert found.ter == pytest.approx(20.0)


def test_a_second_reference_can_only_help() -> None:
    hypotheses, far, near = ["a b c d x"], ["v w y z u"], ["a b c d x"]
    assert quality.corpus(hypotheses, [far, near]).bleu == pytest.approx(100.0)
    assert "nrefs:2" in quality.corpus(hypotheses, [far, near]).signatures["bleu"]


@pytest.mark.parametrize("hypotheses", [[], [""], ["", "x"], ["a b c d e", ""]])
def test_empty_and_short_output_has_figures(hypotheses: list[str]) -> None:
    found = quality.corpus(hypotheses, [["a b c d e", "f"][: len(hypotheses)]])
    assert 0 <= found.bleu <= 100
    assert math.isfinite(found.ter)


def test_unequal_numbers_of_lines_are_refused_with_both_counts() -> None:
    with pytest.raises(errors.DataError, match="3 lines for 2 translations"):
        quality.corpus(["a", "b"], [["a", "b"], ["a", "b", "c"]])
    with pytest.raises(errors.DataError, match="1 lines for 2 translations"):
        quality.documents_corpus(["a", "b"], ["a"], 2)


def test_no_reference_is_refused() -> None:
    with pytest.raises(errors.DataError, match="at least one"):
        quality.corpus(["a"], [])
