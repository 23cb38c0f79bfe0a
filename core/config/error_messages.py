"""What a rejected setting sounds like: one sentence that names it, says what is wrong, and what to do."""

import difflib
import json
from collections.abc import Mapping
from typing import Any

import pydantic
from pydantic_core import ErrorDetails

from core import errors
from core.config import section, yaml_reader

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "model_type": "a section with names and values",
    "dict_type": "names and values",
    "tuple_type": "a list",
}
_LIMITS = {
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
}


def refusal(
    invalid: pydantic.ValidationError, kind: type[section.Section], document: yaml_reader.Document, prefix: str
) -> errors.UsageError:
    """Makes one line of what pydantic found: the first mistake, and how many more there are.

    Args:
        invalid: what the validation raised.
        kind: the section that was validated.
        document: the data, and where each value was written.
        prefix: the name of the section with a dot, or nothing for a whole run.
    """
    found: dict[yaml_reader.Path, list[ErrorDetails]] = {}
    for detail in sorted(invalid.errors(include_url=False), key=lambda detail: detail["type"] != "extra_forbidden"):
        found.setdefault(_path(detail, document.data), []).append(detail)
    # A union complains once for each of its members: what is wrong inside of one says more.
    inner = [path for path in found if not any(path != other and other[: len(path)] == path for other in found)]
    path = inner[0]
    own = [detail for detail in found[path] if detail["type"] == "value_error"]
    if own:
        path, sentence = _own_sentence(str(own[0]["ctx"]["error"]), path, kind)
    else:
        sentence = _sentence(found[path], path, kind, document)
    name = f"{prefix}{yaml_reader.dotted(path)}: " if path else ""
    more = f" (and {len(inner) - 1} more)" if len(inner) > 1 else ""
    return errors.UsageError(f"{_where(path, document.marks)}: {name}{sentence}{more}")


def _path(detail: ErrorDetails, data: Any) -> yaml_reader.Path:
    """Leaves out what pydantic adds to a place: the names of the members of a union."""
    path: yaml_reader.Path = ()
    for position, step in enumerate(detail["loc"]):
        is_missing = detail["type"] == "missing" and position == len(detail["loc"]) - 1
        if is_missing or (isinstance(data, dict) and step in data):
            path = (*path, step)
            data = data.get(step) if isinstance(data, dict) else None
        elif isinstance(data, list) and isinstance(step, int):
            path = (*path, step)
            data = data[step]
    return path


def _where(path: yaml_reader.Path, marks: Mapping[yaml_reader.Path, yaml_reader.Mark]) -> str:
    while path and path not in marks:
        path = path[:-1]
    return marks[path].where


def _own_sentence(text: str, path: yaml_reader.Path, kind: type[section.Section]) -> tuple[yaml_reader.Path, str]:
    """Splits a sentence of the schema's own validators into the setting that it begins with, if any, and the rest."""
    setting, colon, rest = text.partition(": ")
    full = (*path, *setting.split("."))
    name = _declared(full, kind)
    if colon and any(known == name or known.startswith(f"{name}.") for known, _, _ in section.roles(kind)):
        return full, rest
    return path, text


def _sentence(
    details: list[ErrorDetails], path: yaml_reader.Path, kind: type[section.Section], document: yaml_reader.Document
) -> str:
    first = details[0]
    context = first.get("ctx", {})
    shown = _shown(first["input"])
    match first["type"]:
        case "extra_forbidden":
            return _unknown(path, kind, first)
        case "missing":
            description = {name: text for name, _, text in section.roles(kind)}.get(_declared(path, kind), "")
            return f"is missing; add it{f': {description}' if description else ''}"
        case "union_tag_not_found":
            return "has no kind; add it"
        case "literal_error" | "union_tag_invalid":
            return _not_one_of(str(context.get("tag", first["input"])), context)
        case "too_long" | "too_short":
            wanted = context.get("max_length", context.get("min_length"))
            return f"has {context['actual_length']} values; give {wanted}"
        case "finite_number":
            return "must be a finite number; choose a smaller one"
        case "string_pattern_mismatch":
            return f"{shown} does not match {context['pattern']}; choose letters, digits, dots, hyphens"
        case "string_too_short":
            return "is empty; give a value"
        case limit if limit in _LIMITS:
            return f"must be {_LIMITS[limit].format(**context)}; {shown} is not"
    expected = " or ".join(dict.fromkeys(_EXPECTED.get(detail["type"], detail["msg"]) for detail in details))
    if first["type"] == "string_type" and isinstance(first["input"], (bool, int, float)):
        written = document.marks[path].written if path in document.marks else shown
        return f"expected text, but {written} reads as {shown}; quote it: '{written}'"
    remedy = "write it in brackets" if "tuple_type" in {detail["type"] for detail in details} else "change it"
    return f"expected {expected}, not {shown}; {remedy}"


def _unknown(path: yaml_reader.Path, kind: type[section.Section], detail: ErrorDetails) -> str:
    parent, name = _declared(path[:-1], kind), str(path[-1])
    start = f"{parent}." if parent else ""
    every = [known for known, _, _ in section.roles(kind)]
    here = list(dict.fromkeys(known[len(start) :].partition(".")[0] for known in every if known.startswith(start)))
    if name in here:
        return f"is no setting of a {detail['loc'][-2]}; remove it"
    near = difflib.get_close_matches(name, here, n=1)
    if near:
        return f"is not a setting; did you mean {near[0]}?"
    elsewhere = [known for known in every if known.rpartition(".")[2] == name]
    if elsewhere:
        return f"is not a setting here; did you mean {elsewhere[0]}?"
    return f"is not a setting; known here: {', '.join(here)}"


def _declared(path: yaml_reader.Path, kind: type[section.Section]) -> str:
    """The name of a setting as the schema has it: without the names that users choose."""
    every = [known for known, _, _ in section.roles(kind)]
    name = ""
    for step in path:
        is_chosen = any(known.startswith(f"{name}{section.ANY}.") for known in every)
        name += f"{section.ANY if is_chosen else step}."
    return name.removesuffix(".")


def _not_one_of(value: str, context: Mapping[str, Any]) -> str:
    expected = str(context.get("expected", context.get("expected_tags", ""))).replace("'", "")
    choices = expected.replace(" or ", ", ").split(", ")
    near = difflib.get_close_matches(value, choices, n=1)
    what_to_do = f"did you mean {near[0]}?" if near else "choose one of them"
    return f"{value!r} is not one of {', '.join(choices)}; {what_to_do}"


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
