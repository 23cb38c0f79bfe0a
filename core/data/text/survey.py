"""Survey of a text: the lengths, duplicates and irregularities by which settings for a new corpus are chosen."""

import collections
import dataclasses
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from core.data.text import corpus, scripts

MAX_LINES = 200_000
"""Lines that are examined, from the beginning; of a longer text the figures are those of a sample."""
RATIO = 3.0
"""A pair whose longer side has more words than this times the shorter one is unequal."""
UNEQUAL_WORDS = 10  # of short lines the ratio says little
_EXAMPLES = 2


class Lengths(NamedTuple):
    """Percentiles of the lengths of lines."""

    median: int
    p90: int
    p99: int
    longest: int


@dataclasses.dataclass(frozen=True)
class SideSurvey:
    """Figures of one side of the examined lines.

    Attributes:
        words: lengths in words, separated by spaces.
        characters: lengths in characters.
        num_words: all words.
        num_characters: all characters, without line ends.
        distinct_words: different words, by how often they occur.
        distinct_characters: different characters.
        empty: lines without a word.
        script: the writing system, if it has no spaces between words and the text has none either.
        odd: lines with control characters or with U+FFFD, left by a wrong conversion.
    """

    words: Lengths
    characters: Lengths
    num_words: int
    num_characters: int
    distinct_words: collections.Counter[str]
    distinct_characters: int
    empty: int
    script: scripts.Script | None
    odd: int


@dataclasses.dataclass(frozen=True)
class Survey:
    """Figures of a text or of pairs.

    Attributes:
        num_lines: lines of all files.
        num_examined: lines that the figures are about.
        sides: one, or source and target.
        bad_lines: lines that cannot be read, by reason.
        repairs: removed byte order marks and carriage returns.
        duplicates: lines or pairs that are equal to an earlier one.
        unequal: pairs with one side more than `RATIO` times as long as the other.
        same: pairs with equal sides.
        examples: the first lines of medium length.
    """

    num_lines: int
    num_examined: int
    sides: tuple[SideSurvey, ...]
    bad_lines: collections.Counter[str]
    repairs: collections.Counter[str]
    duplicates: int
    unequal: int
    same: int
    examples: tuple[tuple[str, ...], ...]

    @property
    def is_sample(self) -> bool:
        """True if the text has more lines than were examined."""
        return self.num_examined < self.num_lines

    @property
    def scale(self) -> float:
        """All lines by examined lines."""
        return self.num_lines / max(1, self.num_examined)


def survey(groups: Sequence[corpus.Group], columns: tuple[int, int] | None = None) -> Survey:
    """Surveys plain files: their number of lines, and figures of the first `MAX_LINES` lines.

    Args:
        groups: of one file, or of two that are aligned line by line.
        columns: of tab-separated pairs: those of source and target.

    Raises:
        DataError: the files of a group have different numbers of lines.
    """
    counts = [[[corpus.count_block(file, 0, file.size_bytes())] for file in group] for group in groups]
    parts = corpus.cut_by_blocks(groups, counts, columns)
    bad_lines: collections.Counter[str] = collections.Counter()
    repairs: collections.Counter[str] = collections.Counter()
    rows: list[corpus.Sides] = []
    for part in corpus.take(parts, MAX_LINES):
        for _, line in corpus.read_lines(part, repairs):
            if isinstance(line, corpus.BadLine):
                bad_lines[line.reason] += 1
            else:
                rows.append(line)
    num_sides = len(rows[0]) if rows else 1
    sides = tuple(_survey_side([row[index] for row in rows]) for index in range(num_sides))
    return Survey(
        num_lines=sum(part.num_lines for part in parts),
        num_examined=len(rows) + bad_lines.total(),
        sides=sides,
        bad_lines=bad_lines,
        repairs=repairs,
        duplicates=len(rows) - len(set(rows)),
        unequal=sum(_is_unequal(row) for row in rows),
        same=sum(row[0] == row[1] for row in rows) if num_sides == 2 else 0,
        examples=_examples(rows, sides),
    )


def _survey_side(lines: Sequence[str]) -> SideSurvey:
    words: collections.Counter[str] = collections.Counter()
    characters: set[str] = set()
    word_lengths, character_lengths, odd = [], [], 0
    for line in lines:
        split = line.split()
        words.update(split)
        characters.update(line)
        word_lengths.append(len(split))
        character_lengths.append(len(line))
        odd += any(char == "\ufffd" or (char != "\t" and unicodedata.category(char) == "Cc") for char in set(line))
    return SideSurvey(
        words=_lengths(word_lengths),
        characters=_lengths(character_lengths),
        num_words=sum(word_lengths),
        num_characters=sum(character_lengths),
        distinct_words=words,
        distinct_characters=len(characters),
        empty=word_lengths.count(0),
        script=scripts.without_spaces(lines),
        odd=odd,
    )


def _lengths(lengths: Sequence[int]) -> Lengths:
    if not lengths:
        return Lengths(0, 0, 0, 0)
    # The nearest rank, so that a percentile is the length of some line.
    ranks = np.percentile(lengths, (50, 90, 99, 100), method="inverted_cdf")
    return Lengths(*(int(value) for value in ranks))


def _is_unequal(row: corpus.Sides) -> bool:
    lengths = sorted(len(side.split()) for side in row)
    return lengths[-1] >= UNEQUAL_WORDS and lengths[-1] > RATIO * lengths[0]


def _examples(rows: Sequence[corpus.Sides], sides: Sequence[SideSurvey]) -> tuple[tuple[str, ...], ...]:
    """Returns the first rows whose first side is of usual length, between the median and the 90th percentile."""
    words = sides[0].words if sides else Lengths(0, 0, 0, 0)
    chosen = (row for row in rows if max(1, words.median) <= len(row[0].split()) <= words.p90)
    return tuple(row for row, _ in zip(chosen, range(_EXAMPLES), strict=False))
