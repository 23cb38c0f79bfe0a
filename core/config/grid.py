"""Grids of settings: `training.learning_rate=1e-3,1e-4` names values of a setting, several of them all combinations."""

import hashlib
import itertools
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import yaml

from core import errors
from core.config import yaml_reader

# Each combination has a name and a root of its own, which say what differs.
_OF_EACH = ("name", "root")
_SAFE = re.compile(r"[A-Za-z0-9.+_-]+")
_LONGEST_VALUE, _LONGEST_NAME = 24, 63  # characters; a run's name has at most 63
_HASH_CHARACTERS = 6


class Axis(NamedTuple):
    """A setting and the values that it takes, as text."""

    setting: str
    values: tuple[str, ...]


class Combination(NamedTuple):
    """One value of each setting.

    Attributes:
        name: of its folder; made of the settings and values alone, so that it stays when the grid grows.
        values: by setting, as text.
    """

    name: str
    values: dict[str, str]

    @property
    def overrides(self) -> list[str]:
        """The values as overrides of settings."""
        return [f"{setting}={value}" for setting, value in self.values.items()]


def parse(text: str) -> Axis:
    """Parses `section.key=a,b,c`; a value with commas is in brackets or quotes, as in YAML.

    Raises:
        UsageError: the text is not a setting with values, or the values are not valid.
    """
    where = f"--grid {text if text.isprintable() else ascii(text)}"
    setting, equals, written = (part.strip() for part in text.partition("="))
    if not equals or not all(step.isidentifier() for step in setting.split(".")):
        raise errors.UsageError(f"{where}: is not a setting with values; write section.name=value,value")
    if setting in _OF_EACH:
        raise errors.UsageError(f"{where}: each combination has a {setting} of its own; leave it out")
    listed = f"[{written}]"
    # The reader refuses values that no setting can have.
    values = yaml_reader.read(listed, where, numbered=False).data
    if not isinstance(values, list) or not values or written.endswith(","):
        raise errors.UsageError(f"{where}: a value is missing; write section.name=value,value")
    node: Any = yaml.compose(listed, Loader=yaml.SafeLoader)
    # As they are written: `1e-3` stays `1e-3` in the name of a folder.
    texts = tuple(listed[item.start_mark.index : item.end_mark.index].strip() for item in node.value)
    return Axis(setting, texts)


def combinations(axes: Sequence[Axis]) -> list[Combination]:
    """Returns all combinations of the values, the last setting's changing fastest.

    Raises:
        UsageError: a setting is named twice, or has a value twice.
    """
    settings = [axis.setting for axis in axes]
    for axis in axes:
        if settings.count(axis.setting) > 1:
            raise errors.UsageError(f"--grid {axis.setting}: is named twice; name all its values once")
        for value in axis.values:
            if axis.values.count(value) > 1:
                raise errors.UsageError(f"--grid {axis.setting}: has the value {value} twice; name it once")
    short = [setting.rpartition(".")[2] for setting in settings]
    labels = [name if short.count(name) == 1 else setting for name, setting in zip(short, settings, strict=True)]
    return [
        Combination(
            _cut("_".join(f"{label}-{_slug(value)}" for label, value in zip(labels, values, strict=True))),
            dict(zip(settings, values, strict=True)),
        )
        for values in itertools.product(*(axis.values for axis in axes))
    ]


def overrides(combination: Combination, name: str, root: str) -> list[str]:
    """Returns the overrides of a combination's run, for a configuration with this name and root."""
    own_root, own_name = f"{root.rstrip('/')}/{combination.name}", _cut(f"{name}.{combination.name}")
    return [*combination.overrides, f"name={json.dumps(own_name)}", f"root={json.dumps(own_root)}"]


def _slug(value: str) -> str:
    """Returns a value as part of a name; one that does not fit keeps its hash, so that no two values share a name."""
    if _SAFE.fullmatch(value) and len(value) <= _LONGEST_VALUE:
        return value
    readable = "-".join(_SAFE.findall(value))[:_LONGEST_VALUE].strip("-")
    return "-".join(part for part in (readable, _hash(value)) if part)


def _cut(name: str) -> str:
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[: _LONGEST_NAME - _HASH_CHARACTERS - 1]}-{_hash(name)}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_CHARACTERS]
