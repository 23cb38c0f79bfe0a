"""JSON values: reading of stored documents, and numbers that JSON cannot represent, which are written as words.

JSON has no infinities and no NaN. They are written as the strings `inf`, `-inf` and `nan`, which `float` parses.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from core import errors


def parse(data: bytes | str, where: str, remedy: str = "restore or remove it") -> Any:
    """Returns a stored JSON document, all of whose numbers are finite; `where` names it in error messages.

    Raises:
        IntegrityError: it is not valid JSON.
    """
    try:
        return json.loads(data, parse_constant=_refuse_constant, parse_float=_finite)
    # Deeply nested brackets exceed the recursion limit of Python's reader.
    except (ValueError, RecursionError) as error:
        raise errors.IntegrityError(f"{where}: is not valid JSON ({error}); {remedy}") from error


def _refuse_constant(name: str) -> float:
    # Python's reader accepts NaN and Infinity, which JSON does not have.
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    # Python reads 1e400 as an infinity.
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is out of the range of numbers")
    return number


def number(value: float) -> float | str:
    """Returns a number as JSON can represent it: itself if it is finite, else the word for it."""
    return value if math.isfinite(value) else str(value)


def parse_number(value: Any) -> float | None:
    """Returns the number that `number` wrote; None for anything else."""
    # `float` alone would accept other texts as well, such as "1e3" or "Infinity".
    if isinstance(value, str) and value.removeprefix("-") in ("inf", "nan"):
        return float(value)
    return value if isinstance(value, int | float) else None


def plain(value: Any) -> Any:
    """Converts a value to types that JSON knows: mappings, dataclasses and sequences recursively, others by `str`."""
    match value:
        case float():
            return number(value)
        case None | bool() | int() | str():
            return value
        case Mapping():
            return {str(name): plain(inner) for name, inner in value.items()}
        case list() | tuple():
            return [plain(inner) for inner in value]
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return plain({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    return str(value)
