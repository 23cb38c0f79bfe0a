"""Laws of an evaluation that comes piece by piece: its figures are those of the whole corpus, in any pieces."""

import random

import pytest
from sacrebleu.metrics import bleu, chrf, ter

from core import errors
from core.evaluation import corpus_evaluation, quality

WORDS = ("a", "cat", "sat", "on", "the", "mat", "dog.", "saw", "nothing")


def _lines(seed: int, count: int = 60) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.randrange(25))) for _ in range(count)]


def _evaluate(hypotheses: list[str], references: list[list[str]], size: int) -> corpus_evaluation.CorpusEvaluation:
    evaluation = corpus_evaluation.CorpusEvaluation(len(references), quality.DEFAULTS, 2)
    for start in range(0, len(hypotheses), size):
        rows = slice(start, start + size)
        evaluation.add(hypotheses[rows], [reference[rows] for reference in references])
    return evaluation


@pytest.mark.parametrize("size", [1, 7, 59])
def test_figures_do_not_depend_on_the_pieces(size: int) -> None:
    hypotheses, references = _lines(0), [_lines(1), _lines(2)]
    whole, pieces = (_evaluate(hypotheses, references, count) for count in (60, size))
    assert pieces.quality() == whole.quality()
    assert pieces.d2l_bleu() == whole.d2l_bleu()
    assert pieces.analysis.by_length() == whole.analysis.by_length()
    assert pieces.analysis.faults() == whole.analysis.faults()
    assert pieces.analysis.extremes() == whole.analysis.extremes()


def test_scores_are_those_of_sacrebleu() -> None:
    hypotheses, references = _lines(3), [_lines(4), _lines(5)]
    figures = _evaluate(hypotheses, references, 11).quality()
    expected = {"bleu": bleu.BLEU(), "chrf": chrf.CHRF(), "ter": ter.TER()}
    for name, metric in expected.items():
        assert getattr(figures, name) == pytest.approx(metric.corpus_score(hypotheses, references).score, rel=1e-12)
        assert figures.signatures[name] == str(metric.get_signature().format())


def test_the_chrf_of_a_line_is_that_of_sacrebleu_against_all_references() -> None:
    hypotheses, references = ["the cat", "a dog"], [["the mat", "a cat"], ["the cat", "no dog"]]
    extremes = _evaluate(hypotheses, references, 1).analysis.extremes()
    assert extremes["best"] == [{"line": 0, "chrf": 100.0}]
    metric = chrf.CHRF()
    assert extremes["worst"] == [{"line": 1, "chrf": metric.sentence_score("a dog", ["a cat", "no dog"]).score}]


def test_d2l_bleu_is_the_mean_over_lines_for_each_reference() -> None:
    references = [["je t aime .", "je t aime ."], ["je t aime", "x"]]
    means = _evaluate(["je t aime", "je t aime ."], references, 1).d2l_bleu()
    assert means == pytest.approx([(0.7165 + 1) / 2, (1 + 0) / 2], abs=1e-4)


def test_unequal_numbers_of_lines_are_an_error() -> None:
    with pytest.raises(errors.DataError, match="1 lines for 2 translations"):
        _evaluate(["a", "b"], [["a"]], 2)
