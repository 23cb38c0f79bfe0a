"""Validation by decoding: BLEU, samples and continuations."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from core.config import evaluation_settings, inference_settings, training_settings
from core.data.dataset import shards
from core.data.text import selection
from core.decoding.translation import translator
from core.evaluation import quality
from core.models import bundle
from core.reporting import training_history
from core.telemetry import metrics
from core.training import checkpoint, collective, trainer, validation
from tests.core.decoding import samples
from tests.core.training import builders
from workers.train import validator


def _examiner(job: trainer.TrainingJob) -> validator.DecodingValidator:
    return validator.DecodingValidator(job.training.validation, job.evaluation, job.compute, job.seed)


def _make(settings: training_settings.ValidationConfig) -> validator.DecodingValidator:
    return validator.DecodingValidator(settings, evaluation_settings.EvaluationConfig(), builders.FP32, 1)


def _train(job: trainer.TrainingJob, group: collective.Collective) -> trainer.TrainingSummary:
    return trainer.train(job, group, metrics.NullMetrics(), builders.Watch(), _examiner(job))


def _rows(root: Path, kind: str) -> list[dict[str, Any]]:
    return [dict(row) for row in training_history.read(builders.location_of(root)) if row["kind"] == kind]


def test_validation_bleu_is_that_of_the_saved_model_on_lines_of_all_lengths(tmp_path: Path) -> None:
    pairs = builders.pairs_dataset(tmp_path / "pairs")
    settings: dict[str, Any] = {"validation": {"bleu_lines": 8, "samples": 3}, "learning_rate": 0.05, "epochs": 4}
    summary = _train(builders.job(tmp_path / "run", pairs, builders.PAIRS, **settings), collective.SingleProcess())
    loaded = bundle.load(
        bundle.find_folder(builders.location_of(tmp_path / "run" / "checkpoints" / f"step-{summary.step:08d}-e1"))
    )
    split = shards.Dataset.open(pairs).split("valid")
    assert split is not None
    lengths = split.lengths(0, split.num_lines)["source"].tolist()

    def decode(numbers: Sequence[int]) -> list[tuple[str, ...]]:
        sources, references = (
            [loaded.codecs[side].decode(ids.tolist()) for ids in split.rows(torch.tensor(numbers).numpy(), side)]
            for side in ("source", "target")
        )
        ready = translator.Translator(loaded, inference_settings.DecodingConfig(beam_size=1), builders.FP32)
        outputs = [translation.text for translation in ready.translate(sources)]
        return list(zip(sources, outputs, references, strict=True))

    _, outputs, references = zip(*decode(selection.draw_by_length(lengths, 8)), strict=True)
    assert summary.validation is not None
    expected = quality.corpus(outputs, [references])
    assert expected.bleu > 0
    assert summary.validation.bleu == pytest.approx(expected.bleu)
    assert summary.validation.bleu_signature == expected.signatures["bleu"]
    kept = _rows(tmp_path / "run", "samples")[-1]["samples"]
    logged = [(sample["source"], sample["output"], sample["reference"]) for sample in kept]
    assert logged == decode(selection.draw_by_length(lengths, 3))


def test_validation_bleu_counts_by_the_tokenizer_of_the_settings(tmp_path: Path) -> None:
    pairs = builders.pairs_dataset(tmp_path / "pairs")
    by_characters = evaluation_settings.EvaluationConfig(tokenize="char", lowercase=True)
    job = builders.job(tmp_path / "run", pairs, builders.PAIRS, validation={"bleu_lines": 4}, epochs=1)
    _train(dataclasses.replace(job, evaluation=by_characters), collective.SingleProcess())
    (row,) = _rows(tmp_path / "run", "validation")
    assert "tok:char" in row["bleu_signature"]
    assert "case:lc" in row["bleu_signature"]


def test_samples_of_a_language_model_continue_the_beginnings_of_lines(tmp_path: Path) -> None:
    text = builders.text_dataset(tmp_path / "text")
    job = builders.job(tmp_path / "run", text, validation={"samples": 2})
    summary = _train(job, collective.SingleProcess())
    assert summary.validation is not None
    assert summary.validation.bleu is None
    rows = _rows(tmp_path / "run", "samples")
    assert [row["step"] for row in rows] == [row["step"] for row in _rows(tmp_path / "run", "validation")]
    kept = rows[-1]["samples"]
    assert [len(sample["source"]) for sample in kept] == [validator.PREFIX_TOKENS] * 2
    assert [len(sample["output"]) for sample in kept] == [validator.SAMPLE_TOKENS] * 2
    assert [len(sample["reference"]) for sample in kept] == [40, 30]  # the lines have 50 and 40 tokens


def test_lines_of_a_dataset_are_not_cleaned_again(tmp_path: Path) -> None:
    dataset = shards.Dataset.open(builders.pairs_dataset(tmp_path))
    examiner = _make(training_settings.ValidationConfig(samples=3))
    results = []
    for steps in ((), ("letters",)):  # would take the digits of all words
        codecs = {role: dataclasses.replace(codec, cleaning=steps) for role, codec in dataset.codecs.items()}
        made = samples.build(builders.PAIRS, codecs, dataset.index.line_end)
        results.append(examiner.decode(made, dataset, "", collective.SingleProcess(), torch.device("cpu")))
    assert results[0] == results[1]
    assert len(results[0].samples) == 3


def test_decoding_at_validations_changes_no_bit_of_training(tmp_path: Path) -> None:
    pairs = builders.pairs_dataset(tmp_path / "pairs")
    wet = builders.PAIRS.model_copy(update={"embedding_dropout": 0.3})
    _train(builders.job(tmp_path / "seen", pairs, wet, validation={"bleu_lines": 4}), collective.SingleProcess())
    builders.train(builders.job(tmp_path / "unseen", pairs, wet))
    assert builders.digest(tmp_path / "seen") == builders.digest(tmp_path / "unseen")


def test_nothing_is_decoded_by_default(tmp_path: Path) -> None:
    dataset = shards.Dataset.open(builders.pairs_dataset(tmp_path))
    examiner = _make(training_settings.ValidationConfig())
    blank: Any = None
    assert (
        examiner.decode(blank, dataset, "", collective.SingleProcess(), torch.device("cpu"))
        == validation.DecodingResult()
    )


def _train_all(_: int, group: collective.Collective, jobs: Sequence[tuple[trainer.TrainingJob, int | None]]) -> None:
    for job, stop_after in jobs:
        trainer.train(job, group, metrics.NullMetrics(), builders.Watch(stop_after), _examiner(job))


@pytest.mark.ddp
def test_two_ranks_decode_what_one_does_and_resume_with_the_same_bits(tmp_path: Path) -> None:
    """With variable windows, triggered averages and translated lines, on which ranks agree without communication."""
    text, pairs = builders.text_dataset(tmp_path / "text"), builders.pairs_dataset(tmp_path / "pairs")
    averaged: dict[str, Any] = {
        "truncation": {"kind": "variable"},
        "window": 8,
        "optimizer": {"kind": "asgd", "non_monotone_interval": 1},
        "learning_rate": 9.0,
        "validate_every_steps": 4,
        "log_every_steps": 1,
        "epochs": 4,
    }
    # A learning rate so low that rounding does not make two ranks decode something else.
    looked: dict[str, Any] = {"validation": {"bleu_lines": 7, "samples": 2}, "learning_rate": 1e-9, "epochs": 1}

    def jobs(name: str, stop: int | None = None) -> list[tuple[trainer.TrainingJob, int | None]]:
        averaged_job = builders.job(tmp_path / name / "text", text, **averaged)
        decoded_job = builders.job(tmp_path / name / "pairs", pairs, builders.PAIRS, **looked)
        return (
            [(averaged_job, stop), (averaged_job, 2), (averaged_job, None)]
            if stop
            else [(averaged_job, None), (decoded_job, None)]
        )

    _train_all(0, collective.SingleProcess(), jobs("alone"))
    builders.on_ranks(2, tmp_path, _train_all, [*jobs("two"), *jobs("stopped", 30)])
    assert builders.digest(tmp_path / "stopped" / "text") == builders.digest(tmp_path / "two" / "text")
    newest = checkpoint.find_newest(builders.location_of(tmp_path / "two" / "text")).ref
    assert newest is not None
    tensors = checkpoint.load(newest).optimizer
    (num_averaged,) = {value.item() for name, value in tensors.items() if name.startswith("num_averaged/")}
    assert 0 < newest.step - num_averaged < 30  # averages began on their own, and before the first stop
    losses = [[row["loss_nats"] for row in _rows(tmp_path / name / "text", "step")] for name in ("alone", "two")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert _rows(tmp_path / "two" / "pairs", "samples") == _rows(tmp_path / "alone" / "pairs", "samples")
    bleus = [_rows(tmp_path / name / "pairs", "validation")[-1]["bleu"] for name in ("alone", "two")]
    assert bleus[0] == bleus[1]
