"""Where translations go wrong: by the length of the line, and words left out, repeated or in another order."""

import bisect
import collections
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sacrebleu.metrics import bleu, chrf
from sacrebleu.tokenizers import tokenizer_13a

_LONGEST = (5, 10, 15, 20, 30, 50)
_tokenizer: Callable[[str], str] = tokenizer_13a.Tokenizer13a()  # type: ignore[no-untyped-call]


class Bucket(NamedTuple):
    """Quality of the lines whose (first) reference has from `shortest` to `longest` words; None: and more."""

    shortest: int
    longest: int | None
    lines: int
    bleu: float
    chrf: float


class Faults(NamedTuple):
    """What happens to the words of a corpus, against its first reference.

    Attributes:
        words: of the translations.
        reference_words: of the references.
        omitted: words of a reference that its translation has not, or not as often.
        added: words of a translation that its reference has not, or not as often.
        repeated: those of the added ones that the translation has already.
        pairs: pairs of words that both sides of a line have once each.
        swapped: those of them that stand in the other order.
    """

    words: int
    reference_words: int
    omitted: int
    added: int
    repeated: int
    pairs: int
    swapped: int

    def to_json(self) -> dict[str, Any]:
        """Returns the counts, and what they are divided by what they are counted in."""
        shares = {
            "omitted_share": self.omitted / max(1, self.reference_words),
            "added_share": self.added / max(1, self.words),
            "repeated_share": self.repeated / max(1, self.words),
            "swapped_share": self.swapped / max(1, self.pairs),
        }
        return {**self._asdict(), **shares}


def words(line: str) -> list[str]:
    """Cuts a line into words and signs as BLEU does."""
    return _tokenizer(line).split()


def by_length(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> list[Bucket]:
    """Computes BLEU and chrF of lines of like length, shortest first; lengths that no line has are left out.

    Source: document 003 section 2.13, which draws quality over the length of the sentence.
    """
    rows: dict[int, list[int]] = collections.defaultdict(list)
    for row, reference in enumerate(references[0]):
        rows[bisect.bisect_left(_LONGEST, len(words(reference)))].append(row)
    found = []
    for place, members in sorted(rows.items()):
        lines = [hypotheses[row] for row in members]
        against = [[reference[row] for row in members] for reference in references]
        found.append(
            Bucket(
                shortest=_LONGEST[place - 1] + 1 if place else 0,
                longest=_LONGEST[place] if place < len(_LONGEST) else None,
                lines=len(members),
                bleu=float(bleu.BLEU().corpus_score(lines, against).score),
                chrf=float(chrf.CHRF().corpus_score(lines, against).score),
            )
        )
    return found


def faults(hypotheses: Sequence[str], reference: Sequence[str]) -> Faults:
    """Counts words that are left out, added, repeated or swapped, line by line."""
    total = [0] * len(Faults._fields)
    for line, expected in zip(hypotheses, reference, strict=True):
        total = list(map(sum, zip(total, _of_line(words(line), words(expected)), strict=True)))
    return Faults(*total)


def _of_line(written: Sequence[str], expected: Sequence[str]) -> Faults:
    has, wants = collections.Counter(written), collections.Counter(expected)
    added = has - wants
    once = [word for word in expected if has[word] == wants[word] == 1]
    place = {word: number for number, word in enumerate(written)}
    pairs = list(itertools.combinations(once, 2))
    return Faults(
        words=len(written),
        reference_words=len(expected),
        omitted=(wants - has).total(),
        added=added.total(),
        # Where a word is not in the reference at all, its first occurrence is wrong, but no repetition.
        repeated=sum(min(count, has[word] - 1) for word, count in added.items()),
        pairs=len(pairs),
        swapped=sum(place[first] > place[second] for first, second in pairs),
    )
