"""Improvement of translations over a baseline, for short and long sentences apart.

Systems with the same corpus score may differ in where they are good: a system without attention is as good as others at
short sentences, and loses at long ones.

Source: Bahdanau, Cho and Bengio 2015, Neural Machine Translation by Jointly Learning to Align and Translate, section
5.2, for scores by length; Koehn 2004, Statistical Significance Tests for Machine Translation Evaluation, for the test.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from core.config import evaluation_settings
from core.evaluation import error_analysis, quality, significance

METRICS = ("bleu", "chrf")
MIN_LINES = 50
"""Fewest lines of a test: resamples of a handful of lines say nothing of other lines."""


class Change(NamedTuple):
    """Quality of a system in lines of some lengths; dictionaries are by metric: bleu, chrf.

    Attributes:
        scores: in percent, of these lines as a corpus.
        changes: differences to the baseline; empty for the baseline.
        p_values: probabilities of a difference at least as large by chance; empty where there is no test.
    """

    scores: dict[str, float]
    changes: dict[str, float]
    p_values: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Returns scores, differences, probabilities, and which of them are significant."""
        return {
            **self.scores,
            "changes": self.changes,
            "p_values": self.p_values,
            "significant": {name: value < significance.LEVEL for name, value in self.p_values.items()},
        }


class Bucket(NamedTuple):
    """Lines whose first reference has from `shortest` to `longest` words (None: no upper limit), and all systems."""

    shortest: int
    longest: int | None
    lines: int
    systems: list[Change]

    def to_json(self) -> dict[str, Any]:
        """Returns the bucket as in a report; `systems` are in their order, the baseline first."""
        return {**self._asdict(), "systems": [system.to_json() for system in self.systems]}


def by_length(
    systems: Sequence[Sequence[str]],
    references: Sequence[Sequence[str]],
    settings: evaluation_settings.EvaluationConfig = quality.DEFAULTS,
    where: str = "--significance",
) -> list[Bucket]:
    """Compares systems with the first one, the baseline, by length of the first reference, shortest first.

    Differences in buckets of `MIN_LINES` or more are tested by paired bootstrap resampling.

    Args:
        systems: translations of the same lines.
        references: one sequence of lines for each reference translation.
        settings: tokenizer and case.
        where: option that error messages name.

    Raises:
        DataError: there is no line, the numbers of lines differ, or there are more lines than memory is meant for.
    """
    for lines in systems:
        quality.check_lines(lines, references)
    buckets = []
    for lengths in error_analysis.rows_by_length(references[0], settings):
        own_systems = [[lines[row] for row in lengths.rows] for lines in systems]
        own_references = [[reference[row] for row in lengths.rows] for reference in references]
        scores: list[dict[str, float]]
        p_values: Sequence[Mapping[str, float]] = [{} for _ in systems]
        if len(lengths.rows) >= MIN_LINES and len(systems) > 1:
            compared = significance.compare(own_systems, own_references, "bootstrap", settings, where, METRICS)
            scores = [system.scores for system in compared.systems]
            p_values = [system.p_values for system in compared.systems]
        else:
            metrics = quality.make_metrics(settings)
            scores = [
                {name: float(metrics[name].corpus_score(lines, own_references).score) for name in METRICS}
                for lines in own_systems
            ]
        changes = [{}, *({name: own[name] - scores[0][name] for name in METRICS} for own in scores[1:])]
        changed = [Change(*parts) for parts in zip(scores, changes, map(dict, p_values), strict=True)]
        buckets.append(Bucket(lengths.shortest, lengths.longest, len(lengths.rows), changed))
    return buckets
