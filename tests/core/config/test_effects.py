"""Settings without effect: warned of in a file, refused as an override of a verb that uses a run."""

import logging
from typing import Any

import pytest

from core import errors
from core.config import inference_settings, loading

TEXT = """
name: run
root: runs/run
corpus: {kind: text, train: {text: [a.txt]}, split: {valid: 0.1}}
model: {kind: language_model}
"""
PAIRS = """
name: run
root: runs/run
corpus: {kind: pairs, train: {tsv: [a.tsv]}, split: {valid: 0.1}}
model: {kind: seq2seq}
training: {batch_tokens: 100}
"""


@pytest.mark.parametrize(
    ("text", "overrides", "name"),
    [
        (TEXT, ["decoding.beam_size=3"], "decoding.beam_size"),
        (PAIRS, ["generation.num_tokens=3"], "generation.num_tokens"),
        (PAIRS, ["training.num_lanes=3"], "training.num_lanes"),
        (PAIRS, ["training.window=3"], "training.window"),
        (TEXT, ["training.clip_norm=null", "training.clip_by=layer"], "training.clip_by"),
        (TEXT, ["model.dropout=0.1"], "model.dropout"),
        (PAIRS, ["model.connections=residual"], "model.connections"),
        (TEXT, ["model.locked_dropout=true"], "model.locked_dropout"),
        (TEXT, ["model.scale_tied=false"], "model.scale_tied"),
        (TEXT, ["model.input=one_hot", "model.embedding_size=8"], "model.embedding_size"),
        (TEXT, ["tokenizer.shared=true"], "tokenizer.shared"),
        (TEXT, ["tokenizer.sample_bytes=2000"], "tokenizer.sample_bytes"),
        (TEXT, ["tokenizer={kind: bpe, max_size: 300, min_freq: 2}"], "tokenizer.min_freq"),
        (TEXT, ["corpus.filters.too_long=cut"], "corpus.filters.too_long"),
        (TEXT, ["corpus.filters.max_ratio=2"], "corpus.filters.max_ratio"),
        (TEXT, ["corpus.limit.vocabulary=before"], "corpus.limit.vocabulary"),
        (PAIRS, ["decoding={method: sample, length_penalty: 0.5}"], "decoding.length_penalty"),
        (PAIRS, ["decoding={method: sample, beam_size: 2}"], "decoding.beam_size"),
        (TEXT, ["scoring={unit: line, lanes: 2}"], "scoring.lanes"),
        (TEXT, ["scoring={unit: stream, dynamic: {rule: sgd, epsilon: 1.0}}"], "scoring.dynamic.epsilon"),
    ],
)
def test_a_setting_without_effect_in_a_file_is_one_warning(
    text: str, overrides: list[str], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        loading.parse(text, "run.yaml", overrides)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"run.yaml: {name}: has no effect")


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        (TEXT, []),
        (PAIRS, []),
        (TEXT, ["model.num_layers=2", "model.dropout=0.1", "model.locked_dropout=true", "model.connections=residual"]),
        (TEXT, ["model.tie_embeddings=true", "model.scale_tied=false", "model.output_dropout=0.1"]),
        (PAIRS, ["decoding={method: sample, length_penalty: 1.0, beam_size: 5}", "tokenizer.shared=true"]),
    ],
)
def test_settings_with_an_effect_and_defaults_are_not_warned_of(
    text: str, overrides: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        loading.parse(text, "run.yaml", overrides)
    assert not caplog.records


@pytest.mark.parametrize(
    ("base", "prefix", "overrides"),
    [
        (inference_settings.DecodingConfig(), "decoding", ["decoding.method=sample", "decoding.length_penalty=0.5"]),
        (inference_settings.DecodingConfig(), "decoding", ["decoding.method=sample", "decoding.beam_size=9"]),
        (inference_settings.ScoringConfig(), "scoring", ["scoring.unit=line", "scoring.lanes=2"]),
        (
            inference_settings.ScoringConfig(),
            "scoring",
            ["scoring.unit=stream", "scoring.dynamic.rule=sgd", "scoring.dynamic.epsilon=1"],
        ),
    ],
)
def test_an_override_without_effect_is_refused_and_what_is_stored_is_kept(
    base: Any, prefix: str, overrides: list[str]
) -> None:
    with pytest.raises(errors.UsageError, match=f"--set {overrides[-1]}: has no effect with"):
        loading.section_from(base, overrides, prefix)
    name, _, value = overrides[-1].partition(".")[2].partition("=")
    if "." not in name:
        stored = base.model_copy(update={name: type(getattr(base, name))(value)})
        assert loading.section_from(stored, overrides[:-1], prefix) != stored
