"""Strict YAML reader, with the position of each value.

Only values that JSON can express are accepted: tags, aliases, merges, dates and numbers in odd notations are refused,
since each of them surprises (`no` is a boolean, `012` is ten, `1:30` is ninety).
"""

import math
import re
from typing import Any, NamedTuple

import yaml

from core import errors

# Also ends the reading of a device or a wrong file, such as a corpus, before it fills the memory.
MAX_BYTES = 1 << 20
MAX_DEPTH = 20
_TAG = "tag:yaml.org,2002:"
# No octal, hexadecimal or sexagesimal numbers; 19 digits hold every signed 64-bit integer.
_WHOLE_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9]{0,18})")
_NUMBER = re.compile(r"[-+]?[0-9]*(\.[0-9]*)?([eE][-+]?[0-9]+)?")
_NO_TEXT = re.compile(r"[\x00\ud800-\udfff]")
# Users of other tools expect these to be replaced: a folder named `$HOME` would be made instead.
_VARIABLE = re.compile(r"\$\{|^\$[A-Za-z_]")

Path = tuple[str | int, ...]


class Mark(NamedTuple):
    """Position of a value, and its text."""

    where: str
    written: str


class Document(NamedTuple):
    """Plain data, with the mark of each value by its path."""

    data: Any
    marks: dict[Path, Mark]


def read(text: str, where: str, numbered: bool = True) -> Document:
    """Reads YAML; `numbered` adds line numbers to errors.

    Raises:
        UsageError: the text is not valid YAML, or has values that JSON cannot express.
    """
    if len(text) > MAX_BYTES:
        raise errors.UsageError(
            f"{where}: is larger than {MAX_BYTES} bytes, so it is not a configuration file; check the path"
        )
    reader = _Reader(where, numbered)
    try:
        text.encode()
        # Only events and nodes are used: no constructor of the library runs.
        # Some editors begin UTF-8 files with a byte order mark.
        loader = _Composer(text.removeprefix("\ufeff"), reader)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except UnicodeEncodeError as error:
        raise errors.UsageError(f"{where}: has bytes that are not valid UTF-8; save it as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark and numbered else where
        what = " ".join(part for part in (error.context, error.problem) if part)
        raise errors.UsageError(f"{position}: is not valid YAML ({what}); check indents, colons and quotes") from error
    except yaml.YAMLError as error:
        what = " ".join(str(error).split())
        raise errors.UsageError(f"{where}: is not valid YAML ({what}); remove odd characters") from error
    data = reader.value(node, ()) if node is not None else None
    return Document(data, reader.marks)


def read_override(override: str) -> Document:
    """Reads the value of an override, such as `training.epochs=3`, which is YAML too.

    Raises:
        UsageError: the value is not valid YAML, or has values that JSON cannot express.
    """
    return read(override.partition("=")[2], override_position(override), numbered=False)


def override_position(override: str) -> str:
    """Returns an override as errors name it."""
    return f"--set {override}" if override.isprintable() else f"--set {override!a}"


class _Composer(yaml.SafeLoader):
    """Builds nodes as the library does, but refuses aliases, tags and deep nesting."""

    def __init__(self, text: str, reader: "_Reader") -> None:
        super().__init__(text)
        self._reader = reader
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        # Nested aliases let a file of a kilobyte expand to gigabytes.
        if isinstance(event, yaml.AliasEvent):
            raise self._reader.refusal(event, f"*{event.anchor} is an alias; write the value out")
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise self._reader.refusal(event, f"the tag {tag.replace(_TAG, '!!')} is not allowed; write a plain value")
        # The composer is recursive: deep nesting would end in a RecursionError.
        if self._depth >= MAX_DEPTH:
            raise self._reader.refusal(event, f"is nested deeper than {MAX_DEPTH} levels; flatten it")
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


class _Reader:
    def __init__(self, where: str, numbered: bool) -> None:
        self.marks: dict[Path, Mark] = {}
        self._where = where
        self._numbered = numbered

    def refusal(self, at: Any, message: str, path: Path = ()) -> errors.UsageError:
        name = f"{dotted(path)}: " if path else ""
        return errors.UsageError(f"{self._place(at)}: {name}{message}")

    def value(self, node: yaml.Node, path: Path) -> Any:
        self.marks[path] = Mark(self._place(node), node.value if isinstance(node, yaml.ScalarNode) else "")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, position)) for position, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.refusal(key_node, "a name cannot be a list or a mapping; write a plain name", path)
            key = key_node.value
            # A corpus named `no` would otherwise be named False.
            if key_node.tag != f"{_TAG}str":
                raise self.refusal(key_node, f"the name {key} does not read as text; quote it: '{key}'", path)
            # The library keeps the last of two equal names, silently.
            if key in result:
                raise self.refusal(key_node, "is given twice; keep one of them", (*path, key))
            result[key] = self.value(value_node, (*path, key))
        return result

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        written = str(node.value)
        match node.tag.removeprefix(_TAG):
            case "str":
                if _VARIABLE.search(written):
                    raise self.refusal(node, "variables are not filled in; write the value or use --set", path)
                if _NO_TEXT.search(written):  # from an escape; in the text itself YAML allows neither
                    raise self.refusal(node, "holds a NUL character or half a surrogate pair; remove the escape", path)
                return written
            case "null":
                return None
            case "bool":
                # YAML 1.1; a text setting refuses the result, and says to quote it.
                return written.lower() in ("true", "yes", "on")
            case "int" if _WHOLE_NUMBER.fullmatch(written):
                return int(written)
            case "float" if _NUMBER.fullmatch(written) and math.isfinite(float(written)):
                return float(written)
            case "int" | "float":
                short = written if len(written) <= 30 else f"{written[:27]}..."
                raise self.refusal(
                    node, f"{short} is not a plain, finite decimal number; write one, or quote text", path
                )
            case "timestamp":
                raise self.refusal(node, f"{written} reads as a date; quote it: '{written}'", path)
            case _:
                raise self.refusal(node, f"{written!r} is not allowed here; quote it if it is text", path)

    def _place(self, at: Any) -> str:
        return f"{self._where}:{at.start_mark.line + 1}" if self._numbered else self._where


def dotted(path: Path) -> str:
    """Returns a path as users write it: `training.optimizer.betas[1]`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}"
    return text.removeprefix(".")
