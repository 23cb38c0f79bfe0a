"""Translation quality: BLEU, chrF and TER by sacreBLEU with their signatures, and the sentence BLEU of D2L."""

import collections
import math
from collections.abc import Sequence
from typing import NamedTuple

from sacrebleu.metrics import base, bleu, chrf, ter

from core import errors


class Quality(NamedTuple):
    """Corpus scores in percent (for TER, lower is better), and the sacreBLEU signature of each metric."""

    bleu: float
    chrf: float
    ter: float
    signatures: dict[str, str]


def corpus(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Quality:
    """Computes corpus BLEU, chrF and TER of translations against one or more references.

    Empty translations are allowed and lower the scores. Without any lines BLEU and chrF are 0.

    Args:
        hypotheses: the translations.
        references: one sequence of lines for each reference translation.

    Raises:
        DataError: the numbers of lines differ, or no reference is given.

    Source: Post (2018), "A Call for Clarity in Reporting BLEU Scores".
    """
    if not references:
        raise errors.DataError("no references; name at least one")
    for number, reference in enumerate(references, start=1):
        # sacreBLEU would score the shorter of the two, and say nothing.
        if len(reference) != len(hypotheses):
            raise errors.DataError(
                f"reference {number}: {len(reference)} lines for {len(hypotheses)} translations; "
                "both must have one line for each source line"
            )
    metrics: dict[str, base.Metric] = {"bleu": bleu.BLEU(), "chrf": chrf.CHRF(), "ter": ter.TER()}
    # sacreBLEU rejects an empty corpus; an empty line against an empty line gives the same scores.
    lines = list(hypotheses) or [""]
    against = [list(reference) or [""] for reference in references]
    scores = {name: float(metric.corpus_score(lines, against).score) for name, metric in metrics.items()}
    signatures = {name: str(metric.get_signature().format()) for name, metric in metrics.items()}
    return Quality(scores["bleu"], scores["chrf"], scores["ter"], signatures)


def d2l_bleu(hypothesis: str, reference: str, k: int) -> float:
    """Computes the sentence BLEU of Dive into Deep Learning, between 0 and 1, with n-grams of up to k tokens.

    exp(min(0, 1 - len_reference / len_hypothesis)) * product over n of p_n ** (1 / 2 ** n), with p_n the precision of
    n-grams and tokens split at spaces. A hypothesis of fewer than k tokens contains no k-gram, so it scores 0.

    Source: Zhang et al., Dive into Deep Learning (2021), section 9.7 "Sequence to Sequence Learning", evaluation of
    predicted sequences.
    """
    words, expected = hypothesis.split(" "), reference.split(" ")
    # Brevity penalty; split(" ") gives at least one word, so the length is never 0.
    score = math.exp(min(0.0, 1 - len(expected) / len(words)))
    for n in range(1, k + 1):
        if len(words) < n:
            return 0.0
        # Intersection of multisets: an n-gram counts at most as often as the reference has it.
        matches = (_ngrams(words, n) & _ngrams(expected, n)).total()
        score *= (matches / (len(words) - n + 1)) ** (0.5**n)
    return score


def mean_d2l_bleu(hypotheses: Sequence[str], references: Sequence[str], k: int) -> float:
    """Computes the mean `d2l_bleu` over all lines; 0 without lines.

    Raises:
        DataError: the numbers of lines differ.
    """
    if len(hypotheses) != len(references):
        raise errors.DataError(
            f"reference: {len(references)} lines for {len(hypotheses)} translations; "
            "both must have one line for each source line"
        )
    scores = [d2l_bleu(*pair, k) for pair in zip(hypotheses, references, strict=True)]
    # fsum: the mean does not depend on the order of the lines.
    return math.fsum(scores) / max(1, len(scores))


def _ngrams(words: Sequence[str], n: int) -> collections.Counter[tuple[str, ...]]:
    return collections.Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))
