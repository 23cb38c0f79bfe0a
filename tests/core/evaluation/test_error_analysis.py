"""Where translations go wrong, counted by hand."""

import pytest

from core.evaluation import error_analysis, quality


def test_faults_by_hand() -> None:
    found = error_analysis.faults(["the the the cat"], ["the cat sat"])
    assert found == error_analysis.Faults(
        words=4, reference_words=3, omitted=1, added=2, repeated=2, pairs=0, swapped=0
    )  # `sat` is missing, two of three `the` are too many, `cat` alone is on both sides once
    found = error_analysis.faults(["x x b a c"], ["a b c"])
    assert found == error_analysis.Faults(
        words=5, reference_words=3, omitted=0, added=2, repeated=1, pairs=3, swapped=1
    )


def test_counts_of_lines_add_up_and_signs_are_words() -> None:
    pair = (["un chat.", "le chien"], ["un chat .", "chien le"])
    assert error_analysis.faults(*pair) == error_analysis.Faults(5, 5, 0, 0, 0, 4, 1)
    shares = error_analysis.faults(*pair).to_json()
    assert shares["swapped_share"] == pytest.approx(1 / 4)
    assert shares["omitted_share"] == 0


def test_nothing_at_all_has_no_faults() -> None:
    assert set(error_analysis.faults([], []).to_json().values()) == {0}
    assert error_analysis.faults([""], ["a b"]).omitted == 2


def test_buckets_hold_every_line_once_with_the_quality_of_their_lines() -> None:
    references = ["a b c d e", "a b c d e f", "x " * 60, "y", ""]
    hypotheses = ["a b c d e", "a b c x e f", "x " * 59, "z", ""]
    found = error_analysis.by_length(hypotheses, [references])
    assert [(bucket.shortest, bucket.longest, bucket.lines) for bucket in found] == [
        (0, 5, 3),
        (6, 10, 1),
        (51, None, 1),
    ]
    assert found[1].bleu == pytest.approx(quality.corpus([hypotheses[1]], [[references[1]]]).bleu)
    assert found[1].chrf == pytest.approx(quality.corpus([hypotheses[1]], [[references[1]]]).chrf)


def test_a_corpus_of_one_length_has_its_own_quality_in_one_bucket() -> None:
    references = [["a b c d x", "k l m n"], ["a b c d y", "k l m o"]]
    hypotheses = ["a b c d y", "k l m n"]
    (bucket,) = error_analysis.by_length(hypotheses, references)
    assert bucket.bleu == pytest.approx(quality.corpus(hypotheses, references).bleu)
