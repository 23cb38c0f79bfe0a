"""Data-parallel scaling benchmark: two DDP ranks against two independent processes."""

import os
import statistics
import tempfile
import time
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from core.config import model_settings, optimizer_settings, training_settings
from core.models import compute, factory
from core.training import batches, collective, gradients, losses, optimizers, step
from tests.benchmarks import harness

STEPS = 4
ROWS, WINDOW, VOCABULARY = 20, 35, 10_000


def measure(rounds: int) -> harness.Ratio:
    """Measures tokens per second of both ranks, by wall time of the same steps with and without the all-reduce."""
    with tempfile.TemporaryDirectory() as folder:
        store = os.path.join(folder, "store")  # noqa: PTH118
        results = mp.get_context("spawn").SimpleQueue()
        mp.spawn(_rank, args=(store, rounds, results), nprocs=2)  # type: ignore[attr-defined, no-untyped-call]
        alone_s, together_s = results.get()
    tokens = 2 * STEPS * ROWS * WINDOW
    return harness.Ratio(
        "2 workers, LSTM 2×650, vocabulary of 10,000 (wall time)",
        "2 independent processes",
        tokens / together_s,
        tokens / alone_s,
        0.85,
    )


def _rank(rank: int, store: str, rounds: int, results: Any) -> None:
    torch.set_num_threads(1)
    compute.use_matmul("auto", "fp32")
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.manual_seed(1)
    config = model_settings.LanguageModelConfig(
        kind="language_model", cell="lstm", num_layers=2, hidden_size=650, embedding_size=650
    )
    training = training_settings.TrainingConfig(optimizer=optimizer_settings.SgdConfig(), learning_rate=0.1)
    learned = losses.Objective(factory.build(config, {"text": VOCABULARY}, None), 0.0).train()
    optimizer = optimizers.build(learned.model, training)
    replica = step.replicate(learned, collective.TorchDistributed())
    limits = gradients.limits(training)
    together = step.Learner(learned, replica, optimizer, torch.device("cpu"), "fp32", limits)
    alone = step.Learner(learned, learned, optimizer, torch.device("cpu"), "fp32", limits)
    tokens = torch.randint(0, VOCABULARY, (ROWS, WINDOW + 1))
    content = batches.TextContent(tokens[:, :-1].contiguous(), tokens[:, 1:].flatten())
    batch = batches.Batch(content, 2 * ROWS * WINDOW, ROWS * WINDOW, 0, 0.0)
    durations: dict[str, list[float]] = {"alone": [], "together": []}
    for number in range(rounds + 1):
        for name, learner in (("alone", alone), ("together", together)):
            dist.barrier()
            started_s = time.perf_counter()
            for _ in range(STEPS):
                learner.train_step([batch], [None], carries_state=False)
            dist.barrier()
            if number:
                durations[name].append(time.perf_counter() - started_s)
    if rank == 0:
        results.put((statistics.median(durations["alone"]), statistics.median(durations["together"])))
    dist.destroy_process_group()
