"""Timing of a training step on random tokens: an estimate of a run's time before its data is prepared.

In processor time, so that what else computes on the machine at that moment does not count: measured beside it, steps
took two to four times as long as in the run.
"""

import itertools
import statistics
import time
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from core.config import autoregressive_settings, model_settings, schema
from core.data.batching import buckets
from core.data.series import examples
from core.models import autoregressive, compute, factory
from core.models import state as states
from core.training import batches, losses, optimizers, randomness, regression, step

MIN_STEPS = 4
_FIRST_ID = 4  # after the reserved ones, whose padding would be left out


def seconds_per_step(
    config: schema.RunConfig, vocabulary_sizes: Mapping[str, int], lengths: tuple[int, int], seconds: float = 2.0
) -> float:
    """Returns the median time of a step of one worker, with its share of a batch, on this machine's CPU if it is idle.

    Args:
        config: settings of a language model or of a seq2seq model.
        vocabulary_sizes: as `factory.build` takes them.
        lengths: of pairs, the tokens of a typical source and target line; of text they have no effect.
        seconds: time to measure for, after two steps that build kernels and caches.
    """
    model_config = config.model
    assert isinstance(model_config, model_settings.LanguageModelConfig | model_settings.Seq2SeqConfig)
    precision = compute.resolve_precision(config.compute.precision, "cpu")
    compute.use_matmul(config.compute.matmul, precision)
    compute.set_threads(config.cluster.cpus_per_worker)
    randomness.seed_step(config.seed, 0, 0)
    model = factory.build(model_config, vocabulary_sizes, pad_id=1 if model_config.kind == "seq2seq" else None)
    objective = losses.build(model, config.training)
    optimizer = optimizers.build(model, config.training)
    learner = step.Learner(objective, objective, optimizer, torch.device("cpu"), precision)
    batch = make_batch(config, vocabulary_sizes, lengths)
    carries_state = model_config.kind == "language_model"
    elapsed_s: list[float] = []
    before: tuple[states.State | None, ...] = (None,)
    begin_s = time.perf_counter()
    while len(elapsed_s) < MIN_STEPS or (time.perf_counter() - begin_s < seconds):
        started_s = time.process_time()
        before = learner.train_step([batch], before, carries_state).states
        elapsed_s.append(time.process_time() - started_s)
    # All threads of a worker compute at the same time.
    return statistics.median(elapsed_s[2:]) / config.cluster.cpus_per_worker


def seconds_per_series_epoch(config: schema.RunConfig, values_TC: npt.NDArray[np.float64]) -> float:
    """Returns the time of an epoch over a series whose columns are inputs and targets, on this CPU if it is idle."""
    assert isinstance(config.model, autoregressive_settings.AutoregressiveConfig)
    compute.set_threads(config.cluster.cpus_per_worker)
    num_columns = values_TC.shape[1]
    model = autoregressive.Autoregressive(config.model, num_columns, num_columns)
    # Scaled, so that the fit does not diverge.
    scaled_TC = (values_TC - values_TC.mean(axis=0)) / values_TC.std(axis=0)
    made = examples.make_examples(scaled_TC, scaled_TC, config.model.lags, config.model.horizon, "drop")
    none = examples.Examples(made.features_NLI[:0], made.labels_NKO[:0])
    three_epochs = config.training.model_copy(update={"epochs": 3})
    instants_s: list[float] = []

    def record(_: regression.FitResult) -> None:
        instants_s.append(time.process_time())

    regression.fit(model, made, none, np.ones(num_columns), three_epochs, config.seed, record, lambda: False)
    # The first epoch loads kernels.
    epoch_s = min(after - before for before, after in itertools.pairwise(instants_s))
    return epoch_s / config.cluster.cpus_per_worker


def make_batch(
    config: schema.RunConfig, vocabulary_sizes: Mapping[str, int], lengths: tuple[int, int]
) -> batches.Batch:
    """Returns a worker's share of a batch of random tokens."""
    training, num_workers = config.training, config.cluster.workers[-1]
    random = np.random.default_rng(config.seed)
    if "text" in vocabulary_sizes:
        num_rows = max(1, training.num_lanes // num_workers)
        tokens = random.integers(_FIRST_ID, vocabulary_sizes["text"], (num_rows, training.window))
        content = batches.TextContent(torch.from_numpy(tokens), torch.from_numpy(tokens.reshape(-1)))
        return batches.Batch(content, tokens.size, tokens.size, 0, 0.0)
    assert training.batch_tokens is not None
    num_rows = max(1, training.batch_tokens // num_workers // max(lengths))
    source_BS, targets_BT = (
        random.integers(_FIRST_ID, vocabulary_sizes[side], (num_rows, length))
        for side, length in zip(("source", "target"), lengths, strict=True)
    )
    full = [np.full(num_rows, length) for length in lengths]
    pairs = buckets.PairBatch(source_BS, full[0], targets_BT, targets_BT, full[1])
    content_of_pairs, num_own = batches.pairs_content(pairs, is_counted=True)
    return batches.Batch(content_of_pairs, num_own, num_own, 0, 0.0)
