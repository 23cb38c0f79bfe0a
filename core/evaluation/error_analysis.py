"""Error analysis of translations: quality by line length, best and worst lines, omitted, added, swapped words."""

import bisect
import collections
import heapq
import itertools
import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sacrebleu.metrics import base

from core.config import evaluation_settings
from core.evaluation import bleu_tokenizers, quality

NUM_EXTREMES = 5
_LONGEST = (5, 10, 15, 20, 30, 50)  # longest line of each bucket but the last, in words


class Lengths(NamedTuple):
    """Rows whose length is from `shortest` to `longest` words (None: no upper limit)."""

    shortest: int
    longest: int | None
    rows: list[int]


class Bucket(NamedTuple):
    """Quality of the lines whose first reference has from `shortest` to `longest` words (None: no upper limit)."""

    shortest: int
    longest: int | None
    lines: int
    bleu: float
    chrf: float


class Faults(NamedTuple):
    """Word errors of a corpus, counted line by line against the first reference.

    Attributes:
        words: words in the translations.
        reference_words: words in the references.
        omitted: words missing from a translation, or occurring less often than in its reference.
        added: words missing from a reference, or occurring less often than in its translation.
        repeated: added words that occur earlier in the same translation.
        pairs: pairs of words that occur exactly once in both the translation and the reference.
        swapped: pairs whose order differs.
    """

    words: int
    reference_words: int
    omitted: int
    added: int
    repeated: int
    pairs: int
    swapped: int

    def to_json(self) -> dict[str, Any]:
        """Returns the counts, and each of them as a share of the words or pairs that it is counted among."""
        shares = {
            "omitted_share": self.omitted / max(1, self.reference_words),
            "added_share": self.added / max(1, self.words),
            "repeated_share": self.repeated / max(1, self.words),
            "swapped_share": self.swapped / max(1, self.pairs),
        }
        return {**self._asdict(), **shares}


class Analysis:
    """Error analysis of translations that come piece by piece; memory does not grow with their number.

    Words are those that BLEU counts.

    Args:
        metrics: the metrics of the counts that come with the lines.
        settings: tokenizer and case.
        num_extremes: number of lines that are kept of the best, and of the worst.
    """

    def __init__(
        self,
        metrics: Mapping[str, base.Metric],
        settings: evaluation_settings.EvaluationConfig = quality.DEFAULTS,
        num_extremes: int = NUM_EXTREMES,
    ) -> None:
        self.num_lines = 0
        self._metrics = metrics
        self._split = bleu_tokenizers.splitter(settings)
        self._buckets: dict[int, quality.Totals] = {}
        self._faults = [0] * len(Faults._fields)
        self._num_extremes = num_extremes
        self._best: list[_Scored] = []
        self._worst: list[_Scored] = []

    def add(self, hypotheses: Sequence[str], reference: Sequence[str], counts: Sequence[quality.Counts]) -> None:
        """Adds lines with their first reference and their counts (`quality.count`)."""
        scored = []
        for number, (line, expected, own) in enumerate(
            zip(hypotheses, reference, counts, strict=True), start=self.num_lines
        ):
            words, expected_words = self._split(line), self._split(expected)
            self._buckets.setdefault(_bucket(len(expected_words)), quality.Totals(self._metrics)).add(own)
            # Counts add up over lines, shares do not: they are computed from the totals.
            self._faults = list(map(operator.add, self._faults, _of_line(words, expected_words)))
            alone = quality.Totals(self._metrics)
            alone.add({"chrf": own["chrf"]})
            scored.append(_Scored(number, alone.score("chrf"), len(expected)))
        self.num_lines += len(scored)
        # Stable: of lines that are equal in both, the first ones stay.
        self._best = heapq.nsmallest(
            self._num_extremes, [*self._best, *scored], key=lambda line: (-line.chrf, -line.reference_length)
        )
        self._worst = heapq.nsmallest(
            self._num_extremes, [*self._worst, *scored], key=lambda line: (line.chrf, -line.reference_length)
        )

    def by_length(self) -> list[Bucket]:
        """Returns BLEU and chrF by length of the first reference, shortest first; empty buckets are omitted.

        Source: Bahdanau et al. (2015), "Neural Machine Translation by Jointly Learning to Align and Translate", figure
        2, which plots BLEU over sentence length.
        """
        return [
            # Of the bucket as a corpus: a mean of sentence scores would not be comparable with the corpus BLEU.
            Bucket(*_limits(index), totals.num_lines, totals.score("bleu"), totals.score("chrf"))
            for index, totals in sorted(self._buckets.items())
        ]

    def faults(self) -> Faults:
        """Returns the numbers of omitted, added, repeated and swapped words."""
        return Faults(*self._faults)

    def extremes(self) -> dict[str, list[dict[str, Any]]]:
        """Returns the `best` and the `worst` translations, each its number and its sentence chrF, the extreme first.

        Of equal ones the longest references come first, which say more. At most half of the lines are either.
        """
        count = min(self._num_extremes, self.num_lines // 2)
        return {
            name: [{"line": line.number, "chrf": line.chrf} for line in lines[:count]]
            for name, lines in (("best", self._best), ("worst", self._worst))
        }


class _Scored(NamedTuple):
    number: int
    chrf: float
    reference_length: int


def rows_by_length(reference: Sequence[str], settings: evaluation_settings.EvaluationConfig) -> list[Lengths]:
    """Returns the rows of a reference by their number of words, those that BLEU counts; no bucket is empty."""
    split = bleu_tokenizers.splitter(settings)
    rows: dict[int, list[int]] = collections.defaultdict(list)
    for row, line in enumerate(reference):
        rows[_bucket(len(split(line)))].append(row)
    return [Lengths(*_limits(index), members) for index, members in sorted(rows.items())]


def _bucket(num_words: int) -> int:
    # bisect_left: a line of exactly 10 words belongs to the bucket that ends at 10.
    return bisect.bisect_left(_LONGEST, num_words)


def _limits(index: int) -> tuple[int, int | None]:
    """Returns the shortest and the longest length of a bucket."""
    return _LONGEST[index - 1] + 1 if index else 0, _LONGEST[index] if index < len(_LONGEST) else None


def _of_line(written: Sequence[str], expected: Sequence[str]) -> Faults:
    counts, expected_counts = collections.Counter(written), collections.Counter(expected)
    added = counts - expected_counts
    # Words that occur once on both sides can be matched without an alignment.
    once = [word for word in expected if counts[word] == expected_counts[word] == 1]
    position = {word: index for index, word in enumerate(written)}
    # In the order of the reference, so a pair is swapped if the translation has its second word first.
    pairs = list(itertools.combinations(once, 2))
    return Faults(
        words=len(written),
        reference_words=len(expected),
        # Counter subtraction keeps positive differences alone.
        omitted=(expected_counts - counts).total(),
        added=added.total(),
        # The first occurrence of a word that is not in the reference at all is an error, but not a repetition.
        repeated=sum(min(count, counts[word] - 1) for word, count in added.items()),
        pairs=len(pairs),
        swapped=sum(position[first] > position[second] for first, second in pairs),
    )
