"""Error analysis of translations: quality by line length, best and worst lines, omitted, added, swapped words."""

import bisect
import collections
import heapq
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

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


def by_length(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    settings: evaluation_settings.EvaluationConfig = quality.DEFAULTS,
) -> list[Bucket]:
    """Computes BLEU and chrF by length of the first reference, shortest first; empty buckets are omitted.

    Words are those that BLEU counts.

    Source: Bahdanau et al. (2015), "Neural Machine Translation by Jointly Learning to Align and Translate", figure 2,
    which plots BLEU over sentence length.
    """
    metrics = quality.make_metrics(settings, force=True)
    buckets = []
    for lengths in rows_by_length(references[0], settings):
        lines = [hypotheses[row] for row in lengths.rows]
        against = [[reference[row] for row in lengths.rows] for reference in references]
        buckets.append(
            Bucket(
                shortest=lengths.shortest,
                longest=lengths.longest,
                lines=len(lengths.rows),
                # Of the bucket as a corpus: a mean of sentence scores would not be comparable with the corpus BLEU.
                bleu=float(metrics["bleu"].corpus_score(lines, against).score),
                chrf=float(metrics["chrf"].corpus_score(lines, against).score),
            )
        )
    return buckets


def rows_by_length(reference: Sequence[str], settings: evaluation_settings.EvaluationConfig) -> list[Lengths]:
    """Returns the rows of a reference by their number of words, those that BLEU counts; no bucket is empty."""
    split = bleu_tokenizers.splitter(settings)
    rows: dict[int, list[int]] = collections.defaultdict(list)
    for row, line in enumerate(reference):
        # bisect_left: a line of exactly 10 words belongs to the bucket that ends at 10.
        rows[bisect.bisect_left(_LONGEST, len(split(line)))].append(row)
    return [
        Lengths(_LONGEST[index - 1] + 1 if index else 0, _LONGEST[index] if index < len(_LONGEST) else None, members)
        for index, members in sorted(rows.items())
    ]


def faults(
    hypotheses: Sequence[str],
    reference: Sequence[str],
    settings: evaluation_settings.EvaluationConfig = quality.DEFAULTS,
) -> Faults:
    """Counts omitted, added, repeated and swapped words, line by line; words are those that BLEU counts."""
    split = bleu_tokenizers.splitter(settings)
    total = [0] * len(Faults._fields)
    for line, expected in zip(hypotheses, reference, strict=True):
        # Counts add up over lines, shares do not: they are computed from the totals.
        total = list(map(sum, zip(total, _of_line(split(line), split(expected)), strict=True)))
    return Faults(*total)


def extremes(
    hypotheses: Sequence[str],
    reference: Sequence[str],
    settings: evaluation_settings.EvaluationConfig = quality.DEFAULTS,
    count: int = NUM_EXTREMES,
) -> dict[str, list[dict[str, Any]]]:
    """Returns the `best` and the `worst` translations, each its line number and its sentence chrF, the extreme first.

    Of equal ones the longest references come first, which say more. At most half of the lines are either.
    """
    metric = quality.make_metrics(settings, force=True)["chrf"]
    chrf = [
        float(metric.sentence_score(line, [expected]).score)
        for line, expected in zip(hypotheses, reference, strict=True)
    ]
    numbers = range(len(chrf))
    count = min(count, len(chrf) // 2)
    best = heapq.nsmallest(count, numbers, key=lambda number: (-chrf[number], -len(reference[number])))
    worst = heapq.nsmallest(count, numbers, key=lambda number: (chrf[number], -len(reference[number])))
    return {
        name: [{"line": number, "chrf": chrf[number]} for number in chosen]
        for name, chosen in (("best", best), ("worst", worst))
    }


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
