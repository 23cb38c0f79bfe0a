"""Labels of the nodes of a Ray cluster, and selectors of nodes by them.

A selector maps keys to conditions: `A100` (that value), `!A100` (another, or no such label), `in(A100, H100)` or
`!in(A100, H100)`. A node matches if it fulfils all conditions; so Ray, too, reads them ("Use labels to control
scheduling", Ray's documentation), with the syntax of Kubernetes' labels.
"""

import re
from collections.abc import Mapping
from typing import Annotated

import pydantic

_NAME = r"[a-zA-Z0-9](?:[a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
_KEY = re.compile(rf"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]{{0,251}}[a-zA-Z0-9])?/)?{_NAME}")
_CONDITION = re.compile(rf"(!?)(?:({_NAME})|in\(({_NAME}(?:, ?{_NAME})*)\))")


def _check(selector: dict[str, str]) -> dict[str, str]:
    for key, condition in selector.items():
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is not the key of a label, such as ray.io/accelerator-type; correct it")
        if not _CONDITION.fullmatch(condition):
            raise ValueError(f"{key}: {condition!r} is not VALUE, !VALUE, in(A, B) or !in(A, B); correct it")
    return selector


LabelSelector = Annotated[dict[str, str], pydantic.AfterValidator(_check)]


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Returns whether a node with these labels fulfils all conditions of a selector."""
    return all(_fulfils(condition, labels.get(key)) for key, condition in selector.items())


def required_values(selector: Mapping[str, str]) -> dict[str, str]:
    """Returns the labels of which a selector names the one value."""
    return {key: value for key, value in selector.items() if re.fullmatch(_NAME, value)}


def _fulfils(condition: str, value: str | None) -> bool:
    parsed = _CONDITION.fullmatch(condition)
    assert parsed, f"{condition!r} was not checked"
    listed = {parsed[2]} if parsed[2] else {name.strip() for name in parsed[3].split(",")}
    return (value in listed) != bool(parsed[1])
