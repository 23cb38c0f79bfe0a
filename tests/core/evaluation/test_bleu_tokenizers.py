"""Fit of BLEU's tokenizers to the references."""

import pytest

from core.config import evaluation_settings
from core.evaluation import bleu_tokenizers, quality

CHINESE = ["我的朋友看见房子。", "猫吃茶。"]
JAPANESE = ["私の友達は家を見る。", "猫はお茶を飲む。"]
THAI = ["ฉันไปโรงเรียนทุกวันกับเพื่อน"]


def _settings(tokenize: str) -> evaluation_settings.EvaluationConfig:
    return evaluation_settings.EvaluationConfig.model_validate({"tokenize": tokenize})


@pytest.mark.parametrize(
    ("lines", "tokenize", "use"),
    [
        (CHINESE, "13a", "zh"),
        (CHINESE, "intl", "zh"),
        (JAPANESE, "13a", "ja-mecab"),
        (THAI, "13a", "char"),
        (THAI, "zh", "char"),
    ],
)
def test_a_tokenizer_that_does_not_split_the_text_is_named_with_one_that_does(
    lines: list[str], tokenize: str, use: str
) -> None:
    sentence = bleu_tokenizers.mismatch(lines, _settings(tokenize))
    assert sentence is not None
    assert sentence.startswith(f"evaluation.tokenize: {tokenize} ")
    assert sentence.endswith(f"use {use}")


@pytest.mark.parametrize(
    ("lines", "tokenize"),
    [
        (CHINESE, "zh"),
        (CHINESE, "char"),
        (["我 的 朋友 看见 房子 。"], "13a"),  # segmented
        (["the cat sat on the mat"], "13a"),
        (["나는 오늘 학교에 간다 ."], "13a"),
        ([], "13a"),
    ],
)
def test_a_tokenizer_that_splits_the_text_is_not_warned_about(lines: list[str], tokenize: str) -> None:
    assert bleu_tokenizers.mismatch(lines, _settings(tokenize)) is None


@pytest.mark.parametrize(("lines", "is_split"), [(THAI, False), (CHINESE, True), (JAPANESE, True), (["the cat"], True)])
def test_ter_is_warned_about_where_sacrebleu_splits_no_words(lines: list[str], is_split: bool) -> None:
    sentence = bleu_tokenizers.ter_mismatch(lines)
    assert (sentence is None) == is_split
    # Of two equal lines but for one character: an edit of a whole line costs all.
    worse = [lines[0][:-1] + "!", *lines[1:]]
    assert (quality.corpus(worse, [lines], _settings("char")).ter < 100 * len(lines[0]) / 2) or not is_split


def test_bleu_of_lines_shorter_than_its_ngrams_is_0_and_said_to_be() -> None:
    lines = ["yes", "no", "thank you", "maybe later"]
    assert quality.corpus(lines, [lines]).bleu == 0
    sentence = bleu_tokenizers.mismatch(lines, _settings("13a"))
    assert sentence is not None
    assert "no reference has 4 words by 13a" in sentence
    assert bleu_tokenizers.mismatch([*lines, "see you later then"], _settings("13a")) is None
