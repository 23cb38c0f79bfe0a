"""Training in bf16 ends where fp32 does, and a run keeps the precision that it was started with."""

import dataclasses
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from core.config import model_settings
from core.models import bundle
from core.training import progress
from tests.core.training import builders


@pytest.mark.parametrize("kind", ["text", "pairs"])
def test_bf16_ends_within_a_hundredth_of_the_perplexity_of_fp32(tmp_path: Path, kind: str) -> None:
    """The mean over models: what a single one gains or loses depends on the CPU's own bf16 arithmetic."""
    model: model_settings.NetworkConfig
    settings: dict[str, Any]
    if kind == "text":
        data, model, settings = builders.text_dataset(tmp_path / "data"), builders.TEXT, {"learning_rate": 0.03}
    else:
        data, model = builders.pairs_dataset(tmp_path / "data", 300, 60), builders.PAIRS
        settings = {"learning_rate": 0.02, "batch_tokens": 120}
    log_perplexities: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for seed in range(1, 4):
        for precision, values in log_perplexities.items():
            job = builders.job(tmp_path / f"{precision}-{seed}", data, model, seed, epochs=5, **settings)
            compute = job.compute.model_copy(update={"precision": precision})
            summary = builders.train(dataclasses.replace(job, compute=compute))
            assert summary.precision == precision
            assert summary.validation is not None
            values.append(summary.validation.nll_nats)
    means = {precision: statistics.mean(values) for precision, values in log_perplexities.items()}
    assert progress.perplexity(means["fp32"]) < 4, "of 9 and 13 entries: it has learnt"
    assert log_perplexities["bf16"] != log_perplexities["fp32"]
    assert means["bf16"] == pytest.approx(means["fp32"], abs=0.01)


def test_a_resume_and_the_bundle_keep_the_precision(tmp_path: Path) -> None:
    job = builders.job(tmp_path / "run", builders.text_dataset(tmp_path / "text"))
    half = dataclasses.replace(job, compute=job.compute.model_copy(update={"precision": "bf16"}))
    assert builders.train(half, stop_after=3).precision == "bf16"
    automatic = dataclasses.replace(job, compute=job.compute.model_copy(update={"precision": "auto"}))
    assert builders.train(automatic).precision == "bf16"
    loaded = bundle.load(bundle.find_folder(builders.location_of(tmp_path / "run")))
    assert loaded.precision == "bf16"
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
