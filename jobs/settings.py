"""Inference settings of a trained run: those stored with it, overridden on the command line."""

import importlib.resources
import json
from collections.abc import Sequence

from core import errors
from core.config import (
    autoregressive_settings,
    evaluation_settings,
    inference_settings,
    loading,
    model_settings,
    old_names,
    schema,
    section,
)
from core.storage import location, root_layout


class InferenceSettings(section.Section):
    """Settings of the verbs that take `--run`."""

    decoding: inference_settings.DecodingConfig = section.operational(
        inference_settings.DecodingConfig(), "translation"
    )
    generation: inference_settings.GenerationConfig = section.operational(
        inference_settings.GenerationConfig(), "generation of text"
    )
    scoring: inference_settings.ScoringConfig = section.operational(
        inference_settings.ScoringConfig(), "scoring of text"
    )
    forecasting: inference_settings.ForecastingConfig = section.operational(
        inference_settings.ForecastingConfig(), "forecasting of series"
    )
    cluster: schema.ClusterConfig = section.operational(schema.ClusterConfig(), "cluster and workers")
    compute: schema.ComputeConfig = section.operational(schema.ComputeConfig(), "precision and libraries")
    telemetry: schema.TelemetryConfig = section.operational(schema.TelemetryConfig(), "export of metrics")


SECTIONS = {"translate": "decoding", "score": "scoring", "generate": "generation", "forecast": "forecasting"}
"""The section of each verb that uses a run, besides those of all."""


def load_run_settings(
    run: location.Location, overrides: Sequence[str] = (), verb: str | None = None
) -> InferenceSettings:
    """Reads the inference settings stored with a run, and applies overrides.

    A checkpoint folder that was copied out of its run has the defaults.

    Args:
        run: root of a run, or one checkpoint folder.
        overrides: such as `decoding.beam_size=3`.
        verb: the verb that they are for, if there is only one.

    Raises:
        UsageError: the location does not exist, or an override names a setting that cannot change after training, or
            has no effect on the verb.
    """
    config = _config(run)
    stored = _stored(run, config)
    kind = kind_of(run)
    overrides = old_names.translate_overrides(overrides, kind, has_generation=config is not None)
    _refuse_sections(overrides, verb)
    # An unknown name is reported by the first section, so the one that the model uses comes first.
    used = "decoding" if kind in ("seq2seq", None) else "generation"
    names = sorted(InferenceSettings.model_fields, key=lambda name: name != used)
    return InferenceSettings(**{name: loading.section_from(getattr(stored, name), overrides, name) for name in names})


def check_overrides(overrides: Sequence[str], verb: str) -> None:
    """Checks the overrides of a run that cannot be read from here: their names and values, each by itself.

    Raises:
        UsageError: as `load_run_settings`, which will read them with the settings of the run.
    """
    kind = {"translate": "seq2seq", "generate": "language_model"}.get(verb)
    overrides = old_names.translate_overrides(overrides, kind)
    _refuse_sections(overrides, verb)
    for override in overrides:
        name = override.partition("=")[0].partition(".")[0].strip()
        if name in InferenceSettings.model_fields:
            loading.check_override(type(InferenceSettings.model_fields[name].default), override, name)
        else:
            loading.section_from(schema.ClusterConfig(), [override], "cluster")  # reports the name


def _refuse_sections(overrides: Sequence[str], verb: str | None) -> None:
    """Refuses overrides of sections that cannot change after training, or that have no effect on the verb."""
    for override in overrides:
        name = override.partition("=")[0].partition(".")[0]
        if name in schema.RunConfig.model_fields and name not in InferenceSettings.model_fields:
            raise errors.UsageError(
                f"--set {override}: cannot change after training; allowed here: "
                f"{', '.join(InferenceSettings.model_fields)}"
            )
    for override in overrides if verb is not None else ():
        name = override.partition(".")[0].strip()
        if name in SECTIONS.values() and name != SECTIONS[str(verb)]:
            raise errors.UsageError(
                f"--set {override}: has no effect on {verb}, whose settings are in {SECTIONS[str(verb)]}; leave it out"
            )


def _stored(run: location.Location, config: schema.RunConfig | None) -> InferenceSettings:
    if config is not None:
        return InferenceSettings(
            decoding=config.decoding,
            generation=config.generation,
            scoring=config.scoring,
            forecasting=config.forecasting,
            cluster=config.cluster,
            compute=config.compute,
            telemetry=config.telemetry,
        )
    if not run.exists():
        raise errors.UsageError(f"--run: {run} does not exist; name the root of a run or a checkpoint folder")
    return InferenceSettings()


def no_run_error(run: location.Location, where: str) -> errors.UsageError:
    """Returns the error of a location at which there is no run."""
    return errors.UsageError(f"{where}: {run} holds no run (there is no config.yaml); name the root of a run")


def seed_of(run: location.Location) -> int:
    """Returns the seed that a run was started with; 1 for a checkpoint that was copied out of its run."""
    config = _config(run)
    return 1 if config is None else config.seed


def name_of(run: location.Location) -> str:
    """Returns the name of a run; for a checkpoint that was copied out of its run, that of its folder."""
    config = _config(run)
    return run.name if config is None else config.name


def evaluation_of(
    run: location.Location | None, tokenize: evaluation_settings.BleuTokenizer | None, lowercase: bool | None
) -> tuple[evaluation_settings.EvaluationConfig, tuple[str, ...]]:
    """Returns the settings of an evaluation, and the cleaning steps of the run that made the translations.

    Args:
        run: that run; without it there are the defaults, and no cleaning.
        tokenize: overrides the setting of that name; None keeps it.
        lowercase: the same.

    Raises:
        UsageError: there is no run.
    """
    chosen = {"tokenize": tokenize, "lowercase": lowercase}
    overrides = {name: value for name, value in chosen.items() if value is not None}
    if run is None:
        return evaluation_settings.EvaluationConfig.model_validate(overrides), ()
    config = _config(run)
    if config is None:
        raise no_run_error(run, "--run")
    stored = config.evaluation.model_dump()
    corpus = next(iter(config.corpora_by_name.values()))  # all corpora of a run have the same cleaning
    return evaluation_settings.EvaluationConfig.model_validate({**stored, **overrides}), corpus.cleaning


def kind_of(run: location.Location) -> str | None:
    """Returns the kind of the model of a run, or of a checkpoint folder; None if it is not known."""
    config = _config(run)
    return _kind_of_checkpoint(run) if config is None else config.model.kind


def reads_backward(run: location.Location) -> bool | None:
    """Returns whether the model of a run reads text from its end to its beginning; None if it is not known."""
    config = _config(run)
    return None if config is None else model_settings.reads_backward(config.model)


def columns_of_series(run: location.Location) -> tuple[int, tuple[str, ...], tuple[str, ...]] | None:
    """Returns the horizon, the input and the forecast columns of the model of a run; None if they are not known."""
    config = _config(run)
    if config is None or not isinstance(config.model, autoregressive_settings.AutoregressiveConfig):
        return None
    assert config.corpus is not None
    return config.model.horizon, config.corpus.inputs, config.corpus.targets


def _kind_of_checkpoint(run: location.Location) -> str | None:
    """Returns the kind of model in a checkpoint folder that was copied out of its run."""
    # The names belong to `core.models.bundle`, whose import loads torch.
    model = run.join("bundle", "model.json")
    content = model.read_json() if model.exists() else None
    return str(content.get("kind")) if isinstance(content, dict) else None


def _config(run: location.Location) -> schema.RunConfig | None:
    # A checkpoint folder is two levels below the root of its run.
    for root in (run, run.parent.parent):
        path = root.join(root_layout.SETTINGS)
        if path.exists():
            return loading.parse_stored(path.read_bytes(), str(path))
    return None


_DEMO_ROOT = "runs/demo"
_DEMO_RUNS = (  # folder, configuration, form of the training source, its file
    ("translation", "demo-translation.yaml", "tsv", "pairs.tsv"),
    ("language", "demo-language.yaml", "text", "english.txt"),
)


def load_demo_configs(overrides: Sequence[str]) -> tuple[str, list[schema.RunConfig]]:
    """Reads the packaged configurations of the demo's runs and applies overrides to all of them.

    Returns:
        The demo's root, which `root=…` changes, and the configurations of the runs below it.
    """
    roots = [override.partition("=")[2] for override in overrides if override.startswith("root=")]
    root = (roots[-1] if roots else _DEMO_ROOT).rstrip("/")  # the last one counts, as of all settings
    others = [override for override in overrides if not override.startswith("root=")]
    configs = []
    for folder, name, form, file in _DEMO_RUNS:
        text = importlib.resources.files("jobs").joinpath("configs", name).read_text(encoding="utf-8")
        own = [
            f"root={json.dumps(f'{root}/{folder}')}",
            f"corpus.train.{form}={json.dumps([f'{root}/corpus/{file}'])}",
        ]
        configs.append(loading.parse(text, name, [*own, *others]))
    return root, configs
