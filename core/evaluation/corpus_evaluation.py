"""All figures of translations against their references, from lines that come piece by piece."""

import fractions
from collections.abc import Sequence

from core.config import evaluation_settings
from core.evaluation import error_analysis, quality


class CorpusEvaluation:
    """Corpus scores and error analysis of a system; memory does not grow with the number of lines.

    Each line is split and counted once, for the corpus, for its bucket of lengths and for itself.

    Attributes:
        analysis: the error analysis.

    Args:
        num_references: number of reference translations of a line.
        settings: tokenizer and case.
        d2l_bleu_k: longest n-grams of the BLEU of Dive into Deep Learning.
        cleaning: cleaning steps that the references have been through; the signatures name them.
    """

    def __init__(
        self,
        num_references: int,
        settings: evaluation_settings.EvaluationConfig,
        d2l_bleu_k: int,
        cleaning: Sequence[str] = (),
    ) -> None:
        self._metrics = quality.make_metrics(settings)
        self._totals = quality.Totals(self._metrics)
        self.analysis = error_analysis.Analysis(self._metrics, settings)
        self._cleaning = cleaning
        self._d2l_bleu_k = d2l_bleu_k
        # Exact, so that the mean depends neither on the order of the lines nor on the pieces.
        self._d2l_sums = [fractions.Fraction()] * num_references

    def add(self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Adds lines, with one sequence of lines for each reference translation.

        Raises:
            DataError: there is no line, or the numbers of lines differ.
        """
        counts = quality.count(self._metrics, hypotheses, references)
        for of_line in counts:
            self._totals.add(of_line)
        self.analysis.add(hypotheses, references[0], counts)
        for number, reference in enumerate(references):
            for pair in zip(hypotheses, reference, strict=True):
                self._d2l_sums[number] += fractions.Fraction(quality.d2l_bleu(*pair, self._d2l_bleu_k))

    def quality(self) -> quality.Quality:
        """Returns the corpus scores; there must be a line."""
        return self._totals.quality(self._cleaning)

    def d2l_bleu(self) -> list[float]:
        """Returns the mean `quality.d2l_bleu` over all lines, for each reference: it is defined for one."""
        return [float(total) / self._totals.num_lines for total in self._d2l_sums]
