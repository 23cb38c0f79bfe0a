"""Writing systems without spaces between words: Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan.

Text in them that nobody has segmented gives a whole line, or a phrase, as one word wherever words are split at spaces.
"""

import itertools
import re
from collections.abc import Iterable
from typing import Literal

Script = Literal["Chinese", "Japanese", "Thai", "Lao", "Khmer", "Burmese", "Tibetan"]

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA = "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_OTHERS: dict[Script, str] = {
    "Thai": "\u0e00-\u0e7f",
    "Lao": "\u0e80-\u0eff",
    "Tibetan": "\u0f00-\u0fff",
    "Burmese": "\u1000-\u109f",
    "Khmer": "\u1780-\u17ff",
}
LETTERS = _HAN + _KANA + "".join(_OTHERS.values())
"""Characters of these writing systems, as the inside of a class of a regular expression."""

_LETTER = re.compile(f"[{LETTERS}]")
_ANY_LETTER = re.compile(r"[^\W\d_]")
_JAPANESE_SHARE = 0.1  # of kana, from which a text is Japanese; Chinese text quotes some
# Letters of a word in segmented text: 1.5 to 2 in Chinese and Japanese, 4 to 5 in Thai and the others.
_LONGEST_MEAN_WORD = {"Chinese": 2.5, "Japanese": 3.5}
_LONGEST_MEAN_WORD_OF_OTHERS = 9.0
_MOST_LINES = 1000


def without_spaces(lines: Iterable[str]) -> Script | None:
    """Returns the writing system of a text without spaces between words; None where words are divided by spaces.

    The first thousand lines that are not empty are looked at. Most of their letters must belong to one of the writing
    systems above, and the pieces between spaces must be longer than words are: text that was segmented has spaces.
    """
    text = "\n".join(itertools.islice(filter(str.strip, lines), _MOST_LINES))
    num_letters = len(_LETTER.findall(text))
    # Vowel signs of Thai and its kin are marks, not letters, so that the first count may be the larger one.
    if 2 * num_letters <= max(1, len(_ANY_LETTER.findall(text))):
        return None
    script = _most_frequent(text, num_letters)
    num_words = sum(_LETTER.search(word) is not None for word in text.split())
    longest_mean = _LONGEST_MEAN_WORD.get(script, _LONGEST_MEAN_WORD_OF_OTHERS)
    return script if num_letters > longest_mean * num_words else None


def _most_frequent(text: str, num_letters: int) -> Script:
    num_kana = len(re.findall(f"[{_KANA}]", text))
    if num_kana > _JAPANESE_SHARE * num_letters:
        return "Japanese"
    counts: dict[Script, int] = {script: len(re.findall(f"[{letters}]", text)) for script, letters in _OTHERS.items()}
    counts["Chinese"] = len(re.findall(f"[{_HAN}]", text))
    return max(counts, key=counts.__getitem__)
