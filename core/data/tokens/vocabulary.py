"""Vocabulary of characters or words: unit counts, minimum frequency, order of entries, reserved tokens.

Ids are assigned in this order: reserved tokens, symbols that the user adds, then units from the most frequent to the
rarest. Units are characters, or the words between single spaces.

Source: Zhang et al., Dive into Deep Learning (2021), section 8.2 "Text Preprocessing".
"""

import collections
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

RESERVED = ("<unk>", "<pad>", "<bos>", "<eos>")
"""Reserved tokens, in the order of their ids; a vocabulary has those that it needs."""
UNK_ID = RESERVED.index("<unk>")


def reserved_for(kind: str, line_end: str = "eos") -> tuple[str, ...]:
    """Returns the reserved tokens that a corpus of this kind (`text` or `pairs`) needs."""
    if kind == "pairs":
        return RESERVED
    # A stream has no padding, and its lanes begin anywhere: <pad> and <bos> would be rows that are never trained.
    return ("<unk>", "<eos>") if line_end == "eos" else ("<unk>",)


def split_units(kind: str, line: str, symbols: Sequence[str] = ()) -> list[str]:
    """Splits a cleaned line into the units of a `char` or `word` vocabulary; each symbol is a unit of its own.

    Words are separated by single spaces: a doubled space inside a line makes an empty word, so that `decode` can return
    it; spaces at the ends of a line make none.
    """
    assert kind in ("char", "word"), kind
    if symbols:
        # With a group in the pattern, every second piece is a symbol.
        # Pieces are split like whole lines: spaces around a symbol make no empty words.
        pieces = re.split(f"({'|'.join(map(re.escape, symbols))})", line)
        units = (split_units(kind, text) if index % 2 == 0 else [text] for index, text in enumerate(pieces))
        return list(itertools.chain.from_iterable(units))
    if kind == "char":
        return list(line)
    # Only spaces: a no-break space is part of a word, unless a cleaning step has replaced it.
    stripped = line.strip(" ")
    return stripped.split(" ") if stripped else []


@dataclass
class Counts:
    """Number of occurrences of each unit; units are in the order of their first occurrence."""

    by_unit: collections.Counter[str] = field(default_factory=collections.Counter)

    def add(self, units: Iterable[str]) -> None:
        """Counts the units of one more line."""
        self.by_unit.update(units)

    def merge(self, later: "Counts") -> None:
        """Adds the counts of a part of the corpus that follows all text counted here."""
        # Counter.update keeps the order of existing units and appends new ones: the order of the whole corpus.
        self.by_unit.update(later.by_unit)


def build(
    counts: Counts, min_freq: int, max_size: int | None, reserved: Sequence[str], symbols: Sequence[str] = ()
) -> list[str]:
    """Returns the entries of a vocabulary in the order of their ids; units of equal frequency in first-seen order.

    A unit that equals a reserved token or symbol has no entry of its own. `max_size` includes both.
    """
    added = (*reserved, *symbols)
    frequent = [(unit, count) for unit, count in counts.by_unit.items() if count >= min_freq and unit not in added]
    frequent.sort(key=lambda entry: entry[1], reverse=True)  # stable, so ties keep their order
    return [*added, *(unit for unit, _ in frequent)][:max_size]
