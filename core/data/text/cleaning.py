"""Cleaning steps: what is done to a line before it is cut into units.

Every step is a function from text to text, has a name in `corpus.cleaning`, and knows nothing of the others.
The steps of a corpus travel with its tokenizer, so that inference cleans its input as training did.
"""

import itertools
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_ALL_SPACES = re.compile("[\u00a0\u1680\u2000-\u200b\u202f\u205f\u3000]")
_NOT_LETTERS = re.compile(r"[^A-Za-z]+")
_DIGITS = re.compile(r"\d+")
_UNSPACED_MARK = re.compile(r"[,.!?](?<=[^ \n].)")
_SPACE_RUN = re.compile(r"  +")


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _nfkc(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _controls(text: str) -> str:
    """Controls of Unicode (category Cc) other than the tab become spaces; a line stays one line."""
    return _CONTROLS.sub(" ", text)


def _spaces(text: str) -> str:
    """U+00A0 and U+202F become spaces.

    These two and no others: the documents' vocabularies of fra-eng hold words with U+2009 and U+200B in them.

    Source: document 003 section 2.9.6.
    """
    return text.replace("\u00a0", " ").replace("\u202f", " ")


def _all_spaces(text: str) -> str:
    """Every space of Unicode (category Zs) and the zero-width U+200B become spaces."""
    return _ALL_SPACES.sub(" ", text)


def _lower(text: str) -> str:
    return text.lower()


def _letters(text: str) -> str:
    """Whatever is not a letter of A–Z becomes a space, a run of them one; none is left at the ends.

    Source: document 000 section 8.2.1.
    """
    return _NOT_LETTERS.sub(" ", text).strip(" ")


def _digits(text: str) -> str:
    """A run of decimal digits, of any script, becomes one `0`: `3.14` is then `0.0`."""
    return _DIGITS.sub("0", text)


def _punctuation(text: str) -> str:
    """A space is put before each of `, . ! ?` that has none and does not begin the text.

    Source: document 003 section 2.9.6.
    """
    return _UNSPACED_MARK.sub(lambda mark: " " + mark[0], text)


def _strip(text: str) -> str:
    """No space is left at the ends, and one alone between words."""
    return _SPACE_RUN.sub(" ", text.strip(" "))


STEPS: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {
        "nfc": _nfc,
        "nfkc": _nfkc,
        "controls": _controls,
        "spaces": _spaces,
        "all_spaces": _all_spaces,
        "lower": _lower,
        "letters": _letters,
        "digits": _digits,
        "punctuation": _punctuation,
        "strip": _strip,
    }
)

_JOINABLE = frozenset({"nfc", "nfkc", "spaces", "all_spaces", "lower", "digits", "punctuation"})
"""Steps that may be applied to many lines at once: they neither take nor make a line feed, nor look past one."""


def clean_lines(lines: Sequence[str], steps: Sequence[str]) -> list[str]:
    """Cleans many lines, as `clean` would one by one, with a tenth of the calls."""
    if "\n" in "".join(lines):  # not from a file of lines; a column of a table may hold such text
        return [clean(line, steps) for line in lines]
    cleaned = list(lines)
    for joinable, some in itertools.groupby(steps, _JOINABLE.__contains__):
        if joinable:
            cleaned = clean("\n".join(cleaned), list(some)).split("\n") if cleaned else []
        else:
            together = list(some)
            cleaned = [clean(line, together) for line in cleaned]
    return cleaned


def clean(text: str, steps: Sequence[str]) -> str:
    """Applies the named steps in their order."""
    for step in steps:
        text = STEPS[step](text)
    return text
