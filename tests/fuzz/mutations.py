"""Mutations of inputs that know their format: random bytes seldom get past the parser of JSON."""

import json
import random
from collections.abc import Callable
from typing import Any

Mutator = Callable[[bytes, random.Random], bytes]
_HUGE = "1e400 is too large for a double"  # which JSON may hold as a number, and Python reads as an infinity
_DEEP = "two thousand brackets"
_ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 10**30, 0.5, -0.5, 1e308, _HUGE, _DEEP, [], {}, [[]], [None], [1, 2]),
    *("", "x", "../x", "/x", "a\nb", "\ud800", "\0", "é" * 300, "inf", "nan", "1", {"": 0}, {"name": "x"}, [{}], [""]),
)


def mutate_bytes(data: bytes, chance: random.Random) -> bytes:
    """Flips, cuts, repeats or inserts a few bytes."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        at = chance.randrange(len(changed) + 1)
        to = min(len(changed), at + chance.choice((1, 2, 4, 8, 64)))
        match chance.randrange(5):
            case 0 if at < len(changed):
                changed[at] ^= 1 << chance.randrange(8)
            case 1:
                del changed[at:to]
            case 2:
                changed[at:at] = changed[at:to] * chance.choice((1, 2, 50))
            case 3:
                changed[at:to] = chance.choice((b"\0", b"\xff", b"\xff" * 8, b"\n", b"\r", b'"', b"\xed\xa0\x80", b"9"))
            case 4:
                del changed[at:]
    return bytes(changed)


def mutate_json(data: bytes, chance: random.Random) -> bytes:
    """Changes a value or a name somewhere in a JSON document; other data as bytes."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return mutate_bytes(data, chance)
    for _ in range(chance.choice((1, 1, 1, 2))):
        content = _mutate_value(content, chance)
    return _encode(content)


def mutate_json_lines(data: bytes, chance: random.Random) -> bytes:
    """Changes one line of JSON lines."""
    lines = data.split(b"\n")
    at = chance.randrange(len(lines))
    lines[at] = mutate_json(lines[at], chance).replace(b"\n", b" ")
    return b"\n".join(lines)


def mutate_safetensors(data: bytes, chance: random.Random) -> bytes:
    """Changes the header of a safetensors file, and its size with it, or bytes anywhere."""
    size = int.from_bytes(data[:8], "little")
    if size > len(data) or chance.random() < 0.2:
        return mutate_bytes(data, chance)
    header = mutate_json(data[8 : 8 + size], chance)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def _mutate_value(value: Any, chance: random.Random) -> Any:
    """Returns a copy of a value in which one inner value, or the whole, is another."""
    if isinstance(value, dict) and value and chance.random() < 0.95:
        name = chance.choice(list(value))
        match chance.randrange(12):
            case 0:
                return {key: inner for key, inner in value.items() if key != name}
            case 1:
                return {**value, chance.choice(("", "x", "\ud800", "__metadata__")): value[name]}
            case 2:
                other = chance.choice(list(value))
                return {**value, name: value[other]}
        return {**value, name: _mutate_value(value[name], chance)}
    if isinstance(value, list) and value and chance.random() < 0.9:
        at = chance.randrange(len(value))
        match chance.randrange(8):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return value[: at + 1] + value[at:]
        return [*value[:at], _mutate_value(value[at], chance), *value[at + 1 :]]
    if isinstance(value, int | float) and not isinstance(value, bool) and chance.random() < 0.3:
        return value + chance.choice((-1, 1, 0.5, 1 << 40))
    return chance.choice(_ODD)


def _encode(content: Any) -> bytes:
    text = json.dumps(content).replace(f'"{_HUGE}"', "1e400").replace(f'"{_DEEP}"', "[" * 2000 + "]" * 2000)
    return text.encode()
