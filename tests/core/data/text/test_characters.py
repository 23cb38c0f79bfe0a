"""Text that did not come from the bytes of a file."""

import pytest

from core.data.text import characters


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("plain é 😀 \u2028", None),
        ("", None),
        ("a nul \0 here", "control_char"),
        ("half a pair \ud83d", "invalid_utf8"),
        (b"ab\xff".decode(errors="surrogateescape"), "invalid_utf8"),
    ],
)
def test_text_that_no_file_may_hold_has_the_reason_of_a_bad_line(text: str, problem: str | None) -> None:
    assert characters.problem_of(text) == problem
