"""Writing systems without spaces between words."""

import pytest

from core.data.text import scripts


@pytest.mark.parametrize(
    ("lines", "script"),
    [
        (["我的朋友看见房子。", "猫吃茶。"], "Chinese"),
        (["私の友達は家を見る。"], "Japanese"),
        (["ฉันไปโรงเรียนทุกวัน กับเพื่อนของฉัน"], "Thai"),  # spaces divide phrases
        (["ខ្ញុំទៅសាលារៀនរាល់ថ្ងៃ"], "Khmer"),
        (["", "我的朋友看见 Python 程序。"], "Chinese"),
    ],
)
def test_text_without_spaces_is_recognized(lines: list[str], script: str) -> None:
    assert scripts.without_spaces(lines) == script


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["", "  "],
        ["123 456 ..."],
        ["the cat sat", "он пришёл домой", "나는 학교에 간다"],
        ["the sign said 出口 in red letters"],
        ["我 的 朋友 看见 房子 。"],
        ["ฉัน ไป โรงเรียน ทุกวัน"],
    ],
)
def test_text_with_spaces_between_words_is_not(lines: list[str]) -> None:
    assert scripts.without_spaces(lines) is None
