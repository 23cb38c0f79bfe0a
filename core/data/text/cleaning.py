"""Text normalization: cleaning steps that are applied to a line before tokenization.

Each step is an independent function from text to text; the setting `corpus.cleaning` lists the names of those to
apply, in order. The list is stored with the tokenizer, so that inference cleans its input exactly as training did.
"""

import itertools
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

# All of category Cc but the tab (0x09): C0, DEL and C1, U+0085 (next line) among them.
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_ALL_SPACES = re.compile("[\u00a0\u1680\u2000-\u200b\u202f\u205f\u3000]")
_NOT_LETTERS = re.compile(r"[^A-Za-z]+")
_DIGITS = re.compile(r"\d+")
# The look-behind includes the mark itself, so that the search starts at marks. A line feed counts as the beginning.
_UNSPACED_MARK = re.compile(r"[,.!?](?<=[^ \n].)")
_SPACE_RUN = re.compile(r"  +")


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _nfkc(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _controls(text: str) -> str:
    """Replaces Unicode control characters (category Cc) except the tab by spaces, so that a line stays one line."""
    return _CONTROLS.sub(" ", text)


def _spaces(text: str) -> str:
    """Replaces the no-break spaces U+00A0 and U+202F by spaces.

    Only these two, as in D2L: its fra-eng vocabularies contain words with U+2009 and U+200B.

    Source: Zhang et al., Dive into Deep Learning (2021), section 9.5 "Machine Translation and the Dataset".
    """
    return text.replace("\u00a0", " ").replace("\u202f", " ")


def _all_spaces(text: str) -> str:
    """Replaces every Unicode space (category Zs) and the zero-width space U+200B by spaces."""
    return _ALL_SPACES.sub(" ", text)


def _lower(text: str) -> str:
    return text.lower()


def _letters(text: str) -> str:
    """Replaces each run of characters other than A–Z and a–z by one space, and strips spaces at both ends.

    Source: Zhang et al., Dive into Deep Learning (2021), section 8.2.1 "Reading the Dataset".
    """
    return _NOT_LETTERS.sub(" ", text).strip(" ")


def _digits(text: str) -> str:
    """Replaces each run of decimal digits, of any script, by one `0`: `3.14` becomes `0.0`."""
    return _DIGITS.sub("0", text)


def _punctuation(text: str) -> str:
    """Inserts a space before each of `, . ! ?` that has none, except at the beginning of the text.

    Source: Zhang et al., Dive into Deep Learning (2021), section 9.5 "Machine Translation and the Dataset".
    """
    return _UNSPACED_MARK.sub(lambda mark: " " + mark[0], text)


def _strip(text: str) -> str:
    """Strips spaces at both ends and merges runs of spaces into one."""
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

# Without `controls` and `letters`, which replace line feeds, and `strip`, which looks for the ends of a text.
_BATCHABLE = frozenset({"nfc", "nfkc", "spaces", "all_spaces", "lower", "digits", "punctuation"})
"""Steps that give the same result on many lines joined by line feeds: they neither add, remove nor look past one."""


def clean_lines(lines: Sequence[str], steps: Sequence[str]) -> list[str]:
    """Applies `clean` to many lines, with about a tenth of the function calls."""
    if "\n" in "".join(lines):  # impossible in lines of a file, but a column of a table may contain line feeds
        return [clean(line, steps) for line in lines]
    cleaned = list(lines)
    for is_batchable, group in itertools.groupby(steps, _BATCHABLE.__contains__):
        names = list(group)
        if is_batchable:
            cleaned = clean("\n".join(cleaned), names).split("\n") if cleaned else []
        else:
            cleaned = [clean(line, names) for line in cleaned]
    return cleaned


def clean(text: str, steps: Sequence[str]) -> str:
    """Applies the named steps, in order."""
    for step in steps:
        text = STEPS[step](text)
    return text
