"""The record of a run beside its artefacts: `config.yaml` as first started, and `run.json`, what became of it."""

import contextlib
import importlib.metadata
import logging
import platform
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from core import errors
from core.config import loading, old_names, schema
from core.storage import location
from jobs import json_documents

if TYPE_CHECKING:
    from workers.cluster import session as sessions

FORMAT, VERSION = "raycurrent-run", 1
SETTINGS, RUN = "config.yaml", "run.json"
_PACKAGES = ("raycurrent", "torch", "ray", "pyarrow", "numpy", "tokenizers", "safetensors", "sacrebleu")
_log = logging.getLogger(__name__)

Content = dict[str, Any]


def begin(config: schema.RunConfig) -> list[loading.Change]:
    """Keeps the settings of a run that starts, or compares them with those that it was started with.

    Returns:
        The changes of its schedule, which are allowed, logged and kept in `run.json`.

    Raises:
        LockedError: a setting differs that decides what the run is.
    """
    root = location.Location.parse(config.root, "root")
    place = root.join(SETTINGS)
    if place.put_if_absent(loading.dump(config).encode()):
        return []
    first = loading.parse_stored(place.read_bytes().decode(), str(place))
    changes = loading.changed(first, config)
    for change in changes:
        if change.role == "identity":
            raise errors.LockedError(
                f"{change.name}: this root was started with {_shown(change.old)}, not {_shown(change.new)}; "
                f"use another root, or the settings in {place}"
            )
    schedule = [change for change in changes if change.role == "schedule"]
    for change in schedule:
        _log.info("%s: %s instead of %s", change.name, _shown(change.new), _shown(change.old))
    return schedule


def with_stored_defaults(config: schema.RunConfig) -> schema.RunConfig:
    """Returns the settings with defaults as they were when the run was first started, where those have changed since.

    That is so for what the configuration does not name: a new default is for new runs.
    """
    place = location.Location.parse(config.root, "root").join(SETTINGS)
    if not place.exists():
        return config
    first = loading.parse_stored(place.read_bytes().decode(), str(place))
    for name, old_default in old_names.OLD_DEFAULTS.items():
        section_name, _, setting = name.partition(".")
        ours, theirs = getattr(config, section_name), getattr(first, section_name)
        if setting in ours.model_fields_set or getattr(theirs, setting) != old_default:
            continue
        _log.info("%s: %s, as in %s; another value is the default of new runs", name, _shown(old_default), place)
        config = config.model_copy(
            update={section_name: ours.model_copy(update={setting: old_default})},
        )
    return config


def read(root: location.Location) -> Content:
    """Returns the content of `run.json`, empty before the first start."""
    try:
        content = root.join(RUN).read_json()
    except errors.NotFoundError:
        return {}
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise errors.IntegrityError(f"{root.join(RUN)}: is no record of a run; restore or remove it")
    return content


def started(config: schema.RunConfig) -> None:
    """Says in `run.json` that a driver has started, and with which versions."""
    root = location.Location.parse(config.root, "root")
    content = {"name": config.name, "stages": {}, "changes": [], "faults": [], **read(root)}
    content.setdefault("started_unix_s", _now_unix_s())
    content["starts"] = content.get("starts", 0) + 1
    content["exit_code"] = None
    content["versions"] = versions()
    _write(root, content)


def changed(root: location.Location, changes: Sequence[loading.Change]) -> None:
    """Notes what is new in the schedule, once for each new value."""
    content = read(root)
    last = {old_names.current(change["name"]): change["new"] for change in content["changes"]}
    new = [change for change in changes if last.get(change.name, change.old) != change.new]
    if new:
        content["changes"] += [
            {"name": change.name, "old": change.old, "new": change.new, "unix_s": _now_unix_s()} for change in new
        ]
        _write(root, content)


def stage(root: location.Location, name: str) -> Content:
    """Returns what is noted about a stage; empty if it never began."""
    found: Content = read(root).get("stages", {}).get(name, {})
    return found


def stage_begun(root: location.Location, name: str, made_with: str) -> None:
    """Notes that a stage begins, and a fingerprint of what its results depend on."""
    content = read(root)
    content["stages"][name] = {**content["stages"].get(name, {}), "outcome": "begun", "begun_with": made_with}
    _write(root, content)


def stage_done(
    root: location.Location, name: str, elapsed_s: float, report: Content, worked: bool, made_with: str = ""
) -> None:
    """Keeps the report of a stage; one that found its work done already keeps what it once said."""
    content = read(root)
    kept = content["stages"].get(name, {})
    if worked or "report" not in kept:
        kept = {**kept, "elapsed_s": round(elapsed_s, 3), "report": report}
    content["stages"][name] = {**kept, "outcome": "done", "begun_with": made_with, "made_with": made_with}
    _write(root, content)


def faults(root: location.Location, passed_over: Sequence[str]) -> None:
    """Notes damaged checkpoints that a start passed over."""
    content = read(root)
    new = [fault for fault in passed_over if fault not in content["faults"]]
    if new:
        content["faults"] += new
        _write(root, content)


@contextlib.contextmanager
def ending(root: location.Location, session: "sessions.Session") -> Iterator[None]:
    """Keeps in `run.json` the exit code with which the work inside ends."""
    code = 1
    try:
        yield
        code = 0
    except errors.RaycurrentError as error:
        code = exit_code(error, session.signal)
        raise
    finally:
        content = read(root)
        content["exit_code"] = code
        _write(root, content)


def exit_code(error: errors.RaycurrentError, signal: int | None) -> int:
    """Returns the exit code of an error; that of an interruption says by which signal."""
    if isinstance(error, errors.InterruptedRunError) and signal is not None:
        return 128 + signal
    return error.exit_code


def versions() -> dict[str, str]:
    """Returns the versions that decide the bytes of a run, without importing anything."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _now_unix_s() -> float:
    return round(time.time(), 3)


def _write(root: location.Location, content: Content) -> None:
    place = root.join(RUN)
    updated = {**content, "format": FORMAT, "version": VERSION, "updated_unix_s": _now_unix_s()}
    place.replace(json_documents.encode(updated).encode())


def _shown(value: object) -> str:
    text = json_documents.encode(value, one_line=True).strip()
    return text if len(text) <= 80 else f"{text[:77]}..."
