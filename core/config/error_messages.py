"""One-line messages for validation errors: the setting, the mistake, the remedy."""

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pydantic
from pydantic_core import ErrorDetails

from core import errors
from core.config import old_names, section, yaml_reader

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "model_type": "a section with names and values",
    "model_attributes_type": "a section with names and values",
    "dict_type": "names and values",
    "tuple_type": "a list",
}
_LIMITS = {
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
}

_BATCH = "training.batch_tokens or training.batch_lines (pairs, series), training.num_lanes (text)"
# Common names of other toolkits, with the settings that they mean.
SYNONYMS: Mapping[str, str] = {
    "lr": "training.learning_rate",
    "rate": "training.learning_rate",
    "batch_size": _BATCH,
    "batch": _BATCH,
    "num_epochs": "training.epochs",
    "max_epochs": "training.epochs",
    "steps": "training.max_steps",
    "num_steps": "training.max_steps (steps of training) or training.window (tokens of a window)",
    "bptt": "training.window",
    "seq_len": "training.window",
    "grad_clip": "training.clip_norm",
    "clip": "training.clip_norm",
    "max_grad_norm": "training.clip_norm",
    "warmup": "training.schedule.warmup_steps",
    "scheduler": "training.schedule",
    "lr_scheduler": "training.schedule",
    "lr_schedule": "training.schedule",
    "optim": "training.optimizer",
    "eps": "training.optimizer.epsilon",
    "wd": "training.optimizer.weight_decay",
    "early_stopping": "training.early_stop",
    "save_every": "training.checkpoint_every_steps",
    "gradient_accumulation": "training.accumulate",
    "accumulate_grad_batches": "training.accumulate",
    "hidden_dim": "model.hidden_size",
    "hidden": "model.hidden_size",
    "emb_size": "model.embedding_size",
    "emb_dim": "model.embedding_size",
    "embedding_dim": "model.embedding_size",
    "layers": "model.num_layers",
    "n_layers": "model.num_layers",
    "rnn_type": "model.cell",
    "tie_weights": "model.tie_embeddings",
    "tied": "model.tie_embeddings",
    "vocab_size": "tokenizer.max_size",
    "vocabulary_size": "tokenizer.max_size",
    "vocab": "tokenizer",
    "lowercase": "corpus.cleaning",
    "max_len": "decoding.max_length (of translations) or corpus.filters.max_length (of the corpus)",
    "max_length": "decoding.max_length (of translations) or corpus.filters.max_length (of the corpus)",
    "beam": "decoding.beam_size",
    "beam_width": "decoding.beam_size",
    "n_best": "decoding.num_best",
    "nbest": "decoding.num_best",
    "max_new_tokens": "generation.num_tokens",
    "gpus": "cluster.use_gpu with cluster.num_workers",
    "gpu": "cluster.use_gpu",
    "num_gpus": "cluster.use_gpu with cluster.num_workers",
    "device": "cluster.use_gpu",
    "workers": "cluster.num_workers",
    "world_size": "cluster.num_workers",
    "num_cpus": "cluster.cpus_per_worker",
    "threads": "cluster.cpus_per_worker",
    "fp16": "compute.precision: bf16",
    "bf16": "compute.precision: bf16",
    "amp": "compute.precision: bf16",
    "output_dir": "root",
    "save_dir": "root",
}


def refusal(
    invalid: pydantic.ValidationError, kind: type[section.Section], document: yaml_reader.Document, prefix: str
) -> errors.UsageError:
    """Returns an error with the first mistake that pydantic reports, and the number of others.

    Args:
        invalid: the error that validation raised.
        kind: the section that was validated.
        document: the data, with the position of each value.
        prefix: the name of the section with a dot, or nothing for a whole run.
    """
    by_path: dict[yaml_reader.Path, list[ErrorDetails]] = {}
    # Unknown names first: a misspelt setting is often the reason that another one is missing.
    for detail in sorted(invalid.errors(include_url=False), key=lambda detail: detail["type"] != "extra_forbidden"):
        by_path.setdefault(_path(detail, document.data), []).append(detail)
    # A union reports an error for each of its members: the innermost one says most.
    inner = [path for path in by_path if not any(path != other and other[: len(path)] == path for other in by_path)]
    path = inner[0]
    # Errors of the schema's own validators, whose text is written for the user.
    own = [detail for detail in by_path[path] if detail["type"] == "value_error"]
    if own:
        path, sentence = _own_sentence(str(own[0]["ctx"]["error"]), path, kind)
    else:
        sentence = _sentence(by_path[path], path, kind, document)
    name = f"{prefix}{yaml_reader.dotted(path)}: " if path else ""
    more = f" (and {len(inner) - 1} more)" if len(inner) > 1 else ""
    return errors.UsageError(f"{_where(path, document.marks)}: {name}{sentence}{more}")


def _path(detail: ErrorDetails, data: Any) -> yaml_reader.Path:
    """Returns the path of an error, without the names of union members that pydantic adds."""
    path: yaml_reader.Path = ()
    for position, step in enumerate(detail["loc"]):
        # The last step of a missing setting is not in the data, but belongs to its path.
        is_missing = detail["type"] == "missing" and position == len(detail["loc"]) - 1
        if is_missing or (isinstance(data, dict) and step in data):
            path = (*path, step)
            data = data.get(step) if isinstance(data, dict) else None
        elif isinstance(data, list) and isinstance(step, int):
            path = (*path, step)
            data = data[step]
    return path


def _where(path: yaml_reader.Path, marks: Mapping[yaml_reader.Path, yaml_reader.Mark]) -> str:
    # A missing setting has no position of its own: the nearest section that is written has one.
    while path and path not in marks:
        path = path[:-1]
    return marks[path].where


def _own_sentence(text: str, path: yaml_reader.Path, kind: type[section.Section]) -> tuple[yaml_reader.Path, str]:
    """Splits a message of the schema's own validators into the setting that it begins with, if any, and the rest."""
    setting, colon, rest = text.partition(": ")
    full = (*path, *setting.split("."))
    name = _declared(full, kind)
    # Only if it is a setting: a message may contain a colon for another reason.
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
            return _unknown(path, kind, document)
        case "missing":
            description = {name: text for name, _, text in section.roles(kind)}.get(_declared(path, kind), "")
            return f"is missing; add it{f': {description}' if description else ''}"
        case "union_tag_not_found":
            return "has no kind; add it"
        case "dict_type" | "model_attributes_type" | "union_tag_invalid" if choice := _choice_of_kinds(
            first["input"], path
        ):
            return f"expected {choice}, not {shown}; change it"
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
    # As written, since YAML has read `no` as false, and the user looks for `no`.
    if first["type"] == "string_type" and isinstance(first["input"], (bool, int, float)):
        written = document.marks[path].written if path in document.marks else shown
        return f"expected text, but {written} reads as {shown}; quote it: '{written}'"
    remedy = "write it in brackets" if "tuple_type" in {detail["type"] for detail in details} else "change it"
    return f"expected {expected}, not {shown}; {remedy}"


def _choice_of_kinds(value: object, path: yaml_reader.Path) -> str:
    """Returns what a group with a short form may be; nothing where its value names a kind, be it an unknown one."""
    group = old_names.GROUPS.get(yaml_reader.dotted(path))
    if group is None or (isinstance(value, dict) and isinstance(value.get("kind"), str)):
        return ""
    return f"a kind ({', '.join(group.names)}), or names and values"


def _unknown(path: yaml_reader.Path, kind: type[section.Section], document: yaml_reader.Document) -> str:
    name = str(path[-1])
    with_name: list[str] = []
    here: dict[str, Any] = {}
    for member in section.members(kind, path[:-1]):
        here |= member.model_fields
        if name in member.model_fields:
            with_name += section.kinds_of(member)
    if with_name:
        chosen = document.data
        for step in path[:-1]:
            chosen = chosen[step]
        return f"is not a setting of kind {chosen['kind']}; remove it, or use kind {' or '.join(with_name)}"
    # Translation and generation have settings of the same names: of a language model those of generation count.
    does_generate = old_names.model_kind(document.data) not in ("seq2seq", None)
    return unknown(name, list(here), kind, "generation" if does_generate else "decoding")


def unknown(name: str, here: Sequence[str], kind: type[section.Section], preferred: str = "") -> str:
    """Returns the message for an unknown name: the meaning of a synonym, or the nearest name, here or elsewhere.

    Args:
        name: the unknown name, without its section.
        here: the names that its section has.
        kind: the whole, whose other sections are searched, too.
        preferred: the section whose setting is meant where several have one of the name.
    """
    if name in SYNONYMS:
        return f"is not a setting; did you mean {SYNONYMS[name]}?"
    elsewhere: dict[str, str] = {}
    for known in sorted(_paths(kind), key=lambda known: not known.startswith(f"{preferred}.")):
        elsewhere.setdefault(known.rpartition(".")[2], known)
    if name in elsewhere:
        return f"is not a setting here; did you mean {elsewhere[name]}?"
    # Plain sections are no candidates here: `trainer` is nearer to corpus.train than to training.
    settings = {known for known, _, _ in section.roles(kind)} | old_names.GROUPS.keys()
    names = [last for last, known in elsewhere.items() if known in settings]
    # Of equally near names the one in the same section comes first.
    # A stricter limit elsewhere: among all settings some name is always a little like the wrong one.
    near = difflib.get_close_matches(name, here, n=1) + difflib.get_close_matches(name, names, n=1, cutoff=0.75)
    if near:
        best = max(near, key=lambda other: difflib.SequenceMatcher(None, other, name).ratio())
        return f"is not a setting; did you mean {best if best in here else elsewhere[best]}?"
    return f"is not a setting; known here: {', '.join(here)}"


def _paths(kind: type[section.Section]) -> list[str]:
    """Returns the dotted names of all settings and of the groups that hold them, in order of declaration."""
    paths: dict[str, None] = {}
    for known, _, _ in section.roles(kind):
        steps = known.split(".")
        # The place of a chosen name is not a name that one could mean.
        ends = [end for end in range(1, len(steps) + 1) if steps[end - 1] != section.ANY]
        paths |= {".".join(steps[:end]): None for end in ends}
    return list(paths)


def _declared(path: yaml_reader.Path, kind: type[section.Section]) -> str:
    """Returns the name of a setting as the schema has it: without the names that users choose."""
    every = [known for known, _, _ in section.roles(kind)]
    name = ""
    for step in path:
        is_chosen = any(known.startswith(f"{name}{section.ANY}.") for known in every)
        name += f"{section.ANY if is_chosen else step}."
    return name.removesuffix(".")


def _not_one_of(value: str, context: Mapping[str, Any]) -> str:
    # pydantic gives the choices as text: 'a', 'b' or 'c' of a literal, 'a', 'b' of a union's tags.
    expected = str(context.get("expected", context.get("expected_tags", ""))).replace("'", "")
    choices = expected.replace(" or ", ", ").split(", ")
    near = difflib.get_close_matches(value, choices, n=1)
    what_to_do = f"did you mean {near[0]}?" if near else "choose one of them"
    return f"{value!r} is not one of {', '.join(choices)}; {what_to_do}"


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
