"""Values as JSON can represent them, and back."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from core.storage import json_values


@pytest.mark.parametrize("value", [0.5, -3, 1e308, math.inf, -math.inf])
def test_a_number_is_written_as_valid_json_and_read_as_itself(value: float) -> None:
    text = json.dumps(json_values.number(value), allow_nan=False)
    assert json_values.parse_number(json.loads(text)) == value


def test_nan_is_written_as_a_word_and_read_as_nan() -> None:
    assert json_values.number(math.nan) == "nan"
    assert math.isnan(json_values.parse_number("nan") or 0)


@pytest.mark.parametrize("value", ["1e3", "Infinity", "3", None, [1]])
def test_what_was_not_written_as_a_number_is_none(value: object) -> None:
    assert json_values.parse_number(value) is None


def test_values_of_all_kinds_become_json() -> None:
    @dataclasses.dataclass
    class Row:
        text: str
        scores: tuple[float, ...]

    value: dict[Any, Any] = {
        1: Row("a", (0.5, math.inf)),
        "path": Path("/x"),
        "flags": [True, None, 2],
        "kind": Row,
    }
    plain = json_values.plain(value)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["1"] == {"text": "a", "scores": [0.5, "inf"]}
    assert plain["path"] == "/x"
    assert plain["flags"] == [True, None, 2]
    assert isinstance(plain["kind"], str)
