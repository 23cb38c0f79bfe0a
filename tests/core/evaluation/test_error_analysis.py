"""Error analysis of translations, against counts by hand."""

import pytest

from core.evaluation import error_analysis, quality


def test_word_errors_counted_by_hand() -> None:
    faults = error_analysis.faults(["the the the cat"], ["the cat sat"])
    assert faults == error_analysis.Faults(
        words=4, reference_words=3, omitted=1, added=2, repeated=2, pairs=0, swapped=0
    )  # `sat` is omitted, two of three `the` are added, only `cat` occurs once on both sides
    faults = error_analysis.faults(["x x b a c"], ["a b c"])
    assert faults == error_analysis.Faults(
        words=5, reference_words=3, omitted=0, added=2, repeated=1, pairs=3, swapped=1
    )


def test_counts_are_summed_over_lines_and_punctuation_is_a_word() -> None:
    pair = (["un chat.", "le chien"], ["un chat .", "chien le"])
    assert error_analysis.faults(*pair) == error_analysis.Faults(5, 5, 0, 0, 0, 4, 1)
    shares = error_analysis.faults(*pair).to_json()
    assert shares["swapped_share"] == pytest.approx(1 / 4)
    assert shares["omitted_share"] == 0


def test_empty_translations_have_no_errors_or_only_omissions() -> None:
    assert set(error_analysis.faults([], []).to_json().values()) == {0}
    assert error_analysis.faults([""], ["a b"]).omitted == 2


def test_length_buckets_have_the_quality_of_their_lines() -> None:
    references = ["a b c d e", "a b c d e f", "x " * 60, "y", ""]
    hypotheses = ["a b c d e", "a b c x e f", "x " * 59, "z", ""]
    buckets = error_analysis.by_length(hypotheses, [references])
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
    (bucket,) = error_analysis.by_length(hypotheses, references)
    assert bucket.bleu == pytest.approx(quality.corpus(hypotheses, references).bleu)


def test_the_best_and_the_worst_lines_are_by_chrf_and_of_equal_ones_the_longest_first() -> None:
    references = ["a cat", "a very long cat indeed", "the dog sat down", "we saw nothing", "hello there", "it rains"]
    hypotheses = ["a cat", "a very long cat indeed", "the dog sat up", "zzz", "hello there", "qqq"]
    extremes = error_analysis.extremes(hypotheses, references, count=2)
    assert extremes["best"] == [{"line": 1, "chrf": 100.0}, {"line": 4, "chrf": 100.0}]
    assert extremes["worst"] == [{"line": 3, "chrf": 0.0}, {"line": 5, "chrf": 0.0}]
    assert error_analysis.extremes(["a"], ["a"]) == {"best": [], "worst": []}, "one line is neither"
