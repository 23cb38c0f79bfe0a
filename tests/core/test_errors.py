"""Laws of error messages: what is hidden in them, and in how much time."""

import random
import re
import time

import pytest

from core import errors

# By backtracking, which takes cubic time. From the slashes, or the beginning of a word, to its last `@`.
REFERENCE = re.compile(r"""(?<=//)\S*:\S*@|[^\s=/'"]*:(?!//)\S*@""")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://me:secret@host/path is missing", "s3://…@host/path is missing"),
        ("--input=me:p@ss@host", "--input=…@host"),
        ("url='https://a:b@c' and https://d:e@f", "url='https://…@c' and https://…@f"),
        ("abfs://container@account/x", "abfs://container@account/x"),
        ("a line: me@here", "a line: me@here"),
    ],
)
def test_passwords_are_hidden(text: str, shown: str) -> None:
    assert errors.without_credentials(text) == shown
    assert str(errors.UsageError(text)) == shown


def test_what_is_hidden_is_what_the_regular_expression_finds() -> None:
    chance = random.Random(1)
    for _ in range(20_000):
        text = "".join(chance.choices("::@@//='\" ab\n", k=chance.randrange(14)))
        assert errors.without_credentials(text) == REFERENCE.sub("…@", text), repr(text)


def test_a_message_is_one_line() -> None:
    assert str(errors.DataError("a  \r\n\n  b \t\n c\x00\n")) == "a b c\\x00"


@pytest.mark.parametrize("unit", [":", ":@", "a:", "//:", "@", "='", " ", "\n ", " \t", "ÿ\udcff"])
def test_long_text_takes_little_time(unit: str) -> None:
    text = unit * (100_000 // len(unit)) + "x\0"
    started_s = time.process_time()
    errors.UsageError(text)
    assert time.process_time() - started_s < 1
