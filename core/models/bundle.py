"""The bundle: weights, model settings and tokenizers, as files that hold no code and are checked whole.

`model.safetensors` has each weight once, in fp32, under the first (sorted) of its names, or the tables of a model
that counts. `model.json` says what the bundle is and has the SHA-256 of the other files and of itself.
`tokenizer.json` serves text, or both sides of pairs; `tokenizer.source.json` and `tokenizer.target.json` serve one
side each.
"""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, NoReturn

import torch
from torch import Tensor, nn, overrides

from core import errors
from core.config import autoregressive_settings, model_settings, ngram_settings
from core.data.tokens import tokenizer
from core.models import autoregressive, factory, weights
from core.models.ngram import ngram_model
from core.storage import commit, location

FORMAT = "raycurrent-bundle"
VERSION = 1
WEIGHTS_FILE = "model.safetensors"
SETTINGS_FILE = "model.json"

CHECKPOINTS, FOLDER = "checkpoints", "bundle"
"""Where checkpoints are below the root of a run, and where the bundle is in each."""
CHECKPOINT_NAME = re.compile(r"step-([0-9]{8,18})-e([0-9]{1,9})")
CHECKPOINT_FORMAT = "raycurrent-checkpoint"
CHECKPOINT_VERSION = 1
CHECKPOINT_MANIFEST = "MANIFEST.json"

Metric = Literal["perplexity", "bleu"]
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

    `codecs` are those of `text`, or of `source` and `target`; `line_end` is what stood between two lines in
    training; `columns` are the names of `inputs` and `targets` of a series; `fingerprint` identifies the files that
    it was loaded from, empty for one that never was in files.
    """

    model: Model
    config: model_settings.ModelConfig
    codecs: Mapping[str, tokenizer.Codec]
    line_end: Literal["none", "space", "eos"]
    precision: Literal["fp32", "bf16"]
    fingerprint: str = ""
    columns: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


def to_files(bundle: Bundle) -> dict[str, bytes]:
    """Returns the content of every file of the bundle by its name; equal bundles give equal bytes."""
    content = {WEIGHTS_FILE: weights.to_bytes(stored_tensors(bundle.model))}
    shared = len({codec.tokenizer.fingerprint for codec in bundle.codecs.values()}) == 1
    codecs = {}
    for role, codec in sorted(bundle.codecs.items()):
        name = "tokenizer.json" if shared else f"tokenizer.{role}.json"
        content[name] = codec.tokenizer.to_json().encode()
        codecs[role] = {
            "tokenizer": name,
            "fingerprint": codec.tokenizer.fingerprint,
            "vocabulary_size": codec.tokenizer.vocabulary_size,
            "cleaning": list(codec.cleaning),
        }
    settings = {
        "format": FORMAT,
        "version": VERSION,
        "kind": bundle.config.kind,
        "config": bundle.config.model_dump(mode="json"),
        "codecs": codecs,
        "line_end": bundle.line_end,
        "precision": bundle.precision,
        "files": {name: commit.sha256_hex(data) for name, data in sorted(content.items())},
    }
    if bundle.columns:
        settings["columns"] = {role: list(names) for role, names in bundle.columns.items()}
    settings["sha256"] = _digest(settings)
    content[SETTINGS_FILE] = (json.dumps(settings, indent=1, ensure_ascii=False) + "\n").encode()
    return content


def load(folder: location.Location) -> Bundle:
    """Reads a bundle and checks all of it before the model is built; the model is in evaluation mode, on the CPU.

    Raises:
        IntegrityError: a file is missing, damaged, of a newer format or does not fit the others.
    """
    settings = _read_settings(folder)
    where = str(folder.join(SETTINGS_FILE))
    try:
        config = _CONFIGS[settings["kind"]].model_validate_json(json.dumps(settings["config"]))
        codecs = {role: _read_codec(folder, settings, role) for role in _ROLES[config.kind]}
        line_end, precision = settings["line_end"], settings["precision"]
        columns = {role: tuple(map(str, settings["columns"][role])) for role in _COLUMNS.get(config.kind, ())}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise errors.IntegrityError(f"{where}: is not complete or not valid: {error}; restore the file") from error
    if line_end not in ("none", "space", "eos") or precision not in ("fp32", "bf16"):
        _refuse(where, f"has line_end {line_end!r} and precision {precision!r}, which do not exist")
    model = _read_model(folder, settings, config, codecs, columns)
    return Bundle(model, config, codecs, line_end, precision, settings["sha256"], columns)


def stored_tensors(model: torch.nn.Module) -> dict[str, Tensor]:
    """Returns what a bundle keeps of a model: its parameters, or the tables of one that counts."""
    return model.tables if isinstance(model, ngram_model.Ngram) else unique_parameters(model)


def unique_parameters(model: torch.nn.Module) -> dict[str, Tensor]:
    """Returns each parameter once, under the first (sorted) of its names."""
    first: dict[int, str] = {}
    found: dict[str, Tensor] = {}
    for name, parameter in sorted(model.named_parameters(remove_duplicate=False), key=lambda item: item[0]):
        if first.setdefault(id(parameter), name) == name:
            found[name] = parameter
    return found


def _read_settings(folder: location.Location) -> dict[str, Any]:
    where = str(folder.join(SETTINGS_FILE))
    try:
        settings = json.loads(_read(folder, SETTINGS_FILE))
    except (ValueError, RecursionError) as error:
        raise errors.IntegrityError(f"{where}: is no JSON ({error}); restore the file from a copy") from error
    if not isinstance(settings, dict) or settings.get("format") != FORMAT:
        _refuse(where, f"is not of our format {FORMAT}")
    version = settings.get("version")
    if type(version) is not int or version < 1:
        _refuse(where, f"has the version {version!r}")
    if version > VERSION:
        raise errors.IntegrityError(
            f"{where}: was written by format {version}, this program reads up to {VERSION}; use a newer Raycurrent"
        )
    if settings.get("sha256") != _digest(settings):
        _refuse(where, "has not the content that it was written with")
    return settings


def _read_codec(folder: location.Location, settings: dict[str, Any], role: str) -> tokenizer.Codec:
    record = settings["codecs"][role]
    name = record["tokenizer"]
    if name not in ("tokenizer.json", f"tokenizer.{role}.json"):
        _refuse(str(folder.join(SETTINGS_FILE)), f"names {name!r} as a tokenizer")
    where = str(folder.join(name))
    read = tokenizer.Tokenizer.from_json(_read_checked(folder, settings, name).decode("utf-8"), where)
    if (read.fingerprint, read.vocabulary_size) != (record["fingerprint"], record["vocabulary_size"]):
        _refuse(where, f"is another tokenizer ({read.vocabulary_size} entries) than {SETTINGS_FILE} says")
    return tokenizer.Codec(cleaning=tuple(record["cleaning"]), tokenizer=read)


def _read_model(
    folder: location.Location,
    settings: dict[str, Any],
    config: model_settings.ModelConfig,
    codecs: Mapping[str, tokenizer.Codec],
    columns: Mapping[str, tuple[str, ...]],
) -> Model:
    where = str(folder.join(WEIGHTS_FILE))
    if config.kind == "ngram":
        tables = weights.from_bytes(_read_checked(folder, settings, WEIGHTS_FILE), where)
        return ngram_model.from_tables(config, codecs["text"].tokenizer.vocabulary_size, tables, where).eval()
    # What the settings ask for is compared with what the file holds before any memory is taken for it.
    with torch.device("meta"), _Undrawn():
        expected = unique_parameters(_build(config, codecs, columns))
    stored = weights.from_bytes(_read_checked(folder, settings, WEIGHTS_FILE), where, expected)
    weights.check_finite(stored, where)
    with torch.random.fork_rng(devices=[]):
        model = _build(config, codecs, columns)
    with torch.no_grad():
        for name, parameter in unique_parameters(model).items():
            parameter.copy_(stored[name])
    return model.eval()


class _Undrawn(overrides.TorchFunctionMode):
    """Leaves out draws on the meta device, which has no values: torch loads its compiler for them, 3 s of CPU time."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        return given["tensor"] if function is nn.init.normal_ else function(*args, **given)


def _build(
    config: model_settings.NetworkConfig | autoregressive_settings.AutoregressiveConfig,
    codecs: Mapping[str, tokenizer.Codec],
    columns: Mapping[str, tuple[str, ...]],
) -> factory.Model | autoregressive.Autoregressive:
    if config.kind == "autoregressive":
        return autoregressive.Autoregressive(config, len(columns["inputs"]), len(columns["targets"]))
    sizes = {role: codec.tokenizer.vocabulary_size for role, codec in codecs.items()}
    return factory.build(config, sizes, next(iter(codecs.values())).tokenizer.pad_id)


def _read_checked(folder: location.Location, settings: dict[str, Any], name: str) -> bytes:
    data = _read(folder, name)
    expected, found = settings["files"][name], commit.sha256_hex(data)
    if found != expected:
        _refuse(str(folder.join(name)), f"has the SHA-256 {found[:16]}… instead of {str(expected)[:16]}…")
    return data


def _read(folder: location.Location, name: str) -> bytes:
    try:
        return folder.join(name).read_bytes()
    except errors.NotFoundError as error:
        raise errors.IntegrityError(f"{folder.join(name)}: is missing; restore the bundle from a copy") from error


def _digest(settings: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in settings.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _refuse(where: str, what: str) -> NoReturn:
    raise errors.IntegrityError(f"{where}: {what}; restore the file from a copy")


class Found(NamedTuple):
    """The checkpoint that inference uses, and those before it that were damaged, each with why."""

    checkpoint: location.Location
    bundle: location.Location
    step: int
    passed_over: tuple[str, ...]


def locate(run: location.Location) -> location.Location:
    """Returns the bundle folder that inference uses for this run or checkpoint folder; see `find`."""
    return find(run).bundle


def find(run: location.Location) -> Found:
    """Finds the checkpoint of a run that inference uses, with the files of its bundle verified.

    Of a run's root: the one with the best validation (see `preference`), by the metric that its newest checkpoint
    names; where none was validated the newest, by fencing epoch and step. A damaged one is passed over, and told. A
    checkpoint folder is taken as it is.

    Raises:
        UsageError: there is no checkpoint.
        IntegrityError: there is none that verifies.
    """
    return find_best(run, 1)[0]


def find_best(run: location.Location, count: int) -> list[Found]:
    """Finds so many checkpoints of a run, in the order in which `find` prefers them; the first is that of `find`.

    Raises:
        UsageError: there are fewer, or `run` is a single checkpoint folder and more than one is asked for.
        IntegrityError: there is none that verifies.
    """
    if run.join(CHECKPOINT_MANIFEST).exists():
        if count > 1:
            raise errors.UsageError(f"{run}: is one checkpoint, {count} are asked for; name the root of the run")
        return [Found(run, run.join(FOLDER), int(_verified(run)["step"]), ())]
    passed_over: list[str] = []
    candidates: list[tuple[int, int, dict[str, Any], location.Location]] = []
    for name in run.join(CHECKPOINTS).list_names():
        match = CHECKPOINT_NAME.fullmatch(name)
        folder = run.join(CHECKPOINTS, name) if match else run
        if match is None or not folder.join(CHECKPOINT_MANIFEST).exists():
            continue
        try:
            manifest = _manifest(folder)
        except errors.IntegrityError as error:
            passed_over.append(str(error))
        else:
            candidates.append((int(match[2]), int(match[1]), manifest, folder))
    candidates.sort(key=lambda one: one[:2], reverse=True)
    metric: Metric = "bleu" if candidates and candidates[0][2].get("best_by") == "bleu" else "perplexity"
    candidates.sort(key=lambda one: preference(metric, _figures(one[2])))
    found: list[Found] = []
    for _, step, _, folder in candidates:
        try:
            _verified(folder)
        except errors.IntegrityError as error:
            passed_over.append(str(error))
        else:
            found.append(Found(folder, folder.join(FOLDER), step, tuple(passed_over)))
        if len(found) == count:
            return found
    if found:
        raise errors.UsageError(
            f"{run}: has {len(found)} checkpoints that verify, {count} are asked for; ask for fewer, or train with a "
            f"larger training.keep_checkpoints"
        )
    if passed_over:
        raise errors.IntegrityError(f"{run}: no checkpoint verifies, restore one from a copy; first: {passed_over[0]}")
    raise errors.UsageError(f"{run}: has no checkpoint; train first, or name the root of a run that was trained")


def preference(metric: Metric, figures: Mapping[str, Any]) -> tuple[float, float]:
    """Returns what checkpoints are ordered by, the best first, given the figures of their validations.

    By perplexity: the lower `nll_nats`, in nats a token. By BLEU: the higher `bleu`, of equal ones the lower
    `nll_nats`. What has no such figure comes last.
    """
    loss, bleu = (
        float(value) if isinstance(value := figures.get(name), int | float) and math.isfinite(value) else None
        for name in ("nll_nats", "bleu")
    )
    last = math.inf if loss is None else loss
    if metric == "perplexity":
        return 0.0, last
    return math.inf if bleu is None else -bleu, last


def _manifest(folder: location.Location) -> dict[str, Any]:
    return commit.read_manifest(folder, CHECKPOINT_MANIFEST, CHECKPOINT_FORMAT, CHECKPOINT_VERSION)


def _verified(folder: location.Location) -> dict[str, Any]:
    """Checks the files of the bundle against the checkpoint's manifest, and returns it."""
    manifest = _manifest(folder)
    where = str(folder.join(CHECKPOINT_MANIFEST))
    files, step = manifest.get("files"), manifest.get("step")
    if not isinstance(files, list) or type(step) is not int:
        _refuse(where, "does not say its step and its files")
    every = [commit.FileRecord.from_json(file, where) for file in files]
    records = [record for record in every if record.name.startswith(f"{FOLDER}/")]
    names = {record.name for record in records}
    if not {f"{FOLDER}/{SETTINGS_FILE}", f"{FOLDER}/{WEIGHTS_FILE}"} <= names:
        _refuse(where, "lists no bundle")
    commit.verify(folder, records)
    return manifest


def _figures(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns what the validation of a checkpoint found; nothing where there was none."""
    validation = manifest.get("validation")
    return validation if isinstance(validation, dict) else {}
