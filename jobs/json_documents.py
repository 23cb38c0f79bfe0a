"""The JSON documents that jobs print and keep: numbers that JSON lacks are spelt out."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any


def encode(value: Any, one_line: bool = False) -> str:
    """Returns a document, ended by a line break."""
    return json.dumps(plain(value), ensure_ascii=False, allow_nan=False, indent=None if one_line else 2) + "\n"


def plain(value: Any) -> Any:
    """Returns the value with everything in it that JSON knows; infinities and nan become the words for them."""
    match value:
        case float() if not math.isfinite(value):
            return str(value)
        case None | bool() | int() | float() | str():
            return value
        case Mapping():
            return {str(name): plain(inner) for name, inner in value.items()}
        case list() | tuple():
            return [plain(inner) for inner in value]
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return plain({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    return str(value)
