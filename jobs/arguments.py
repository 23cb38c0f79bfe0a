"""Arguments of calls from Python, checked as commands check theirs: settings and lines of text."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from core import errors
from core.data.text import characters, corpus

Line = tuple[str, ...] | corpus.BadLine  # the text of each side


def overrides(name: str, given: Mapping[str, Any]) -> list[str]:
    """Returns keywords as values of `--set`: JSON is YAML."""
    texts = []
    for key, value in given.items():
        try:
            texts.append(f"{name}.{key}={json.dumps(value, ensure_ascii=False)}")
        except (TypeError, ValueError):
            raise errors.UsageError(
                f"{name}.{key}: expected text, a number, true or false, a list, or names and values, not a "
                f"{type(value).__name__}; change it"
            ) from None
    return texts


def aligned(lines: Sequence[str], others: Sequence[str] | None, name: str, name_of_others: str) -> list[Line]:
    """Returns the lines, with those of a second list if there is one; a line that is bad on any side is a bad line."""
    sides = [_texts(lines, name)]
    if others is not None:
        sides.append(_texts(others, name_of_others))
        if len(sides[0]) != len(sides[1]):
            raise errors.UsageError(
                f"{name_of_others}: has {len(sides[1])} lines, but {name} has {len(sides[0])}; align them line by line"
            )
    lines_of_sides: list[Line] = []
    for texts in zip(*sides, strict=True):
        bad = next((text for text in texts if isinstance(text, corpus.BadLine)), None)
        lines_of_sides.append(tuple(text for text in texts if isinstance(text, str)) if bad is None else bad)
    return lines_of_sides


def _texts(lines: Sequence[str], name: str) -> list[str | corpus.BadLine]:
    if isinstance(lines, str):
        raise errors.UsageError(f"{name}: is a single text; give a list of texts")
    return [_checked(line, f"{name}[{index}]") for index, line in enumerate(lines)]


def _checked(line: object, where: str) -> str | corpus.BadLine:
    """Returns a line, or the reason for which a line of a file is bad, too."""
    if not isinstance(line, str):
        raise errors.UsageError(f"{where}: is a {type(line).__name__}, not text; convert it, or leave it out")
    problem = characters.problem_of(line)
    return line if problem is None else corpus.BadLine(problem, where)


def reason_of(bad: corpus.BadLine) -> str:
    """Returns the reason for which a line failed, as in the row of a command."""
    return f"{bad.reason}: {bad.where}"
