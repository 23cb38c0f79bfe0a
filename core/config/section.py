"""Sections of settings: types, roles and descriptions.

Each setting has one of three roles. An *identity* setting identifies the run: another value needs another root. A
*schedule* setting may change when a run is resumed; the change is logged and kept in `run.json`. An *operational*
setting concerns where and how the work is done, never its result, and may change at any time.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

import pydantic
from pydantic.fields import FieldInfo

Role = Literal["identity", "schedule", "operational"]
# In capitals, which no setting's name has.
ANY = "NAME"
_FLOAT = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")


def parse_float(value: object) -> object:
    """Returns the number that a text of digits means; other values unchanged.

    YAML 1.1 reads `1e-3` as text; a setting that is declared a number takes it as one.
    """
    # Not by `float`, which would also take "inf", "nan" and "1_000".
    if isinstance(value, str) and _FLOAT.fullmatch(value):
        return float(value)
    return value


Float = Annotated[float, pydantic.BeforeValidator(parse_float)]


def _setting(role: Role, default: Any, description: str, limits: dict[str, Any]) -> Any:
    return pydantic.Field(default, description=description, json_schema_extra={"role": role}, **limits)


def identity(default: Any, description: str, **limits: Any) -> Any:
    """Returns a setting that identifies the run."""
    return _setting("identity", default, description, limits)


def schedule(default: Any, description: str, **limits: Any) -> Any:
    """Returns a setting that may change on a resume, which is logged."""
    return _setting("schedule", default, description, limits)


def operational(default: Any, description: str, **limits: Any) -> Any:
    """Returns a setting that does not change results."""
    return _setting("operational", default, description, limits)


class Section(pydantic.BaseModel):
    """A group of settings: immutable; unknown names are refused."""

    # strict: pydantic would otherwise read the text "3" as a number, and 1 as true.
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def role_of(field: FieldInfo) -> Role:
    """Returns the role of a setting."""
    extra = field.json_schema_extra
    # A field without a role is held to be identity: the strictest, which refuses a change.
    return extra["role"] if isinstance(extra, dict) else "identity"  # type: ignore[return-value]


def result_settings(settings: Section) -> dict[str, Any]:
    """Returns, as JSON, the settings that determine results: all but the operational ones."""
    content = settings.model_dump(mode="json")
    for name, field in type(settings).model_fields.items():
        inner = getattr(settings, name)
        if role_of(field) == "operational":
            del content[name]
        elif isinstance(inner, Section):
            content[name] = result_settings(inner)
        elif isinstance(inner, dict):
            # Sections by names that users choose, such as `corpora`.
            content[name] |= {key: result_settings(value) for key, value in inner.items() if isinstance(value, Section)}
    return content


def result_settings_as_stored(settings: Section, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `result_settings` in the form of `stored`, which an older release may have written.

    A setting that `stored` does not have was added later; its default reproduces the old behaviour, so it is left out
    where it has its default. The result equals `stored` if and only if no setting that determines results has changed.
    """
    content = result_settings(settings)
    for name, field in type(settings).model_fields.items():
        inner = getattr(settings, name)
        # Only in this direction: a name that `stored` has and the schema has not is a difference.
        if name in content and name not in stored and inner == field.default:
            del content[name]
        elif name in content and isinstance(stored.get(name), dict):
            if isinstance(inner, Section):
                content[name] = result_settings_as_stored(inner, stored[name])
            elif isinstance(inner, dict):
                known = {key: value for key, value in inner.items() if isinstance(stored[name].get(key), dict)}
                content[name] |= {
                    key: result_settings_as_stored(value, stored[name][key])
                    for key, value in known.items()
                    if isinstance(value, Section)
                }
    return content


def non_default_settings(settings: Section) -> dict[str, Any]:
    """Returns, as JSON, the settings that differ from their defaults; of a choice of kinds always with the `kind`.

    Each kind has its own name as the default of `kind`, which says nothing about the default of the whole group.
    """
    content = settings.model_dump(mode="json")
    chosen: dict[str, Any] = {}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if value == field.default:
            continue
        chosen[name] = content[name]
        if isinstance(value, Section):
            sections = [inner for inner in _classes_in(field.annotation) if issubclass(inner, Section)]
            # Without it the other values would be read as settings of the default kind.
            kind = {"kind": content[name]["kind"]} if len(sections) > 1 and "kind" in content[name] else {}
            chosen[name] = kind | non_default_settings(value)
        elif isinstance(value, dict):
            chosen[name] |= {
                key: non_default_settings(inner) for key, inner in value.items() if isinstance(inner, Section)
            }
    return chosen


def roles(section: type[pydantic.BaseModel], prefix: str = "") -> Iterator[tuple[str, Role, str]]:
    """Yields (dotted name, role, description) of every setting, sections opened, in order of declaration.

    `ANY` takes the place of names that users choose.
    """
    for name, field in section.model_fields.items():
        inner = [kind for kind in _classes_in(field.annotation) if issubclass(kind, Section)]
        if not inner:
            yield f"{prefix}{name}", role_of(field), field.description or ""
        for kind in inner:
            chosen = f"{ANY}." if get_origin(field.annotation) is dict else ""
            yield from roles(kind, f"{prefix}{name}.{chosen}")


def members(kind: type[Section], path: Sequence[str | int]) -> list[type[Section]]:
    """Returns the sections that may stand at a path below another: several where there is a choice of kinds."""
    sections = [kind]
    for step in path:
        annotations = [member.model_fields[step].annotation for member in sections if step in member.model_fields]
        # Names that users choose, and indices of lists, are not in the schema.
        if annotations:
            sections = list(
                dict.fromkeys(
                    inner
                    for annotation in annotations
                    for inner in _classes_in(annotation)
                    if issubclass(inner, Section)
                )
            )
    return sections


def kinds_of(kind: type[Section]) -> list[str]:
    """Returns the values of `kind` that a section is for; none where it is the only one."""
    field = kind.model_fields.get("kind")
    return [] if field is None else [str(value) for value in get_args(field.annotation)]


def _classes_in(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type):
        yield annotation
    # Into unions, tuples and dictionaries, of which only the innermost classes are sections.
    for argument in getattr(annotation, "__args__", ()):
        yield from _classes_in(argument)
