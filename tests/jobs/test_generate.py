"""Laws of `generate` and its report."""

import pathlib
from typing import Any

import pytest
import torch

from core import errors
from core.config import inference_settings
from core.decoding.generation import generator
from core.storage import location
from jobs import generate
from tests.core.decoding import samples
from tests.jobs import trained


def _run(root: pathlib.Path, prefix: str, seed: int = 1, **generation: Any) -> dict[str, Any]:
    settings = inference_settings.GenerationConfig(**{"method": "greedy", "num_tokens": 10, **generation})
    return generate.run(location.Location.parse(str(root)), prefix, settings, samples.FP32, trained.NONE, seed)


def test_the_text_begins_with_the_prefix_and_depends_on_the_seed_alone(tmp_path: pathlib.Path) -> None:
    trained.save(samples.language_model(line_end="none"), tmp_path)
    report = _run(tmp_path, "the cat", method="sample")
    assert report == _run(tmp_path, "the cat", method="sample")
    assert report["text"].startswith("the cat")
    assert report["num_tokens"] == 10
    assert "warnings" not in report


def test_a_warning_counts_characters_that_are_not_in_the_vocabulary(tmp_path: pathlib.Path) -> None:
    trained.save(samples.language_model(line_end="none"), tmp_path)
    report = _run(tmp_path, "the XY")
    assert report["text"].startswith("the XY")
    assert "2 of its tokens" in report["warnings"][0]


def test_checkpoints_are_averaged(tmp_path: pathlib.Path) -> None:
    trained.save(samples.language_model(line_end="none"), tmp_path)
    with pytest.raises(errors.UsageError, match="has 1 intact checkpoints, 2 are needed"):
        _run(tmp_path, "the cat", average_checkpoints=2)
    silent = trained.save(samples.silence(samples.language_model(line_end="none")), tmp_path / "silent").path
    (silent / "checkpoints" / "step-00000005-e1").rename(tmp_path / "checkpoints" / "step-00000004-e1")
    half = samples.language_model(line_end="none")
    with torch.no_grad():
        samples.output(half).weight.mul_(0.5)
        samples.output(half).bias.mul_(0.5)
    expected = generator.Generator(
        half, inference_settings.GenerationConfig(method="greedy", num_tokens=10), samples.FP32, 1
    )
    report = _run(tmp_path, "the cat", average_checkpoints=2)
    assert report["text"] == expected.generate("the cat")
    assert len(report["members"][0]["checkpoints"]) == 2


def test_generation_with_a_seq2seq_is_refused(tmp_path: pathlib.Path) -> None:
    trained.save(samples.seq2seq(), tmp_path)
    with pytest.raises(errors.UsageError, match="use translate"):
        _run(tmp_path, "the cat")
