"""Settings in the form of stored plans and fingerprints.

Output plans and the fingerprints of a pipeline's stages hold whole sections, and are compared as a whole. So that an
output of an older release is still known, sections are stored with the names of release 0.1. A setting that was added
later is left out where it has its default, which reproduces the old behaviour.
"""

import json
from collections.abc import Mapping
from typing import Any

import pydantic

from core import errors
from core.config import inference_settings, old_names, schema, section, training_settings, yaml_reader

# Names of settings that are stored even with their defaults: those that release 0.1 had. A name in a tuple says
# nothing about which verb uses the setting.
_SCORING = ("unit", "lanes", "part_lines", "batch_tokens", "tokens", "target_token", "cache", "dynamic")
_FORECASTING = ("method", "horizons")
_COMPUTE = ("precision", "matmul")
_DECODING = (
    *("beam_size", "num_best", "length_penalty", "min_length", "max_length", "part_lines", "batch_rows", "method"),
    *("temperature", "top_k", "top_p", "seed", "average_checkpoints", "coverage_penalty", "no_repeat_ngram"),
    *("repetition_penalty", "target_token", "replace_unknown", "fusion", "shortlist", "alignments", "attention_maps"),
)
_GENERATION = ("num_tokens", "steps_ahead", *old_names.SHARED)


def read_training(stored: Mapping[str, Any]) -> training_settings.TrainingConfig | None:
    """Returns the training settings of a checkpoint, perhaps of an older release; None if they are refused now."""
    document = yaml_reader.Document(json.loads(json.dumps({"training": stored})), {})
    try:
        old_names.translate(document, is_stored=True)
        return training_settings.TrainingConfig.model_validate_json(json.dumps(document.data["training"]), strict=True)
    except (errors.UsageError, pydantic.ValidationError):
        return None


def of_scoring(scoring: inference_settings.ScoringConfig) -> dict[str, Any]:
    """Returns settings of scoring; averaged checkpoints are identified by their fingerprints or names."""
    form = {**_form(scoring, _SCORING), "unit": scoring.unit_or_line}
    return {name: value for name, value in form.items() if name != "average_checkpoints"}


def of_forecasting(forecasting: inference_settings.ForecastingConfig) -> dict[str, Any]:
    """Returns settings of forecasting, but for those of reading: the values read identify a series, not its file."""
    form = _form(forecasting, _FORECASTING)
    return {name: value for name, value in form.items() if name not in ("csv", "gaps")}


def of_compute(compute: schema.ComputeConfig) -> dict[str, Any]:
    """Returns settings of computation."""
    return _form(compute, _COMPUTE)


def of_translation(decoding: inference_settings.DecodingConfig) -> dict[str, Any]:
    """Returns what translations depend on: settings of sampling only where it samples."""
    form = _form(decoding, _DECODING)
    others = {"alignments", "attention_maps", "average_checkpoints"}
    if decoding.method == "beam":
        others |= {"method", "temperature", "top_k", "top_p", "seed"}
    # `decoding.steps_ahead`, of n-grams, was in every plan.
    return {name: value for name, value in {**form, "steps_ahead": None}.items() if name not in others}


def of_decoding(
    decoding: inference_settings.DecodingConfig, generation: inference_settings.GenerationConfig, verb: str
) -> dict[str, Any]:
    """Returns the one section that was for translations and generated text, as `verb` used it."""
    form, made = _form(decoding, _DECODING), _form(generation, _GENERATION)
    if verb == "translate":
        made = {name: made[name] for name in ("num_tokens", "steps_ahead")}
    form |= made
    if form["method"] != "sample":
        form |= {"method": "greedy", "temperature": 1.0}
    return form


def _form(settings: section.Section, names: tuple[str, ...]) -> dict[str, Any]:
    """Returns the named settings as JSON, and those others that do not have their defaults."""
    defaults = {name: field.default for name, field in type(settings).model_fields.items()}
    content = settings.model_dump(mode="json")
    return {
        name: value for name, value in content.items() if name in names or getattr(settings, name) != defaults[name]
    }
