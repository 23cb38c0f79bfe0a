"""The bundle: what inference needs of a model, as a folder of weights, model settings and tokenizers.

`model.safetensors` has each weight once, in fp32, under the first (sorted) of its names, or the tables of an n-gram
model. `model.json` has the kind and settings of the model, and the SHA-256 of the other files and of itself.
`tokenizer.json` is for text, or for both sides of pairs; `tokenizer.source.json` and `tokenizer.target.json` are for
one side each. No file holds code, and all are verified before any is used.

The second half selects the checkpoint of a run whose bundle inference uses: the best one by validation.
"""

import dataclasses
import hashlib
import json
import logging
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, NoReturn

import torch
from torch import Tensor

from core import errors
from core.config import autoregressive_settings, model_settings, ngram_settings, training_settings
from core.data.series import preparation
from core.data.tokens import tokenizer
from core.models import autoregressive, factory, skeleton, weights
from core.models.ngram import mapped as ngram_mapped
from core.models.ngram import ngram_model
from core.models.ngram import tables as ngram_tables
from core.storage import commit, contents, control_files, json_values, location, node_cache, root_layout

_log = logging.getLogger(__name__)

FORMAT = "raycurrent-bundle"
VERSION = 2
_VERSION_OF_CODED = 2  # of an n-gram model with coded back-off weights; of all others it is 1
WEIGHTS_FILE = "model.safetensors"
SETTINGS_FILE = "model.json"

FOLDER = "bundle"
"""Folder of the bundle in a checkpoint."""
CHECKPOINT_NAME = re.compile(r"step-([0-9]{8,18})-e([0-9]{1,9})")
CHECKPOINT_FORMAT = "raycurrent-checkpoint"
CHECKPOINT_VERSION = 1
CHECKPOINT_MANIFEST = root_layout.CHECKPOINT_MANIFEST
CHECKPOINT_DIVERGED = "DIVERGED.json"
"""Beside the manifest of a checkpoint after which training diverged; a resume passes over it."""

Model = factory.Model | ngram_model.Ngram | autoregressive.Autoregressive

_CONFIGS: Mapping[str, type[model_settings.ModelConfig]] = {
    "language_model": model_settings.LanguageModelConfig,
    "seq2seq": model_settings.Seq2SeqConfig,
    "ngram": ngram_settings.NgramConfig,
    "autoregressive": autoregressive_settings.AutoregressiveConfig,
}
_ROLES: Mapping[str, tuple[str, ...]] = {
    "language_model": ("text",),
    "seq2seq": ("source", "target"),
    "ngram": ("text",),
    "autoregressive": (),
}
_COLUMNS: Mapping[str, tuple[str, ...]] = {"autoregressive": ("inputs", "targets")}


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A model with all that is needed to use it.

    Attributes:
        model: the model.
        config: its settings.
        codecs: by role, that of `text`, or those of `source` and `target`.
        line_end: the separator between two lines of a text in training.
        precision: of matrix products in training.
        fingerprint: identifies the files that it was loaded from; empty if it was not loaded from files.
        columns: of a series, the names of its `inputs` and `targets`.
        series: of a series, how it is prepared for the model.
    """

    model: Model
    config: model_settings.ModelConfig
    codecs: Mapping[str, tokenizer.Codec]
    line_end: Literal["none", "space", "eos"]
    precision: Literal["fp32", "bf16"]
    fingerprint: str = ""
    columns: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    series: preparation.Preparation = preparation.DEFAULT


def to_files(bundle: Bundle) -> dict[str, bytes]:
    """Returns the content of all files of the bundle by name; equal bundles give equal bytes."""
    content = {WEIGHTS_FILE: weights.to_bytes(stored_tensors(bundle.model))}
    return content | _other_files(bundle, commit.sha256_hex(content[WEIGHTS_FILE]))


def to_contents(bundle: Bundle) -> dict[str, contents.Content]:
    """Returns what `to_files` does, but for the weights of an n-gram model the file of its tables, if there is one.

    They may be larger than memory.
    """
    file = bundle.model.file if isinstance(bundle.model, ngram_model.Ngram) else None
    content = weights.to_bytes(stored_tensors(bundle.model)) if file is None else file
    return {WEIGHTS_FILE: content, **_other_files(bundle, contents.sha256_and_size(content)[0])}


def _other_files(bundle: Bundle, weights_sha256: str) -> dict[str, bytes]:
    """Returns the tokenizers and the settings, which have the hashes of all other files and come last."""
    content: dict[str, bytes] = {}
    # One file for sides that share a tokenizer, so that they cannot differ.
    is_shared = len({codec.tokenizer.fingerprint for codec in bundle.codecs.values()}) == 1
    codecs = {}
    for role, codec in sorted(bundle.codecs.items()):
        name = "tokenizer.json" if is_shared else f"tokenizer.{role}.json"
        content[name] = codec.tokenizer.to_json().encode()
        codecs[role] = {
            "tokenizer": name,
            "fingerprint": codec.tokenizer.fingerprint,
            "vocabulary_size": codec.tokenizer.vocabulary_size,
            "cleaning": list(codec.cleaning),
        }
    hashes = {name: commit.sha256_hex(data) for name, data in content.items()} | {WEIGHTS_FILE: weights_sha256}
    settings = {
        "format": FORMAT,
        "version": _VERSION_OF_CODED if ngram_tables.is_coded(stored_tensors(bundle.model)) else 1,
        "kind": bundle.config.kind,
        "config": bundle.config.model_dump(mode="json"),
        "codecs": codecs,
        "line_end": bundle.line_end,
        "precision": bundle.precision,
        "files": dict(sorted(hashes.items())),
    }
    if bundle.columns:
        settings["columns"] = {role: list(names) for role, names in bundle.columns.items()}
    # Left out where it is that of release 0.1, so that equal models have equal bytes.
    if bundle.series != preparation.DEFAULT:
        settings["series"] = bundle.series.to_json()
    # Last, as it covers all other entries.
    settings["sha256"] = _digest(settings)
    content[SETTINGS_FILE] = (json.dumps(settings, indent=1, ensure_ascii=False) + "\n").encode()
    return content


def load(folder: location.Location, cache: node_cache.NodeCache | None = None) -> Bundle:
    """Reads and verifies a bundle; its model is in evaluation mode, on the CPU. N-gram tables are mapped files.

    Args:
        folder: the bundle.
        cache: the copies of n-gram tables in an object store, on this node.

    Raises:
        IntegrityError: a file is missing, damaged, of a newer format or does not match the others.
    """
    settings = _read_settings(folder)
    where = str(folder.join(SETTINGS_FILE))
    # Settings are data until they are validated.
    with control_files.parsing(where, "restore the file from a copy"):
        form = _CONFIGS[settings["kind"]]
        if settings["config"].get("smoothing") == "imported":
            form = ngram_settings.ImportedNgramConfig
        config = form.model_validate_json(json.dumps(settings["config"]))
        codecs = {role: _read_codec(folder, settings, role) for role in _ROLES[config.kind]}
        line_end, precision = settings["line_end"], settings["precision"]
        prepared = preparation.DEFAULT
        if "series" in settings:
            prepared = preparation.Preparation.from_json(settings["series"])
        columns = {role: tuple(map(str, settings["columns"][role])) for role in _COLUMNS.get(config.kind, ())}
    if line_end not in ("none", "space", "eos") or precision not in ("fp32", "bf16"):
        _fail(where, f"has the invalid line_end {line_end!r} or precision {precision!r}")
    model = _read_model(folder, settings, config, codecs, columns, cache)
    return Bundle(model, config, codecs, line_end, precision, settings["sha256"], columns, prepared)


def stored_tensors(model: torch.nn.Module) -> dict[str, Tensor]:
    """Returns the tensors that a bundle stores of a model: its parameters, or the tables of an n-gram model."""
    return model.tables if isinstance(model, ngram_model.Ngram) else weights.unique_parameters(model)


def _read_settings(folder: location.Location) -> dict[str, Any]:
    """Returns the content of `model.json`, after a check of its format, version and hash."""
    where = str(folder.join(SETTINGS_FILE))
    settings = json_values.parse(_read(folder, SETTINGS_FILE), where, "restore the file from a copy")
    if not isinstance(settings, dict) or settings.get("format") != FORMAT:
        _fail(where, f"is not in the format {FORMAT}")
    version = settings.get("version")
    if type(version) is not int or version < 1:  # `true` is an int for isinstance
        _fail(where, f"has the invalid version {version!r}")
    # Before the hash, which a newer format may compute in another way.
    if version > VERSION:
        raise errors.IntegrityError(
            f"{where}: has format version {version}, this program reads up to {VERSION}; update Raycurrent"
        )
    if settings.get("sha256") != _digest(settings):
        _fail(where, "does not match its own SHA-256")
    return settings


def _read_codec(folder: location.Location, settings: dict[str, Any], role: str) -> tokenizer.Codec:
    """Returns the codec of a role, its tokenizer compared with what `model.json` says of it."""
    record = settings["codecs"][role]
    name = record["tokenizer"]
    # No other name is ever read, so that a forged one cannot lead out of the folder.
    if name not in ("tokenizer.json", f"tokenizer.{role}.json"):
        _fail(str(folder.join(SETTINGS_FILE)), f"has the invalid tokenizer file name {name!r}")
    where = str(folder.join(name))
    read = tokenizer.Tokenizer.from_json(_read_checked(folder, settings, name).decode("utf-8"), where)
    if (read.fingerprint, read.vocabulary_size) != (record["fingerprint"], record["vocabulary_size"]):
        _fail(where, f"is not the tokenizer ({read.vocabulary_size} entries) that {SETTINGS_FILE} was written for")
    return tokenizer.Codec(cleaning=tuple(record["cleaning"]), tokenizer=read)


def _read_model(
    folder: location.Location,
    settings: dict[str, Any],
    config: model_settings.ModelConfig,
    codecs: Mapping[str, tokenizer.Codec],
    columns: Mapping[str, tuple[str, ...]],
    cache: node_cache.NodeCache | None,
) -> Model:
    """Returns the model with the stored weights, in evaluation mode."""
    where = str(folder.join(WEIGHTS_FILE))
    if config.kind == "ngram":
        with control_files.parsing(str(folder.join(SETTINGS_FILE)), "restore the file from a copy"):
            sha256 = str(settings["files"][WEIGHTS_FILE])
        size = codecs["text"].tokenizer.vocabulary_size
        return ngram_mapped.load(folder.join(WEIGHTS_FILE), sha256, config, size, cache).eval()
    # Settings that do not match the file allocate nothing.
    expected = weights.unique_parameters(skeleton.without_memory(config, codecs, columns))
    stored = weights.from_bytes(_read_checked(folder, settings, WEIGHTS_FILE), where, expected)
    weights.check_finite(stored, where)
    # Building a model draws initial weights: the caller's random state must not depend on it.
    with torch.random.fork_rng(devices=[]):
        model = skeleton.build(config, codecs, columns)
    with torch.no_grad():
        for name, parameter in weights.unique_parameters(model).items():
            # Copied, not assigned: a tied weight stays one tensor under all its names.
            parameter.copy_(stored[name])
    return model.eval()


def _read_checked(folder: location.Location, settings: dict[str, Any], name: str) -> bytes:
    data = _read(folder, name)
    with control_files.parsing(str(folder.join(SETTINGS_FILE)), "restore the file from a copy"):
        expected, actual = settings["files"][name], commit.sha256_hex(data)
    if actual != expected:
        _fail(str(folder.join(name)), f"has the SHA-256 {actual[:16]}… instead of {str(expected)[:16]}…")
    return data


def _read(folder: location.Location, name: str) -> bytes:
    try:
        return folder.join(name).read_bytes()
    except errors.NotFoundError as error:
        raise errors.IntegrityError(f"{folder.join(name)}: is missing; restore the bundle from a copy") from error


def _digest(settings: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of `model.json` without its own hash, independent of key order and white space."""
    hashed = {name: value for name, value in settings.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(hashed, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _fail(where: str, what: str) -> NoReturn:
    raise errors.IntegrityError(f"{where}: {what}; restore the file from a copy")


class SelectedCheckpoint(NamedTuple):
    """A checkpoint that inference uses.

    Attributes:
        checkpoint: its folder.
        bundle: the folder of its bundle.
        step: the step at which it was saved.
        damaged: error messages of the damaged checkpoints that would have been preferred to it.
    """

    checkpoint: location.Location
    bundle: location.Location
    step: int
    damaged: tuple[str, ...]


def find_folder(run: location.Location) -> location.Location:
    """Returns the bundle folder of the checkpoint that `select_checkpoint` selects."""
    return select_checkpoint(run).bundle


def select_checkpoint(run: location.Location) -> SelectedCheckpoint:
    """Returns the checkpoint of a run that inference uses: the best one by validation, with its bundle verified.

    The metric is the one that the run's newest checkpoint names; the order is that of
    `training_settings.selection_key`. If no checkpoint was validated it is the newest: the last step under the highest
    fencing number (the `3` in `step-00000500-e3`, which counts the starts of the run's worker group), one from a streak
    of skipped steps or before a divergence last. Damaged checkpoints are skipped and reported. `run` may also be the
    folder of a single checkpoint.

    Raises:
        UsageError: the run has none.
        IntegrityError: all checkpoints are damaged.
    """
    return select_checkpoints(run, 1)[0]


def select_checkpoints(run: location.Location, count: int) -> list[SelectedCheckpoint]:
    """Returns the best `count` checkpoints of a run, best first, in the order of `select_checkpoint`.

    Raises:
        UsageError: there are fewer, or `run` is a single checkpoint folder and `count` is above 1.
        IntegrityError: all checkpoints are damaged.
    """
    if run.join(CHECKPOINT_MANIFEST).exists():
        if count > 1:
            raise errors.UsageError(f"{run}: is a single checkpoint, {count} are needed; name the root of the run")
        return [SelectedCheckpoint(run, run.join(FOLDER), int(_verify(run)["step"]), ())]
    damaged: list[str] = []
    candidates: list[tuple[int, int, dict[str, Any], location.Location]] = []
    for name in run.join(root_layout.CHECKPOINTS).list_names():
        match = CHECKPOINT_NAME.fullmatch(name)
        folder = run.join(root_layout.CHECKPOINTS, name) if match else run
        if match is None or not folder.join(CHECKPOINT_MANIFEST).exists():
            continue
        try:
            manifest = _manifest(folder)
        except errors.IntegrityError as error:
            damaged.append(str(error))
        else:
            candidates.append((int(match[2]), int(match[1]), manifest, folder))
    # Newest first, by fencing number and step. The other sorts are stable: of equally good checkpoints, and where none
    # was validated, the newest that is not in doubt stays first.
    candidates.sort(key=lambda candidate: candidate[:2], reverse=True)
    # A checkpoint that names no metric is of a run that selects by perplexity.
    metric: training_settings.Metric = (
        "bleu" if candidates and candidates[0][2].get("best_by") == "bleu" else "perplexity"
    )
    candidates.sort(key=lambda candidate: _is_in_doubt(candidate[2], candidate[3]))
    candidates.sort(key=lambda candidate: training_settings.selection_key(metric, _validation(candidate[2])))
    selected: list[SelectedCheckpoint] = []
    for _, step, _, folder in candidates:
        try:
            # Hashed best first, until enough are intact: the others need not be read.
            _verify(folder)
        except errors.IntegrityError as error:
            damaged.append(str(error))
        else:
            selected.append(SelectedCheckpoint(folder, folder.join(FOLDER), step, tuple(damaged)))
        if len(selected) == count:
            _log.debug("%s: uses %s", run, ", ".join(each.checkpoint.name for each in selected))
            return selected
    if selected:
        raise errors.UsageError(
            f"{run}: has {len(selected)} intact checkpoints, {count} are needed; use fewer, or train with "
            f"a larger training.keep_checkpoints"
        )
    if damaged:
        raise errors.IntegrityError(f"{run}: all checkpoints are damaged; restore one from a copy; first: {damaged[0]}")
    raise errors.UsageError(f"{run}: has no checkpoint; train first, or name the root of a trained run")


def _manifest(folder: location.Location) -> dict[str, Any]:
    manifest = commit.read_manifest(folder, CHECKPOINT_MANIFEST, CHECKPOINT_FORMAT, CHECKPOINT_VERSION)
    # Values that cannot be compared make this checkpoint a damaged one, and leave the others.
    with control_files.parsing(str(folder.join(CHECKPOINT_MANIFEST))):
        training_settings.selection_key("bleu", _validation(manifest))
    return manifest


def _verify(folder: location.Location) -> dict[str, Any]:
    """Verifies the files of the bundle against the checkpoint's manifest, and returns the manifest."""
    manifest = _manifest(folder)
    where = str(folder.join(CHECKPOINT_MANIFEST))
    files, step = manifest.get("files"), manifest.get("step")
    if not isinstance(files, list) or type(step) is not int:
        _fail(where, "lists no step or no files")
    all_records = [commit.FileRecord.from_json(file, where) for file in files]
    # The training state in the same checkpoint is not needed for inference, and may be damaged or removed.
    records = [record for record in all_records if record.name.startswith(f"{FOLDER}/")]
    names = {record.name for record in records}
    if not {f"{FOLDER}/{SETTINGS_FILE}", f"{FOLDER}/{WEIGHTS_FILE}"} <= names:
        _fail(where, "lists no bundle")
    commit.verify(folder, records)
    return manifest


def _is_in_doubt(manifest: Mapping[str, Any], folder: location.Location) -> bool:
    """Returns whether a checkpoint is from a streak of skipped steps, or training diverged after it."""
    return bool(manifest.get("num_skipped_in_row")) or folder.join(CHECKPOINT_DIVERGED).exists()


def _validation(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the values of a checkpoint's validation; empty without one."""
    validation = manifest.get("validation")
    return validation if isinstance(validation, dict) else {}
