"""Characters that no text may hold: NUL, and halves of surrogate pairs, which UTF-8 cannot express.

Text that is decoded from the bytes of a file is checked on the way. This is for all other text: escapes of JSON,
arguments of the command line and strings of Python can hold such characters, and end a whole batch where a library
meets them.
"""


def problem_of(text: str) -> str | None:
    """Returns the reason for which a text cannot be used, as `corpus.BadLine` names it; None if it can."""
    if "\0" in text:
        return "control_char"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "invalid_utf8"
    return None
