"""Stored forms: plans and fingerprints of release 0.1 are equal to those of today."""

import json
from typing import Any

import pytest

from core.config import inference_settings, loading, schema, stored_forms, yaml_reader
from tests.golden import make


def _config(kind: str) -> schema.RunConfig:
    path = make.ROOTS / kind / "config.yaml"
    return loading.parse_stored(path.read_bytes(), str(path))


def _plan(kind: str, folder: str) -> dict[str, Any]:
    plan: dict[str, Any] = json.loads((make.ROOTS / kind / "outputs" / folder / make.PLAN).read_text())["plan"]
    return plan


@pytest.mark.parametrize(("kind", "folder"), [("translation", "translated"), ("two-corpora", "drawn")])
def test_translation_settings_keep_their_form_in_stored_plans(kind: str, folder: str) -> None:
    stored = _plan(kind, folder)["decoding"]
    form = stored_forms.of_translation(_config(kind).decoding)
    assert {**form, "shortlist": None} == {**stored, "shortlist": None}


@pytest.mark.parametrize(("kind", "folder"), [("translation", "scored"), ("language-model", "scored-stream")])
def test_scoring_settings_keep_their_form_in_stored_plans(kind: str, folder: str) -> None:
    assert stored_forms.of_scoring(_config(kind).scoring) == _plan(kind, folder)["scoring"]


def test_forecasting_settings_keep_their_form_in_stored_plans() -> None:
    assert stored_forms.of_forecasting(_config("series").forecasting) == _plan("series", "forecasts")["forecasting"]


@pytest.mark.parametrize(
    ("kind", "verb"), [("translation", "translate"), ("language-model", "generate"), ("ngram", "generate")]
)
def test_a_fingerprint_of_decoding_has_the_old_decoding_section(kind: str, verb: str) -> None:
    config = _config(kind)
    stored = yaml_reader.read((make.ROOTS / kind / "config.yaml").read_text(), kind).data["decoding"]
    assert stored_forms.of_decoding(config.decoding, config.generation, verb) == stored


def test_a_setting_that_was_added_later_is_stored_only_if_it_is_not_the_default() -> None:
    class NewerScoringConfig(inference_settings.ScoringConfig):
        added: int = 3

    plain = stored_forms.of_scoring(inference_settings.ScoringConfig())
    assert stored_forms.of_scoring(NewerScoringConfig()) == plain
    assert stored_forms.of_scoring(NewerScoringConfig(added=4)) == {**plain, "added": 4}
