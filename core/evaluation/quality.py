"""Translation quality: BLEU, chrF and TER by sacreBLEU with their signatures, and the sentence BLEU of D2L."""

import collections
import math
from collections.abc import Sequence
from typing import NamedTuple

from sacrebleu.metrics import base, bleu, chrf, ter

from core import errors
from core.config import evaluation_settings

DEFAULTS = evaluation_settings.EvaluationConfig()


class Quality(NamedTuple):
    """Corpus scores in percent (for TER, lower is better), and the sacreBLEU signature of each metric."""

    bleu: float
    chrf: float
    ter: float
    signatures: dict[str, str]


def make_metrics(
    settings: evaluation_settings.EvaluationConfig = DEFAULTS, force: bool = False
) -> dict[str, base.Metric]:
    """Returns the three metrics by name.

    Where BLEU splits text without spaces, TER does so too, by the rules that sacreBLEU has for Asian languages.

    Args:
        settings: tokenizer and case.
        force: no warning about text that seems to be tokenized.
    """
    is_asian = settings.tokenize in ("zh", "ja-mecab", "char")
    return {
        "bleu": bleu.BLEU(lowercase=settings.lowercase, tokenize=settings.tokenize, force=force),
        "chrf": chrf.CHRF(lowercase=settings.lowercase),
        "ter": ter.TER(normalized=is_asian, asian_support=is_asian),
    }


def corpus(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    settings: evaluation_settings.EvaluationConfig = DEFAULTS,
    cleaning: Sequence[str] = (),
) -> Quality:
    """Computes corpus BLEU, chrF and TER of translations against one or more references.

    Empty translations are allowed and lower the scores.

    Args:
        hypotheses: the translations.
        references: one sequence of lines for each reference translation.
        settings: tokenizer and case.
        cleaning: cleaning steps that the references have been through; the signatures name them.

    Raises:
        DataError: there is no line, the numbers of lines differ, or no reference is given.

    Source: Post (2018), "A Call for Clarity in Reporting BLEU Scores".
    """
    check_lines(hypotheses, references)
    # Cleaned text may look tokenized, which is what it is for.
    metrics = make_metrics(settings, force=bool(cleaning))
    against = [list(reference) for reference in references]
    scores = {name: float(metric.corpus_score(list(hypotheses), against).score) for name, metric in metrics.items()}
    signatures = {name: signature(metric, cleaning) for name, metric in metrics.items()}
    return Quality(scores["bleu"], scores["chrf"], scores["ter"], signatures)


def corpus_bleu(
    hypotheses: Sequence[str],
    reference: Sequence[str],
    settings: evaluation_settings.EvaluationConfig,
    cleaning: Sequence[str] = (),
) -> tuple[float, str]:
    """Returns corpus BLEU against one reference, in percent, and its signature.

    Raises:
        DataError: there is no line, or the numbers of lines differ.
    """
    check_lines(hypotheses, [reference])
    metric = make_metrics(settings, force=True)["bleu"]
    return float(metric.corpus_score(list(hypotheses), [list(reference)]).score), signature(metric, cleaning)


def signature(metric: base.Metric, cleaning: Sequence[str] = ()) -> str:
    """Returns the sacreBLEU signature of a metric that has scored; with the cleaning steps of the references, if any.

    Two figures that differ in the cleaning of their references would else have the same signature.
    """
    content = metric.get_signature()
    if cleaning:
        content.update("references", f"cleaned[{'+'.join(cleaning)}]")
    return str(content.format())


def check_lines(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Checks that translations can be compared with references, line by line.

    Raises:
        DataError: there is no line, the numbers of lines differ, or no reference is given.
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
    if not hypotheses:
        raise errors.DataError("translations and references have no line, so there is nothing to compare; check them")


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
