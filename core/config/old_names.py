"""Old names of settings, translated before validation.

Release 0.1 had the settings of all optimizers, schedules and truncations side by side in `training`, and those of
generation in `decoding`. Files, `--set` and stored `config.yaml` may use its names:

* A name of `MOVED` has moved. One that stays behind without effect (`momentum: 0.0` with adam, as every stored file
  has it) is dropped if it has its default of then, or if the file is a stored one; else validation refuses it.
* The names of `SHARED` held for translations and for generated text alike, and both `decoding` and `generation` have
  them now. A model can do one of the two: so where a file has no `generation` section, and in `--set`, they belong to
  `decoding` for a seq2seq, and to `generation` for every other model.
* A file that names settings of generation by old names alone also gets the old defaults of the others: `greedy`,
  temperature 1. Stored files hold every value, so an old run generates what it did.
* `decoding.method: greedy` was beam search for translations, and is `beam` now.
* `optimizer: adam` is short for `{kind: adam}`, as are the names of schedules and truncations; a group without a kind
  has the default one.

An old and a new name for the same setting are refused together. Each translated name is logged as a warning, but for
stored files.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_args

from core import errors
from core.config import (
    inference_settings,
    mixture_settings,
    optimizer_settings,
    schedule_settings,
    section,
    truncation_settings,
    yaml_reader,
)

_log = logging.getLogger(__name__)


class Moved(NamedTuple):
    """The name of today, and the default of release 0.1 as plain data."""

    name: str
    default: Any


# Never shortened: stored files keep the names of their release for ever.
MOVED: Mapping[str, Moved] = {
    "training.momentum": Moved("training.optimizer.momentum", 0.0),
    "training.betas": Moved("training.optimizer.betas", [0.9, 0.999]),
    "training.epsilon": Moved("training.optimizer.epsilon", 1e-8),
    "training.weight_decay": Moved("training.optimizer.weight_decay", 0.0),
    "training.non_monotone_interval": Moved("training.optimizer.non_monotone_interval", 5),
    "training.warmup_steps": Moved("training.schedule.warmup_steps", 0),
    "training.decay_factor": Moved("training.schedule.decay_factor", 0.1),
    "training.decay_every_epochs": Moved("training.schedule.decay_every_epochs", 1),
    "training.decay_patience": Moved("training.schedule.patience", 1),
    "training.reload_best": Moved("training.schedule.reload_best", False),
    "training.final_rate": Moved("training.schedule.final_rate", 0.0),
    "training.cut_every": Moved("training.truncation.cut_every", 5),
    "training.cut_probability": Moved("training.truncation.cut_probability", 0.2),
    "decoding.num_tokens": Moved("generation.num_tokens", 200),
    "decoding.steps_ahead": Moved("generation.steps_ahead", None),
}
SHARED = (
    "method",
    "temperature",
    "top_k",
    "top_p",
    "seed",
    "average_checkpoints",
    "no_repeat_ngram",
    "repetition_penalty",
)
# The defaults of release 0.1 that are others now, by today's names.
OLD_DEFAULTS: Mapping[str, Any] = {"generation.method": "greedy", "generation.temperature": 1.0}


class _Group(NamedTuple):
    default: str
    names: Mapping[str, frozenset[str]]  # of the settings of each kind


def _group(default: str, union: Any) -> _Group:
    names = {}
    for member in get_args(union):
        for kind in get_args(member.model_fields["kind"].annotation):
            # From the schema, so that a new setting of a kind need not be entered here.
            names[kind] = frozenset(member.model_fields)
    return _Group(default, names)


GROUPS: Mapping[str, _Group] = {
    "training.optimizer": _group("adam", optimizer_settings.OptimizerConfig),
    "training.schedule": _group("constant", schedule_settings.ScheduleConfig),
    "training.truncation": _group("fixed", truncation_settings.TruncationConfig),
    "scoring.mixture": _group("linear", mixture_settings.MixtureConfig),
}


def current(name: str) -> str:
    """Returns today's name of a setting that may have had another one."""
    return f"{name}.kind" if name in GROUPS else MOVED[name].name if name in MOVED else name


def translate(document: yaml_reader.Document, is_stored: bool = False, replaces: bool = False) -> None:
    """Brings the data of a whole configuration to today's names, in place; new names are left as they are.

    Args:
        document: the data, with the position of each value.
        is_stored: nothing is logged, and what has no effect is dropped.
        replaces: a value by an old name replaces one by the new name; for overrides, which come after the file.

    Raises:
        UsageError: a setting is given by its old and its new name, or stands in a section without effect.
    """
    # Asked before anything moves: moving creates the section.
    has_generation = "generation" in document.data
    # Before the moves: what has moved goes into the group, whose kind decides whether it has an effect.
    for name in GROUPS:
        open_group(document, _path(name))
    for old, moved in MOVED.items():
        _move(document, _path(old), _path(moved.name), is_stored, replaces)
    decoding = document.data.get("decoding")
    if isinstance(decoding, dict):
        is_of_generation = not has_generation and model_kind(document.data) not in ("seq2seq", None)
        for name in SHARED if is_of_generation else ():
            # beam is of translations alone, and was never a method of generation.
            if not (name == "method" and decoding.get(name) == "beam"):
                _move(document, ("decoding", name), ("generation", name), is_stored, replaces)
        if not is_stored:
            # Not in stored files, which hold every value, those without effect as well.
            _refuse_sampling(document, decoding)
        # Last: of a language model the method has moved to `generation`, where greedy is still greedy.
        if decoding.get("method") == "greedy":
            decoding["method"] = "beam"
            _warn(is_stored, "decoding.method: greedy", "beam")
    generation = document.data.get("generation")
    # The section exists by moves alone: the file is written for the old defaults.
    if isinstance(generation, dict) and not has_generation:
        for name, value in OLD_DEFAULTS.items():
            generation.setdefault(name.rpartition(".")[2], value)
    for settings, method in ((decoding, "beam"), (generation, "sample")) if is_stored else ():
        if isinstance(settings, dict) and settings.get("method", method) != "sample":
            settings.pop("seed", None)  # release 0.1 accepted it, without effect


def translate_overrides(overrides: Sequence[str], kind: str | None, has_generation: bool = True) -> list[str]:
    """Returns overrides with those by old names last, and those of `decoding` by today's names.

    The others, of `training`, are for `translate`, which knows the kinds.

    Args:
        overrides: such as `training.epochs=3`.
        kind: of the model, if it is known.
        has_generation: whether what they change has settings of generation; if not, and only old names give some, the
            old defaults come with them.

    Raises:
        UsageError: a setting is given by its old and its new name.
    """
    new: list[str] = []
    old: list[str] = []
    # All names first: an old name may be refused because of a new one after it.
    names = _names_inside(overrides)
    for override in overrides:
        name, equals, value = (part.strip() for part in override.partition("="))
        target, changed = _target(override, kind)
        if not equals or (target, changed) == (name, value):
            new.append(override)
            continue
        if target != name and target in names:
            raise errors.UsageError(f"--set {override}: {target} is given, too; keep {target}")
        # Its effect may depend on a kind that the file or another override chooses.
        if name.startswith("training."):
            old.append(override)
            continue
        old.append(f"{target}={changed}")
        _warn(False, *((name, target) if target != name else (f"{name}: {value}", changed)))
    is_new = any(name.startswith("generation.") for name in names)
    if not has_generation and not is_new and any(override.startswith("generation.") for override in old):
        old = [f"{name}={value}" for name, value in OLD_DEFAULTS.items()] + old
    return new + old


def _names_inside(overrides: Sequence[str]) -> set[str]:
    """Returns the names that overrides set, those inside the values of whole sections included.

    Raises:
        UsageError: a value has a setting by its old name that an override gives by its new name.
    """
    names: set[str] = set()
    old: list[tuple[str, str]] = []
    for override in overrides:
        name = override.partition("=")[0].strip()
        names.add(name)
        # Only these sections have settings with old names; the values of others are read later.
        if "=" in override and name.partition(".")[0] in ("training", "decoding", "generation"):
            inside = _leaves(yaml_reader.read_override(override).data, f"{name}.")
            names.update(inside)
            old += [(override, leaf) for leaf in inside if leaf in MOVED]
    for override, leaf in old:
        if (target := MOVED[leaf].name) in names:
            raise errors.UsageError(f"--set {override}: {leaf}: {target} is given, too; keep {target}")
    return names


def _leaves(data: Any, prefix: str) -> list[str]:
    """Returns the dotted names of the values in nested mappings."""
    if not isinstance(data, dict):
        return []
    return [leaf for key, value in data.items() for leaf in (_leaves(value, f"{prefix}{key}.") or [f"{prefix}{key}"])]


def model_kind(data: Mapping[str, Any]) -> str | None:
    """Returns the kind of model that plain data names, if it names one."""
    model = data.get("model")
    kind = model.get("kind") if isinstance(model, dict) else None
    return kind if isinstance(kind, str) else None


def _refuse_sampling(document: yaml_reader.Document, decoding: Mapping[str, Any]) -> None:
    """Refuses what a file with a section `generation` says in `decoding` of a model that does not translate."""
    kind = model_kind(document.data)
    if kind in ("seq2seq", None):
        return
    for name in SHARED:
        default = inference_settings.DecodingConfig.model_fields[name].default
        if name in decoding and section.parse_float(decoding[name]) != default:
            mark = document.marks.get(("decoding", name))
            at = f"{mark.where}: " if mark else ""
            raise errors.UsageError(
                f"{at}decoding.{name}: has no effect with model.kind: {kind}; use generation.{name}"
            )


def open_group(document: yaml_reader.Document, path: yaml_reader.Path, prefix: str = "") -> None:
    """Opens the short form of a group, `adam` for `{kind: adam}`, and gives the default kind to one without."""
    group = GROUPS.get(f"{prefix}{yaml_reader.dotted(path)}")
    holder = _holder(document.data, path)
    if group is None or holder is None or path[-1] not in holder:
        return
    value = holder[path[-1]]
    if isinstance(value, str):
        holder[path[-1]] = {"kind": value}
        if path in document.marks:
            # An unknown kind is then reported at the line of the short form.
            document.marks[(*path, "kind")] = document.marks[path]
    elif isinstance(value, dict):
        # pydantic chooses the member of a union by `kind` alone, and has no default for it.
        value.setdefault("kind", group.default)


def _move(
    document: yaml_reader.Document, old: yaml_reader.Path, new: yaml_reader.Path, is_stored: bool, replaces: bool
) -> None:
    holder = _holder(document.data, old)
    if holder is None or old[-1] not in holder:
        return
    value, where = holder[old[-1]], document.marks.get(old)
    if _is_dropped(document.data, old, new, value, is_stored):
        del holder[old[-1]]
        return
    target = document.data
    for depth, step in enumerate(new[:-1]):
        if step in target and target[step] is None:
            del holder[old[-1]]  # so that validation refuses the null, not the old name
            return
        if step not in target:
            # A group that is made for a moved setting needs a kind as much as a written one.
            group = GROUPS.get(yaml_reader.dotted(new[: depth + 1]))
            target[step] = {} if group is None else {"kind": group.default}
        target = target[step]
        if not isinstance(target, dict):
            return  # which validation refuses
    if new[-1] in target and not replaces:
        at = f"{where.where}: " if where else ""
        name = yaml_reader.dotted(new)
        raise errors.UsageError(f"{at}{yaml_reader.dotted(old)}: {name} is given, too; keep {name}")
    target[new[-1]] = holder.pop(old[-1])
    # Errors in the value are then reported where it is written, under the new name.
    for path in [path for path in document.marks if path[: len(old)] == old]:
        document.marks[new + path[len(old) :]] = document.marks.pop(path)
    _warn(is_stored, yaml_reader.dotted(old), yaml_reader.dotted(new))


def _is_dropped(
    data: Mapping[str, Any], old: yaml_reader.Path, new: yaml_reader.Path, value: Any, is_stored: bool
) -> bool:
    """Returns whether an old setting has no effect with the chosen kind, and may be left out."""
    group = GROUPS.get(yaml_reader.dotted(new[:-1]))
    if group is None:
        return False
    settings = (_holder(data, new[:-1]) or {}).get(str(new[-2]))
    kind = settings.get("kind") if isinstance(settings, dict) else group.default
    known = group.names.get(kind) if isinstance(kind, str) else None
    # Of an unknown kind nothing is dropped: the error is the kind.
    if known is None or new[-1] in known:
        return False
    # parse_float: the file may have `1e-8`, which YAML reads as text.
    return is_stored or section.parse_float(value) == MOVED[yaml_reader.dotted(old)].default


def _target(override: str, kind: str | None) -> tuple[str, str]:
    """Returns today's name, and value, of an override."""
    name, _, value = (part.strip() for part in override.partition("="))
    if name in MOVED:
        return MOVED[name].name, value
    section_name, _, setting = name.partition(".")
    if section_name != "decoding" or setting not in SHARED:
        return name, value
    # The value is YAML: "greedy" in quotes is greedy, too.
    method = yaml_reader.read_override(override).data if setting == "method" else None
    if method == "beam":
        return name, value
    if kind in ("seq2seq", None):
        return name, "beam" if method == "greedy" else value
    return f"generation.{setting}", value


def _path(name: str) -> tuple[str, ...]:
    return tuple(name.split("."))


def _holder(data: Any, path: yaml_reader.Path) -> dict[str, Any] | None:
    """Returns the mapping that holds the last step of a path, if there is one."""
    for step in path[:-1]:
        data = data.get(str(step)) if isinstance(data, dict) else None
    return data if isinstance(data, dict) else None


def _warn(is_stored: bool, old: str, new: str) -> None:
    if not is_stored:
        # Formatted here: the console shows equal templates once a minute, and every name deserves its line.
        _log.warning(f"{old}: now {new}")
