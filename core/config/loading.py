"""Loading of configurations: a YAML file and overrides become one validated configuration."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import yaml

from core import errors
from core.config import effects, error_messages, inference_settings, old_names, schema, section, yaml_reader

_log = logging.getLogger(__name__)
_Section = TypeVar("_Section", bound=section.Section)


@dataclass(frozen=True, slots=True)
class Change:
    """A setting that differs between two configurations; the values are as in JSON."""

    name: str
    role: section.Role
    old: Any
    new: Any


def load(path: str, overrides: Sequence[str] = ()) -> schema.RunConfig:
    """Reads a configuration file and applies overrides like `training.epochs=3`.

    Raises:
        UsageError: the file cannot be read, or anything in it or in the overrides is wrong.
    """
    try:
        file_path = Path(path)
        # Reading a device may never end, and a pipe can be read only once, while a run is started several times.
        if file_path.exists() and not file_path.is_file() and not file_path.is_dir():
            raise errors.UsageError(f"{path}: is a pipe, a device or a socket; name a YAML file")
        with file_path.open("rb") as file:
            # One more than allowed, by which the reader sees that a file is too large.
            data = file.read(yaml_reader.MAX_BYTES + 1)
    except IsADirectoryError:
        raise errors.UsageError(f"{path}: is a folder; name a YAML file") from None
    except FileNotFoundError:
        raise errors.UsageError(f"{path}: there is no such file; check the path of the configuration") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise errors.UsageError(f"{path}: cannot be read ({reason}); check the path and its rights") from error
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise errors.UsageError(f"{path}:{line}: is not valid UTF-8; save the file as UTF-8") from error
    return parse(text, path, overrides)


def parse(text: str, where: str, overrides: Sequence[str] = ()) -> schema.RunConfig:
    """Reads settings from YAML text and applies overrides; `where` is the name of the text in errors.

    Raises:
        UsageError: anything in the text or in the overrides is wrong.
    """
    document = _read(text, where)
    # Before the overrides, which are by new names, and need the groups opened.
    old_names.translate(document)
    kind = old_names.model_kind(document.data)
    overrides = old_names.translate_overrides(overrides, kind, "generation" in document.data)
    for name in ("decoding", "generation"):
        # Else `--set decoding.method=beam` would be refused for a temperature that the file gives to sampling.
        _drop_sampling(document.data.get(name), overrides, name)
    for override in overrides:
        _apply(document, override, "")
    # Again, for old names among the overrides: these replace what the file has by the new name.
    old_names.translate(document, replaces=True)
    config = _checked(schema.RunConfig, document, "")
    for sentence in effects.of_run(config):
        # Formatted here: the console shows equal templates once a minute, and every setting deserves its line.
        _log.warning(f"{where}: {sentence}")
    return config


def parse_stored(content: bytes, where: str) -> schema.RunConfig:
    """Reads the stored settings of a run, perhaps of an older release, without warnings.

    Raises:
        IntegrityError: the content is not text.
        UsageError: the text is not that of a configuration.
    """
    try:
        document = _read(content.decode(), where)
    except UnicodeDecodeError as error:
        raise errors.IntegrityError(f"{where}: is damaged (not UTF-8 at byte {error.start}); restore it") from error
    old_names.translate(document, is_stored=True)
    _drop_credentials(document.data)
    return _checked(schema.RunConfig, document, "")


def _drop_credentials(stored: dict[str, Any]) -> None:
    """Removes credentials from the URL of a Pushgateway, which 0.1 stored with it."""
    telemetry = stored.get("telemetry")
    if isinstance(telemetry, dict) and isinstance(url := telemetry.get("pushgateway"), str) and "@" in url:
        scheme, separator, rest = url.rpartition("://")
        telemetry["pushgateway"] = f"{scheme}{separator}{rest.rpartition('@')[2]}"


def _read(text: str, where: str) -> yaml_reader.Document:
    document = yaml_reader.read(text, where)
    if document.data is None:
        raise errors.UsageError(f"{where}: is empty; write at least name, root, corpus and model")
    if not isinstance(document.data, dict):
        raise errors.UsageError(f"{where}:1: expected sections with names and values; write name: …, root: …")
    return document


def section_from(base: _Section, overrides: Sequence[str], prefix: str) -> _Section:
    """Returns a section with the overrides that begin with its name; those of other sections are ignored.

    Raises:
        UsageError: an override is wrong or has no effect, or names a section that does not exist.
    """
    # From the values of the section, so that what is not overridden stays as the run has it. Defaults are left out: an
    # override that replaces a group of them loses nothing, which would be warned of.
    data = section.non_default_settings(base)
    document = yaml_reader.Document(data, {(): yaml_reader.Mark("--set", "")})
    _drop_sampling(data, overrides, prefix)
    for override in overrides:
        top = _target(override)[0]
        if top not in (known := list(schema.RunConfig.model_fields)) and top != prefix:
            what_to_do = error_messages.unknown(top, known, schema.RunConfig, prefix)
            raise errors.UsageError(f"--set {override}: {top} {what_to_do}")
        if top == prefix:
            _apply(document, override, f"{prefix}.")
    settings = _checked(type(base), document, f"{prefix}.")
    # What is stored with a run stays; what is asked for now is meant to have an effect.
    by_name = {override.partition("=")[0].strip(): override for override in overrides}
    for name, why in effects.of_section(settings):
        if (given := by_name.get(f"{prefix}.{name}")) is not None:
            raise errors.UsageError(f"--set {given}: {why}")
    return settings


def check_override(kind: type[section.Section], override: str, prefix: str) -> None:
    """Checks the name and the value of an override of a section whose other settings are not known.

    Settings inside groups are not checked: the kind of their group decides which there are.

    Raises:
        UsageError: no settings of the section could take the override.
    """
    if len(_target(override)) > 2:
        return
    document = yaml_reader.Document({}, {(): yaml_reader.Mark("--set", "")})
    _apply(document, override, f"{prefix}.")
    try:
        kind.model_validate_json(json.dumps(document.data), strict=True)
    except pydantic.ValidationError as invalid:
        # A rule between settings may hold with those that are not known.
        if any(error["type"] != "value_error" for error in invalid.errors()):
            raise error_messages.refusal(invalid, kind, document, f"{prefix}.") from None


def dump(config: section.Section) -> str:
    """Writes settings as YAML that `parse` reads back as equal."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def fingerprint(value: object) -> str:
    """Returns the SHA-256 of a section, or of any value that JSON can hold, in canonical form."""
    if isinstance(value, pydantic.BaseModel):
        value = value.model_dump(mode="json")
    # Canonical: the fingerprint is stored, and must not depend on the order of keys or on white space.
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def changed(old: schema.RunConfig, new: schema.RunConfig) -> list[Change]:
    """Lists the settings that differ, each with its role, in order of declaration."""
    return list(_changes(old, new, "", "identity"))


def _changes(old: section.Section, new: section.Section, prefix: str, outer: section.Role) -> Iterator[Change]:
    # Both, since another kind of model has other settings.
    fields = {**type(old).model_fields, **type(new).model_fields}
    for name, field in fields.items():
        # Everything in an operational section is operational.
        role = outer if outer == "operational" else section.role_of(field)
        before, after = getattr(old, name, None), getattr(new, name, None)
        if isinstance(before, section.Section) and isinstance(after, section.Section):
            yield from _changes(before, after, f"{prefix}{name}.", role)
        elif isinstance(before, dict) and isinstance(after, dict) and before.keys() == after.keys():
            yield from _changes_by_key(before, after, f"{prefix}{name}.", role)
        # The type as well: 1 equals True and 1.0.
        elif before != after or type(before) is not type(after):
            yield Change(f"{prefix}{name}", role, _plain(before), _plain(after))


def _changes_by_key(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str, role: section.Role
) -> Iterator[Change]:
    for key, before in old.items():
        after = new[key]
        if isinstance(before, section.Section) and isinstance(after, section.Section):
            yield from _changes(before, after, f"{prefix}{key}.", role)
        elif before != after:
            yield Change(f"{prefix}{key}", role, _plain(before), _plain(after))


def _plain(value: object) -> Any:
    if isinstance(value, section.Section):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _checked(kind: type[_Section], document: yaml_reader.Document, prefix: str) -> _Section:
    # Through JSON a list becomes a tuple, and yet nothing else is converted.
    try:
        return kind.model_validate_json(json.dumps(document.data), strict=True)
    except pydantic.ValidationError as invalid:
        raise error_messages.refusal(invalid, kind, document, prefix) from None


def _drop_sampling(settings: Any, overrides: Sequence[str], prefix: str) -> None:
    """Removes a section's settings of sampling, except overrides, where an override chooses another method."""
    by_name = {override.partition("=")[0].strip(): override for override in overrides}
    method = by_name.get(f"{prefix}.method")
    if isinstance(settings, dict) and method is not None and yaml_reader.read_override(method).data != "sample":
        for name in inference_settings.SAMPLING_SETTINGS:
            if f"{prefix}.{name}" not in by_name:
                settings.pop(name, None)


def _target(override: str) -> tuple[str, ...]:
    name, equals, _ = override.partition("=")
    steps = tuple(name.strip().split("."))
    if not equals or not all(step.isidentifier() for step in steps):
        raise errors.UsageError(f"--set {override!a}: is not a setting with a value; write section.name=value")
    return steps


def _apply(document: yaml_reader.Document, override: str, prefix: str) -> None:
    """Sets the value of an override, which is YAML too; missing sections are created."""
    where = yaml_reader.override_position(override)
    path = _target(override)
    if not override.partition("=")[2].strip():
        raise errors.UsageError(f"{where}: has no value; write null for none, '' for empty text")
    value = yaml_reader.read_override(override)
    if prefix:
        path = path[1:]
    if not path:
        raise errors.UsageError(f"{where}: names a whole section; name one of its settings")
    holder: Any = document.data
    for depth, step in enumerate(path[:-1]):
        # A section may be null in the file, as in `early_stop: null`.
        if holder.get(step) is None:
            holder[step] = {}
            document.marks[path[: depth + 1]] = yaml_reader.Mark(where, "")
        holder = holder[step]
        if not isinstance(holder, dict):
            name = prefix + yaml_reader.dotted(path[: depth + 1])
            raise errors.UsageError(f"{where}: {name} is a single value, not a section; set {name} itself")
    _warn_of_dropped_settings(prefix + yaml_reader.dotted(path), holder.get(path[-1]), value.data)
    holder[path[-1]] = value.data
    # Errors in the new value must not point to lines of the file.
    for old in [mark for mark in document.marks if mark[: len(path)] == path]:
        del document.marks[old]
    document.marks.update({path + inner: mark for inner, mark in value.marks.items()})
    # Of `scoring.mixture.weights` too: the group may not have been in the data, and needs a kind.
    for depth in range(1, len(path) + 1):
        old_names.open_group(document, path[:depth], prefix)


def _warn_of_dropped_settings(name: str, old: Any, new: Any) -> None:
    """Logs which settings of a group lose their values to an override such as `training.schedule=cosine`."""
    group = old_names.GROUPS.get(name)
    # A mapping as the value replaces the group knowingly; only the short form hides that others are lost.
    if group is None or not isinstance(old, dict) or not isinstance(new, str) or new == old.get("kind"):
        return
    dropped = [setting for setting in old if setting != "kind" and setting in group.names.get(new, ())]
    if dropped:
        _log.warning(
            "--set %s=%s replaces the group: %s has its default again; to keep it, set %s.kind=%s",
            name, new, ", ".join(dropped), name, new,
        )  # fmt: skip
