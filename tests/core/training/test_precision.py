"""Training in bf16 ends where fp32 does, and a run keeps the precision that it was started with."""

import dataclasses
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
    model: model_settings.NetworkConfig
    settings: dict[str, Any]
    if kind == "text":
        data, model, settings = builders.text_dataset(tmp_path / "data"), builders.TEXT, {"learning_rate": 0.03}
    else:
        data, model = builders.pairs_dataset(tmp_path / "data", 300, 60), builders.PAIRS
        settings = {"learning_rate": 0.02, "batch_tokens": 120}
    perplexities = {}
    for precision in ("fp32", "bf16"):
        job = builders.job(tmp_path / precision, data, model, epochs=4, **settings)
        compute = job.compute.model_copy(update={"precision": precision})
        summary = builders.train(dataclasses.replace(job, compute=compute))
        assert summary.precision == precision
        assert summary.validation is not None
        perplexities[precision] = progress.perplexity(summary.validation.nll_nats)
    assert perplexities["fp32"] < 4, "of 9 and 13 entries: it has learnt"
    assert perplexities["bf16"] != perplexities["fp32"]
    assert perplexities["bf16"] == pytest.approx(perplexities["fp32"], rel=0.01)


def test_a_resume_and_the_bundle_keep_the_precision(tmp_path: Path) -> None:
    job = builders.job(tmp_path / "run", builders.text_dataset(tmp_path / "text"))
    half = dataclasses.replace(job, compute=job.compute.model_copy(update={"precision": "bf16"}))
    assert builders.train(half, stop_after=3).precision == "bf16"
    automatic = dataclasses.replace(job, compute=job.compute.model_copy(update={"precision": "auto"}))
    assert builders.train(automatic).precision == "bf16"
    loaded = bundle.load(bundle.find_folder(builders.location_of(tmp_path / "run")))
    assert loaded.precision == "bf16"
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
