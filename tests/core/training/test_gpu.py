"""Training on a GPU: the losses of the CPU, the same bits after a resume, two ranks on one device, no waiting.

`RAYCURRENT_TEST_DEVICE=cpu pytest -m gpu` runs what does not ask for a GPU on a CPU.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from core.config import model_settings, schema, training_settings
from core.models import factory
from core.reporting import training_history
from core.telemetry import metrics
from core.training import batches, collective, gradients, losses, optimizers, step, trainer
from tests.core.training import builders

DEVICE = os.environ.get("RAYCURRENT_TEST_DEVICE", "cuda:0")
HAS_DEVICE = DEVICE == "cpu" or torch.cuda.is_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not HAS_DEVICE, reason="there is no GPU")]
needs_cuda = pytest.mark.skipif(DEVICE == "cpu", reason="RAYCURRENT_TEST_DEVICE is cpu")

BF16 = schema.ComputeConfig(precision="bf16", matmul="default")
WET_TEXT = builders.TEXT.model_copy(update={"dropout": 0.3, "output_dropout": 0.3, "num_layers": 2})
WET_PAIRS = builders.PAIRS.model_copy(update={"embedding_dropout": 0.3})
MODELS: dict[str, model_settings.NetworkConfig] = {"text": builders.TEXT, "pairs": builders.PAIRS}


def _job(root: Path, kind: str, model: model_settings.NetworkConfig, **settings: Any) -> trainer.TrainingJob:
    make = builders.text_dataset if kind == "text" else builders.pairs_dataset
    dataset = root.parent / f"{kind}-dataset"
    location = builders.location_of(dataset) if dataset.exists() else make(dataset)
    return builders.job(root, location, model, **{"log_every_steps": 1, "epochs": 3, **settings})


def _losses(root: Path) -> list[float]:
    return [row["loss_nats"] for row in training_history.read(builders.location_of(root)) if "loss_nats" in row]


@pytest.mark.parametrize("kind", MODELS)
def test_losses_are_those_of_the_cpu(tmp_path: Path, kind: str) -> None:
    alone = _job(tmp_path / "cpu", kind, MODELS[kind])
    builders.train(alone)
    builders.train(dataclasses.replace(alone, root=builders.location_of(tmp_path / "device"), device=DEVICE))
    expected = _losses(tmp_path / "cpu")
    # fp32 on both, but sums in another order, which training then spreads.
    assert _losses(tmp_path / "device") == pytest.approx(expected, rel=1e-3)
    assert expected[-1] < expected[0]


@pytest.mark.parametrize("kind", MODELS)
def test_losses_in_bf16_are_near_those_in_fp32(tmp_path: Path, kind: str) -> None:
    exact = dataclasses.replace(_job(tmp_path / "fp32", kind, MODELS[kind]), device=DEVICE)
    builders.train(exact)
    builders.train(dataclasses.replace(exact, root=builders.location_of(tmp_path / "bf16"), compute=BF16))
    # 8 bits of mantissa: 2^-8 in each product.
    assert _losses(tmp_path / "bf16") == pytest.approx(_losses(tmp_path / "fp32"), rel=0.03)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("kind", "model"), [("text", WET_TEXT), ("pairs", WET_PAIRS)])
def test_a_run_stopped_at_any_step_ends_with_the_same_bits(
    tmp_path: Path, kind: str, model: model_settings.NetworkConfig, precision: str
) -> None:
    compute = BF16 if precision == "bf16" else builders.FP32
    whole = dataclasses.replace(_job(tmp_path / "whole", kind, model), device=DEVICE, compute=compute)
    builders.train(whole)
    stopped = dataclasses.replace(whole, root=builders.location_of(tmp_path / "stopped"))
    assert all(builders.train(stopped, stop_after).is_interrupted for stop_after in (2, 3, 1, 1))
    builders.train(stopped)
    assert builders.digest(tmp_path / "stopped") == builders.digest(tmp_path / "whole")


@pytest.mark.parametrize("kind", MODELS)
def test_a_run_of_the_cpu_resumes_on_the_device(tmp_path: Path, kind: str) -> None:
    whole = _job(tmp_path / "whole", kind, MODELS[kind])
    builders.train(whole)
    moving = dataclasses.replace(whole, root=builders.location_of(tmp_path / "moving"))
    builders.train(moving, stop_after=4)
    builders.train(dataclasses.replace(moving, device=DEVICE), stop_after=4)
    builders.train(moving)
    assert _losses(tmp_path / "moving") == pytest.approx(_losses(tmp_path / "whole"), rel=1e-3)


@pytest.mark.ddp
@pytest.mark.parametrize("kind", MODELS)
def test_two_ranks_on_one_device_have_the_losses_of_one(tmp_path: Path, kind: str) -> None:
    alone = dataclasses.replace(_job(tmp_path / "alone", kind, MODELS[kind]), device=DEVICE)
    builders.train(alone)
    shared = dataclasses.replace(alone, root=builders.location_of(tmp_path / "shared"))
    builders.on_ranks(2, tmp_path, builders.train_rank, [(shared, None)])  # by gloo
    assert _losses(tmp_path / "shared") == pytest.approx(_losses(tmp_path / "alone"), rel=1e-3)


@needs_cuda
@pytest.mark.ddp
def test_a_group_of_one_rank_trains_by_nccl(tmp_path: Path) -> None:
    alone = dataclasses.replace(_job(tmp_path / "alone", "pairs", builders.PAIRS), device=DEVICE)
    builders.train(alone)
    grouped = dataclasses.replace(alone, root=builders.location_of(tmp_path / "grouped"))
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        trainer.train(grouped, collective.TorchDistributed(), metrics.NullMetrics(), builders.Watch())
    finally:
        dist.destroy_process_group()
    assert _losses(tmp_path / "grouped") == pytest.approx(_losses(tmp_path / "alone"), rel=1e-5)


@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_step_does_not_wait_for_the_device(precision: Any) -> None:
    config = model_settings.LanguageModelConfig(
        kind="language_model", cell="lstm", hidden_size=64, embedding_size=64, num_layers=2, dropout=0.2
    )
    device = torch.device(DEVICE)
    training = training_settings.TrainingConfig(clip_norm=1.0)
    learned = losses.Objective(factory.build(config, {"text": 200}, None), 0.1).to(device).train()
    optimizer = optimizers.build(learned.model, training)
    learner = step.Learner(learned, learned, optimizer, device, precision, gradients.limits(training))
    tokens = torch.randint(0, 200, (8, 36))
    content = batches.TextContent(tokens[:, :-1].contiguous(), tokens[:, 1:].flatten())
    batch = batches.Batch(content, 280, 280, 0, 0.0)
    states = learner.train_step([batch], [None], carries_state=True).states  # the first also prepares kernels
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            states = learner.train_step([batch], states, carries_state=True).states
    finally:
        torch.cuda.set_sync_debug_mode("default")
