"""Translation quality: BLEU, chrF and TER by sacreBLEU with their signatures, and the sentence BLEU of D2L."""

import collections
import math
import operator
from collections.abc import Mapping, Sequence
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


def make_metrics(settings: evaluation_settings.EvaluationConfig = DEFAULTS) -> dict[str, base.Metric]:
    """Returns the three metrics by name: bleu, chrf, ter.

    Where BLEU splits text without spaces, TER does so too, by the rules that sacreBLEU has for Asian languages.
    """
    is_asian = settings.tokenize in ("zh", "ja-mecab", "char")
    return {
        "bleu": bleu.BLEU(lowercase=settings.lowercase, tokenize=settings.tokenize, force=True),
        "chrf": chrf.CHRF(lowercase=settings.lowercase),
        "ter": ter.TER(normalized=is_asian, asian_support=is_asian),
    }


Counts = Mapping[str, Sequence[float]]
"""The counts of a line that its scores are computed from, such as matching n-grams, by metric."""


def count(
    metrics: Mapping[str, base.Metric], hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> list[Counts]:
    """Returns the counts of each line, by which a corpus is scored piece by piece (`Totals`).

    Raises:
        DataError: there is no line, the numbers of lines differ, or no reference is given.
    """
    check_lines(hypotheses, references)
    # sacreBLEU computes the score of a corpus from these counts, and has no public name for them.
    of_metrics = [metric._extract_corpus_statistics(hypotheses, references) for metric in metrics.values()]
    return [dict(zip(metrics, of_line, strict=True)) for of_line in zip(*of_metrics, strict=True)]


class Totals:
    """Counts added up over lines, and the corpus scores that follow from them.

    Args:
        metrics: the metrics by name, as of `make_metrics`.
    """

    def __init__(self, metrics: Mapping[str, base.Metric]) -> None:
        self.num_lines = 0
        self._metrics = metrics
        self._sums: dict[str, list[float]] = {}

    def add(self, counts: Counts) -> None:
        """Adds a line."""
        self.num_lines += 1
        for name, values in counts.items():
            before = self._sums.get(name)
            self._sums[name] = list(values) if before is None else list(map(operator.add, before, values))

    def score(self, name: str) -> float:
        """Returns the score of the lines by a metric, in percent; there must be one."""
        return float(self._metrics[name]._compute_score_from_stats(list(self._sums[name])).score)

    def quality(self, cleaning: Sequence[str] = ()) -> Quality:
        """Returns all scores; `cleaning` are the steps that the references have been through."""
        signatures = {name: signature(metric, cleaning) for name, metric in self._metrics.items()}
        return Quality(self.score("bleu"), self.score("chrf"), self.score("ter"), signatures)


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
    metrics = make_metrics(settings)
    totals = Totals(metrics)
    for counts in count(metrics, hypotheses, references):
        totals.add(counts)
    return totals.quality(cleaning)


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
    metric = make_metrics(settings)["bleu"]
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
    check_counts(len(hypotheses), list(map(len, references)))


def check_counts(num_hypotheses: int, nums_of_references: Sequence[int]) -> None:
    """Checks the number of translations, and of the lines of each reference, as `check_lines` does."""
    if not nums_of_references:
        raise errors.DataError("no references; name at least one")
    for number, num_lines in enumerate(nums_of_references, start=1):
        # sacreBLEU would score the shorter of the two, and say nothing.
        if num_lines != num_hypotheses:
            raise errors.DataError(
                f"reference {number}: {num_lines} lines for {num_hypotheses} translations; "
                "both must have one line for each source line"
            )
    if not num_hypotheses:
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


def _ngrams(words: Sequence[str], n: int) -> collections.Counter[tuple[str, ...]]:
    return collections.Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))
