"""Tokenizers of BLEU: whether one is installed, and whether it fits the text that it is asked to split."""

import importlib.util
from collections.abc import Callable, Iterable

from sacrebleu.metrics import bleu

from core import errors
from core.config import evaluation_settings
from core.data.text import scripts

ORDER = 4  # longest n-grams of BLEU
_PACKAGES = {"ja-mecab": ("MeCab", "ipadic")}
# The tokenizers that split each writing system, the usual one first.
_FITTING: dict[scripts.Script, tuple[evaluation_settings.BleuTokenizer, ...]] = {
    "Chinese": ("zh", "char", "ja-mecab"),
    "Japanese": ("ja-mecab", "char", "zh"),
}
_FITTING_OTHERS: tuple[evaluation_settings.BleuTokenizer, ...] = ("char",)

SETTING = "evaluation.tokenize"


def check_installed(settings: evaluation_settings.EvaluationConfig, where: str = SETTING) -> None:
    """Checks that the packages of a tokenizer are installed.

    Raises:
        UsageError: they are not.
    """
    missing = [name for name in _PACKAGES.get(settings.tokenize, ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise errors.UsageError(
            f"{where}: {settings.tokenize} needs {', '.join(missing)}, which is not installed; "
            "pip install 'sacrebleu[ja]', or use char"
        )


def fitting(script: scripts.Script) -> evaluation_settings.BleuTokenizer:
    """Returns the usual tokenizer for a writing system without spaces, of those that are installed."""
    return next(
        tokenizer
        for tokenizer in _FITTING.get(script, _FITTING_OTHERS)
        if all(importlib.util.find_spec(name) for name in _PACKAGES.get(tokenizer, ()))
    )


def splitter(settings: evaluation_settings.EvaluationConfig) -> Callable[[str], list[str]]:
    """Returns the function that splits a line into the words that BLEU counts."""
    tokenizer = bleu.BLEU(tokenize=settings.tokenize).tokenizer
    if settings.lowercase:
        return lambda line: str(tokenizer(line.lower())).split()
    return lambda line: str(tokenizer(line)).split()


def mismatch(
    references: Iterable[str], settings: evaluation_settings.EvaluationConfig, where: str = SETTING
) -> str | None:
    """Returns a sentence if BLEU against these references says nothing about the translations; None if it does.

    Either a line without spaces counts as one word, or no reference is as long as the longest n-grams that BLEU
    multiplies: it is then 0 even for translations that equal their references. `references` may be read twice, up to
    the first long line.
    """
    script = scripts.without_spaces(references)
    if script is not None and (sentence := mismatch_of_script(script, settings, where)):
        return sentence
    split = splitter(settings)
    is_empty = True
    for line in references:
        is_empty = False
        if len(split(line)) >= ORDER:
            return None
    if is_empty:
        return None
    remedy = "read chrF instead" if settings.tokenize == "char" else "read chrF instead, or use char"
    return (
        f"{where}: no reference has {ORDER} words by {settings.tokenize}, so BLEU is 0 whatever the translations are; "
        f"{remedy}"
    )


def ter_mismatch(references: Iterable[str]) -> str | None:
    """Returns a sentence if TER against these references says nothing about the translations; None if it does.

    sacreBLEU has rules to split Chinese and Japanese for TER, and none for other writing systems without spaces.
    """
    script = scripts.without_spaces(references)
    if script is None or script in _FITTING:
        return None
    return f"TER: sacreBLEU does not split {script} text, so that a line counts as a word or two; read chrF instead"


def mismatch_of_script(
    script: scripts.Script, settings: evaluation_settings.EvaluationConfig, where: str = SETTING
) -> str | None:
    """Returns a sentence if a tokenizer does not split text in this writing system; None if it does."""
    fitting = _FITTING.get(script, _FITTING_OTHERS)
    if settings.tokenize in fitting:
        return None
    return (
        f"{where}: {settings.tokenize} splits words at spaces, which this {script} text does not have: a line counts "
        f"as a word or two, and BLEU is near 0 whatever the translations are; use {fitting[0]}"
    )
