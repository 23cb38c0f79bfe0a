"""No regular expression takes quadratic time: text that is read or quoted may be made to keep one busy."""

import collections
import importlib
import inspect
import itertools
import pkgutil
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

import core
import jobs
import workers

SIZE = 20_000  # characters, of which quadratic time takes seconds
MOST_S = 0.3
UNITS: tuple[str, ...] = (" ", "\t", "\n", " \n", "in(a, ", "\x1b[", "aA1", "://", "e1", "-e", "raycurrent_", "${")
UNITS += tuple('1aA-._/:=",@é{([$')
UNITS += tuple(map("".join, itertools.product("1a", '.,-_:=@"')))
ENDS = ("", "\0", "!")


def _uses() -> Iterator[tuple[str, re.Pattern[Any], str]]:
    """Yields the patterns of all modules, by name, with each method that is called on them."""
    for package in (core, workers, jobs):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not info.name.endswith("__main__"):
                module = importlib.import_module(info.name)
                source = inspect.getsource(module)
                for name, value in vars(module).items():
                    if isinstance(value, re.Pattern):
                        for method in set(re.findall(rf"\b{name}\.([a-z]+)\(", source)):
                            yield f"{info.name}.{name}", value, method


def _slow_text(pattern: re.Pattern[Any], method: str) -> str:
    """Returns a text that takes long, if there is one."""
    for unit, end in itertools.product(UNITS, ENDS):
        text: Any = unit * (SIZE // len(unit)) + end
        if isinstance(pattern.pattern, bytes):
            text = text.encode()
        started_s = time.process_time()
        if method in ("fullmatch", "match"):
            getattr(pattern, method)(text)
        else:
            collections.deque(pattern.finditer(text), maxlen=0)
        if time.process_time() - started_s > MOST_S:
            return f"{unit!r} × {SIZE // len(unit)} and {end!r}"
    return ""


def test_every_pattern_takes_little_time() -> None:
    uses = list(_uses())
    assert len(uses) > 30
    slow = [(name, method, text) for name, pattern, method in uses if (text := _slow_text(pattern, method))]
    assert slow == []


@pytest.mark.parametrize(("pattern", "method"), [(r"[0-9]*\.?[0-9]*", "fullmatch"), (r"[a-z]+=", "sub")])
def test_a_quadratic_pattern_is_noticed(pattern: str, method: str) -> None:
    assert _slow_text(re.compile(pattern), method)
