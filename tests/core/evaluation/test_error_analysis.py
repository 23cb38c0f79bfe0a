"""Error analysis of translations, against counts by hand."""

from collections.abc import Sequence

import pytest

from core.evaluation import error_analysis, quality


def analyse(
    hypotheses: Sequence[str], *references: Sequence[str], num_extremes: int = error_analysis.NUM_EXTREMES
) -> error_analysis.Analysis:
    """Returns the analysis of lines that come two at a time."""
    metrics = quality.make_metrics()
    analysis = error_analysis.Analysis(metrics, num_extremes=num_extremes)
    for start in range(0, len(hypotheses), 2):
        lines, *others = (texts[start : start + 2] for texts in (hypotheses, *references))
        analysis.add(lines, others[0], quality.count(metrics, lines, others))
    return analysis


def test_word_errors_counted_by_hand() -> None:
    faults = analyse(["the the the cat"], ["the cat sat"]).faults()
    assert faults == error_analysis.Faults(
        words=4, reference_words=3, omitted=1, added=2, repeated=2, pairs=0, swapped=0
    )  # `sat` is omitted, two of three `the` are added, only `cat` occurs once on both sides
    faults = analyse(["x x b a c"], ["a b c"]).faults()
    assert faults == error_analysis.Faults(
        words=5, reference_words=3, omitted=0, added=2, repeated=1, pairs=3, swapped=1
    )


def test_counts_are_summed_over_lines_and_punctuation_is_a_word() -> None:
    pair = (["un chat.", "le chien"], ["un chat .", "chien le"])
    assert analyse(*pair).faults() == error_analysis.Faults(5, 5, 0, 0, 0, 4, 1)
    shares = analyse(*pair).faults().to_json()
    assert shares["swapped_share"] == pytest.approx(1 / 4)
    assert shares["omitted_share"] == 0


def test_empty_translations_have_no_errors_or_only_omissions() -> None:
    assert set(analyse([], []).faults().to_json().values()) == {0}
    assert analyse([""], ["a b"]).faults().omitted == 2


def test_length_buckets_have_the_quality_of_their_lines() -> None:
    references = ["a b c d e", "a b c d e f", "x " * 60, "y", ""]
    hypotheses = ["a b c d e", "a b c x e f", "x " * 59, "z", ""]
    buckets = analyse(hypotheses, references).by_length()
    assert [(bucket.shortest, bucket.longest, bucket.lines) for bucket in buckets] == [
        (0, 5, 3),
        (6, 10, 1),
        (51, None, 1),
    ]
    assert buckets[1].bleu == pytest.approx(quality.corpus([hypotheses[1]], [[references[1]]]).bleu)
    assert buckets[1].chrf == pytest.approx(quality.corpus([hypotheses[1]], [[references[1]]]).chrf)


def test_a_corpus_of_one_length_has_its_corpus_bleu_in_one_bucket() -> None:
    references = [["a b c d x", "k l m n"], ["a b c d y", "k l m o"]]
    hypotheses = ["a b c d y", "k l m n"]
    (bucket,) = analyse(hypotheses, *references).by_length()
    assert bucket.bleu == pytest.approx(quality.corpus(hypotheses, references).bleu)


def test_the_best_and_the_worst_lines_are_by_chrf_and_of_equal_ones_the_longest_first() -> None:
    references = ["a cat", "a very long cat indeed", "the dog sat down", "we saw nothing", "hello there", "it rains"]
    hypotheses = ["a cat", "a very long cat indeed", "the dog sat up", "zzz", "hello there", "qqq"]
    extremes = analyse(hypotheses, references, num_extremes=2).extremes()
    assert extremes["best"] == [{"line": 1, "chrf": 100.0}, {"line": 4, "chrf": 100.0}]
    assert extremes["worst"] == [{"line": 3, "chrf": 0.0}, {"line": 5, "chrf": 0.0}]
    assert analyse(["a"], ["a"]).extremes() == {"best": [], "worst": []}, "one line is neither"
