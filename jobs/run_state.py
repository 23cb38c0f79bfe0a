"""State of a run: owner of `config.yaml` and `run.json` in its root.

`config.yaml` has the settings of the first start and is written once. `run.json` has the versions, the changes of the
schedule, the report of each stage and the exit code; `train` and `pipeline` replace it, holding the lock of the root.
"""

import contextlib
import importlib.metadata
import logging
import platform
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from core import errors
from core.config import inference_settings, loading, old_names, schema
from core.storage import control_files, json_values, location, root_layout
from jobs import json_documents

if TYPE_CHECKING:
    from workers.cluster import session as sessions

FORMAT, VERSION = "raycurrent-run", 1
_PACKAGES = ("raycurrent", "torch", "ray", "pyarrow", "numpy", "tokenizers", "safetensors", "sacrebleu")
_FORMS: dict[str, type] = {"stages": dict, "changes": list, "faults": list, "starts": int}
_log = logging.getLogger(__name__)

Content = dict[str, Any]


def check_settings(config: schema.RunConfig, stores: bool = True) -> list[loading.Change]:
    """Stores the settings at the first start of a run; compares them with the stored ones at every later start.

    Args:
        config: settings of this start.
        stores: whether they may be stored.

    Returns:
        The changed settings of the role `schedule`, which may change; see `record_changes`.

    Raises:
        LockedError: a setting of the role `identity` differs: it would be another run.
    """
    path = location.Location.parse(config.root, "root").join(root_layout.SETTINGS)
    # Never replaced: the settings of the first start identify the run.
    if stores and path.put_if_absent(loading.dump(config).encode()):
        return []
    schedule = [change for change in refuse_other_settings(config) if change.role == "schedule"]
    for change in schedule:
        _log.info("%s: changed from %s to %s", change.name, _format(change.old), _format(change.new))
    return schedule


def refuse_other_settings(config: schema.RunConfig) -> list[loading.Change]:
    """Compares settings with the stored ones, and returns the changed ones; none before the first start.

    Raises:
        LockedError: a setting of the role `identity` differs: it would be another run.
    """
    path = location.Location.parse(config.root, "root").join(root_layout.SETTINGS)
    if not path.exists():
        return []
    changes = loading.changed(loading.parse_stored(path.read_bytes(), str(path)), config)
    for change in changes:
        if change.role == "identity":
            raise errors.LockedError(
                f"{change.name}: this root was started with {_format(change.old)}, not {_format(change.new)}; "
                f"use another root, or the settings in {path}"
            )
        if change.name.startswith("evaluation.") and config.training.best_by == "bleu":
            raise errors.LockedError(
                f"{change.name}: this root was started with {_format(change.old)}, and its checkpoints are compared by "
                "BLEU, which another value would make another figure; use another root, or keep the value"
            )
    return changes


def with_stored_defaults(config: schema.RunConfig) -> schema.RunConfig:
    """Returns the settings with the defaults of the release that started the run, where defaults have changed since.

    Settings that the configuration names are kept: a new default is for new runs. One that names a setting of sampling
    wants to sample, so that the old default, greedy, is not restored.
    """
    path = location.Location.parse(config.root, "root").join(root_layout.SETTINGS)
    # Only language models generate, and only settings of generation have other defaults now.
    if config.corpus_kind != "text" or not path.exists():
        return config
    first = loading.parse_stored(path.read_bytes(), str(path))
    current = config.generation
    named = set(current.model_fields_set)
    if not named.isdisjoint(inference_settings.SAMPLING_SETTINGS):
        named.add("method")
    restored: dict[str, Any] = {}
    for name, old_default in old_names.OLD_DEFAULTS.items():
        setting = name.removeprefix("generation.")
        if setting in named or getattr(first.generation, setting) != old_default:
            continue
        _log.info("%s: %s, as in %s; new runs have another default", name, _format(old_default), path)
        restored[setting] = old_default
    # A copy with the changes would not be validated.
    generation = type(current).model_validate({**current.model_dump(exclude_unset=True), **restored})
    return config.model_copy(update={"generation": generation})


def read(root: location.Location) -> Content:
    """Returns the content of `run.json`; empty before the first start.

    Raises:
        IntegrityError: the file is of another format.
    """
    path = root.join(root_layout.RUN_STATE)
    content = control_files.read_if_there(path)
    if content is None:
        return {}
    has_forms = [isinstance(content.get(name, kind()), kind) for name, kind in _FORMS.items()]
    if content.get("format") != FORMAT or not all(has_forms):
        raise errors.IntegrityError(f"{path}: does not have the format {FORMAT}; restore or remove it")
    return content


def record_start(config: schema.RunConfig) -> None:
    """Records the start of a driver and its versions in `run.json`."""
    root = location.Location.parse(config.root, "root")
    # What earlier starts have written counts more than these defaults.
    content = {"name": config.name, "stages": {}, "changes": [], "faults": [], **read(root)}
    content.setdefault("started_unix_s", _now_unix_s())
    content["starts"] = content.get("starts", 0) + 1
    content["exit_code"] = None  # running, or killed before it could write one
    content["versions"] = versions()
    _write(root, content)


def record_changes(root: location.Location, changes: Sequence[loading.Change]) -> None:
    """Records changes of the schedule, each new value once."""
    content = read(root)
    last = {old_names.current(change["name"]): change["new"] for change in content["changes"]}
    # Compared with the last recorded value, since the stored settings stay those of the first start.
    new = [change for change in changes if last.get(change.name, change.old) != change.new]
    if new:
        content["changes"] += [
            {"name": change.name, "old": change.old, "new": change.new, "unix_s": _now_unix_s()} for change in new
        ]
        _write(root, content)


def read_stage(root: location.Location, name: str) -> Content:
    """Returns the entry of a stage in `run.json`; empty if it never began."""
    entry: Content = read(root).get("stages", {}).get(name, {})
    return entry


def report_of_before(entry: Content) -> Content:
    """Returns the report of a stage that an earlier start did: its figures, and that it was done already."""
    report: Content = entry["report"]
    return {**report, "already_done": True} if "already_done" in report else report


def record_stage_start(root: location.Location, name: str, fingerprint: str) -> None:
    """Records the start of a stage, with the fingerprint of what its results depend on."""
    content = read(root)
    entry = {**content["stages"].get(name, {}), "outcome": "begun"}
    if entry.get("begun_with") != fingerprint:
        entry.pop("earlier_s", None)  # of other results
    content["stages"][name] = {**entry, "begun_with": fingerprint}
    _write(root, content)


@contextlib.contextmanager
def record_unfinished_time(root: location.Location, name: str) -> Iterator[None]:
    """Adds the seconds of the work inside the context to those of its stage if it fails or is interrupted.

    What it has committed is kept, so that its time belongs to the stage, which a later start finishes.
    """
    started_s = time.monotonic()
    try:
        yield
    except errors.RaycurrentError:
        content = read(root)
        entry = content["stages"].get(name, {})
        earlier_s = round(entry.get("earlier_s", 0.0) + time.monotonic() - started_s, 3)
        content["stages"][name] = {**entry, "earlier_s": earlier_s}
        _write(root, content)
        raise


def record_stage_end(
    root: location.Location, name: str, elapsed_s: float, report: Content, worked: bool, fingerprint: str = ""
) -> None:
    """Records the report and the time of a stage; one whose work was done before (not `worked`) keeps its first report.

    The time is that of all starts of the stage, those that did not finish it included.

    `fingerprint` is that of what the results depend on, as in `record_stage_start`.
    """
    content = read(root)
    entry = content["stages"].get(name, {})
    if worked or "report" not in entry:
        total_s = elapsed_s + entry.pop("earlier_s", 0.0)
        entry = {**entry, "elapsed_s": round(total_s, 3), "report": report}
    content["stages"][name] = {**entry, "outcome": "done", "begun_with": fingerprint, "made_with": fingerprint}
    _write(root, content)


def record_skipped_checkpoints(root: location.Location, reasons: Sequence[str]) -> None:
    """Records why a start skipped damaged checkpoints, each reason once; the stored key is "faults"."""
    content = read(root)
    new = [reason for reason in reasons if reason not in content["faults"]]
    if new:
        content["faults"] += new
        _write(root, content)


@contextlib.contextmanager
def record_exit_code(root: location.Location, session: "sessions.Session") -> Iterator[None]:
    """Records in `run.json` the exit code with which the work inside the context ends."""
    code = 1  # of a bug: any exception that is not one of ours
    try:
        yield
        code = 0
    except errors.RaycurrentError as error:
        code = exit_code(error, session.signal)
        raise
    finally:
        # Read only now: the stages have written to it meanwhile.
        content = read(root)
        content["exit_code"] = code
        _write(root, content)


def exit_code(error: errors.RaycurrentError, signal: int | None) -> int:
    """Returns the exit code of an error; 128 + the number of the signal for an interruption, as shells have it."""
    if isinstance(error, errors.InterruptedRunError) and signal is not None:
        return 128 + signal
    return error.exit_code


def versions() -> dict[str, str]:
    """Returns the versions of packages that affect the bytes of a run, without importing them."""
    versions_by_name = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions_by_name[name] = importlib.metadata.version(name)
    return versions_by_name


def _now_unix_s() -> float:
    return round(time.time(), 3)


def _write(root: location.Location, content: Content) -> None:
    path = root.join(root_layout.RUN_STATE)
    updated = {**content, "format": FORMAT, "version": VERSION, "updated_unix_s": _now_unix_s()}
    path.replace(control_files.encode(json_values.plain(updated)))


def _format(value: object) -> str:
    text = json_documents.encode(value, one_line=True).strip()
    return text if len(text) <= 80 else f"{text[:77]}..."
