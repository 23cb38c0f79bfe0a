"""Combinations of training settings that mean nothing are refused, with what to do."""

import pytest

from core import errors
from core.config import loading

TEXT = "name: a\nroot: r\ncorpus: {kind: text, train: {text: [a]}}\nmodel: {kind: language_model}\n"
PAIRS = (
    "name: b\nroot: r\ncorpus: {kind: pairs, train: {tsv: [a]}}\nmodel: {kind: seq2seq}\ntraining: {batch_lines: 4}\n"
)


@pytest.mark.parametrize(
    ("text", "override", "expected"),
    [
        (TEXT, "training.target_window=5", "training.target_window: means nothing for a corpus of text; drop it"),
        (TEXT, "training.scheduled_sampling.end=0.5", "training.scheduled_sampling: means nothing for a corpus of te"),
        (TEXT, "training.validation.bleu_lines=5", "training.validation.bleu_lines: means nothing for a corpus of te"),
        (PAIRS, "training.truncation=variable", "training.truncation: means nothing for a corpus of pairs; drop it"),
        (PAIRS, "training.activation_regularization=1", "training.activation_regularization: means nothing for a co"),
        (TEXT, "training.clip_value=1", "training.clip_value: excludes clip_norm; set clip_norm: null"),
        (TEXT, "training.reload_best=true", "training.reload_best: belongs to schedule: plateau"),
        (PAIRS, "training.early_stop.metric=bleu", "training.early_stop.metric: bleu needs validation.bleu_lines"),
        (TEXT, "training.cut_probability=1", "training.cut_probability: must be less than 1"),
    ],
)
def test_what_means_nothing_is_refused(text: str, override: str, expected: str) -> None:
    with pytest.raises(errors.UsageError) as caught:
        loading.parse(text, "run.yaml", [override])
    assert expected in str(caught.value)


def test_variable_windows_need_lanes_that_go_on() -> None:
    with pytest.raises(errors.UsageError, match=r"training.truncation: .*use sampling: sequential"):
        loading.parse(TEXT, "run.yaml", ["training.truncation=variable", "training.sampling=random"])


def test_an_adaptive_output_layer_is_not_smoothed() -> None:
    with pytest.raises(errors.UsageError, match=r"training.label_smoothing: an adaptive output layer"):
        loading.parse(TEXT, "run.yaml", ["training.label_smoothing=0.1", "model.adaptive_cutoffs=[100]"])
