"""Differences of two plans, for messages: which setting had which value, and has which one now."""

import json
from collections.abc import Iterator

_SHOWN = 5


def describe(old: object, new: object) -> str:
    """Returns the first differences of two JSON documents, and the number of the others."""
    differences = list(_differences(old, new, ""))
    shown = "; ".join(differences[:_SHOWN]) or "another plan"
    more = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
    return f"{shown}{more}"


def _differences(old: object, new: object, name: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}" if name else str(key))
    elif old != new:
        yield f"{name}: was {_short(old)}, now {_short(new)}"


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
