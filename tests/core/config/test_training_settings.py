"""Combinations of settings that have no effect are refused, with the remedy."""

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
        (TEXT, "training.target_window=5", "training.target_window: has no effect for a corpus of text; remove it"),
        (TEXT, "training.scheduled_sampling.end=0.5", "training.scheduled_sampling: has no effect for a corpus of te"),
        (TEXT, "training.bpe_dropout=0.1", "training.bpe_dropout: has no effect for a corpus of text; remove it"),
        (
            PAIRS,
            "training.bpe_dropout=0.1",
            "training.bpe_dropout: drops merges, which only BPE has; use tokenizer.kind: b",
        ),
        (TEXT, "training.validation.bleu_lines=5", "training.validation.bleu_lines: has no effect for a corpus of te"),
        (PAIRS, "training.truncation=variable", "training.truncation: has no effect for a corpus of pairs; remove it"),
        (PAIRS, "training.activation_regularization=1", "training.activation_regularization: has no effect for a co"),
        (TEXT, "training.clip_value=1", "training.clip_value: excludes clip_norm; set clip_norm: null"),
        (
            TEXT,
            "training.schedule.reload_best=true",
            "training.schedule.reload_best: is not a setting of kind constant; remove it, o",
        ),
        (PAIRS, "training.early_stop.metric=bleu", "training.early_stop.metric: bleu needs validation.bleu_lines"),
        (PAIRS, "training.sampling=random", "training.sampling: has no effect for a corpus of pairs; remove it"),
        (
            TEXT,
            "training.optimizer.momentum=0.9",
            "training.optimizer.momentum: is not a setting of kind adam; remove it, or use k",
        ),
        (
            TEXT,
            "training.truncation.cut_every=2",
            "cut_every: is not a setting of kind fixed; remove it, or use kind random",
        ),
        (TEXT, "training.schedule=plateau", "training.schedule: needs validation lines; name corpus.valid, or set cor"),
        (PAIRS, "training.early_stop.patience=3", "training.early_stop: needs validation lines; name corpus.valid, o"),
        (TEXT, "model.input=one_hot model.tie_embeddings=true", "model.tie_embeddings: a one-hot input has no embeddi"),
        (TEXT, "training.embeddings.target=x.txt", "training.embeddings: target is not a side of a corpus of text"),
        (PAIRS, "training.embeddings.text=x.txt", "training.embeddings: text is not a side of a corpus of pairs"),
        (PAIRS, "decoding.num_best=9", "decoding.num_best: 9 translations cannot come from a beam of 5"),
        (PAIRS, "decoding.method=sample decoding.num_best=300", "decoding.batch_rows: one line needs beam_size rows"),
        (
            PAIRS,
            "decoding.coverage_penalty=0.2 decoding.fusion.run=lm decoding.fusion.when=after",
            "decoding.coverage_penalty: rescoring has no coverage; use fusion.when: search",
        ),
        (
            PAIRS,
            "model.attention=dot model.coverage_attention=true",
            "model.coverage_attention: attention: dot has no coverage term; use additive",
        ),
        (TEXT, "training.truncation=none training.sampling=random", "training.truncation: none is for whole lanes"),
        (
            TEXT,
            "generation.method=greedy generation.temperature=0.7",
            "generation.temperature: has no effect with method: gr",
        ),
        (
            TEXT,
            "generation.method=greedy generation.seed=7",
            "generation.seed: has no effect with method: greedy; use method",
        ),
        (
            PAIRS,
            "decoding.top_k=10",
            "decoding.top_k: has no effect with method: beam; use method: sample, or leave it out",
        ),
        (
            PAIRS,
            "decoding.seed=10",
            "decoding.seed: has no effect with method: beam; use method: sample, or leave it out",
        ),
        (
            TEXT,
            "training.truncation=random training.truncation.cut_probability=1",
            "training.truncation.cut_probability: must be less than 1",
        ),
        (
            TEXT,
            "corpus.valid.text=[b] training.optimizer=asgd "
            "training.schedule=plateau training.schedule.reload_best=true",
            "training.schedule.reload_best: does not work with averaged weights; use another optimizer, or",
        ),
    ],
)
def test_settings_without_effect_are_refused(text: str, override: str, expected: str) -> None:
    with pytest.raises(errors.UsageError) as caught:
        loading.parse(text, "run.yaml", override.split())
    assert expected in str(caught.value)


def test_sampling_allows_more_translations_than_a_beam_has_hypotheses() -> None:
    config = loading.parse(PAIRS, "run.yaml", ["decoding.method=sample", "decoding.num_best=9"])
    assert config.decoding.rows_per_line == 9


def test_settings_that_need_validation_are_allowed_with_a_validation_split() -> None:
    for split in ("corpus.split.valid=0.1", "corpus.valid.text=[b]"):
        assert loading.parse(
            TEXT, "run.yaml", [split, "training.schedule=plateau"]
        ).training.setting_requiring_validation


def test_variable_windows_need_sequential_lanes() -> None:
    with pytest.raises(errors.UsageError, match=r"training.truncation: .*use sampling: sequential"):
        loading.parse(TEXT, "run.yaml", ["training.truncation=variable", "training.sampling=random"])


def test_label_smoothing_is_refused_with_adaptive_softmax() -> None:
    with pytest.raises(errors.UsageError, match=r"training.label_smoothing: does not work with adaptive softmax"):
        loading.parse(TEXT, "run.yaml", ["training.label_smoothing=0.1", "model.adaptive_cutoffs=[100]"])
