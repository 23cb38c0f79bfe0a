"""Trains a regressor of a series: shuffled batches, mean squared error, in one process and in one go.

The whole series is in memory and an epoch takes moments, so there is one checkpoint, at the end: a run that was
stopped starts over.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core import errors
from core.config import training_settings
from core.data import series
from core.models import autoregressive
from core.training import optimizers, randomness


class Trained(NamedTuple):
    """What a training came to: steps done, and after each epoch the mean squared errors of all examples."""

    steps: int
    train_mse: list[float]
    valid_mse: list[float]


def fit(
    model: autoregressive.Autoregressive,
    train: series.Examples,
    valid: series.Examples,
    training: training_settings.TrainingConfig,
    seed: int,
    on_epoch: Callable[[float], None],
    should_stop: Callable[[], bool],
) -> Trained:
    """Trains a model in place; equal arguments give equal weights.

    Args:
        model: takes features (B, L, I) and gives forecasts (B, K, O).
        train: what it learns from.
        valid: what it is judged by beside; may be empty.
        training: batch_lines, epochs, max_steps, optimiser, rates, clipping (of each model alone, where steps have
            their own); nothing else of it counts here.
        seed: of the order of examples.
        on_epoch: is told the training error after each epoch.
        should_stop: asked before each epoch.

    Raises:
        DataError: there is no example.
        DivergedError: the error is not finite.
        InterruptedRunError: it was stopped.
    """
    features_NLI, labels_NKO = _tensors(train)
    if not len(features_NLI):
        raise errors.DataError("corpus.train: is shorter than model.lags and model.horizon; use a longer series")
    assert training.batch_lines is not None
    optimizer = optimizers.build(model, training)
    done = Trained(0, [], [])
    for epoch in range(training.epochs):
        if should_stop():
            raise errors.InterruptedRunError("train: stopped; a series is trained in one go: run it again")
        shuffle = torch.Generator().manual_seed(randomness.derive(seed, "order", epoch))
        batches = torch.split(torch.randperm(len(features_NLI), generator=shuffle), training.batch_lines)
        for number, rows in enumerate(batches):
            if done.steps == training.max_steps:
                break
            epochs_done = epoch + number / len(batches)
            optimizers.set_rate(optimizer, optimizers.rate(training, done.steps, epochs_done, done.valid_mse))
            _step(model, optimizer, features_NLI[rows], labels_NKO[rows], training.clip_norm)
            done = done._replace(steps=done.steps + 1)
        done.train_mse.append(mean_squared_error(model, train))
        if len(valid.labels_NKO):
            done.valid_mse.append(mean_squared_error(model, valid))
        if not torch.tensor(done.train_mse[-1]).isfinite():
            raise errors.DivergedError(f"train: the error after epoch {epoch + 1} is not finite; lower the rate")
        on_epoch(done.train_mse[-1])
    return done


def mean_squared_error(model: nn.Module, examples: series.Examples) -> float:
    """Returns the mean over all examples, steps ahead and targets."""
    features_NLI, labels_NKO = _tensors(examples)
    with torch.inference_mode():
        return float(F.mse_loss(model(features_NLI), labels_NKO))


def _step(
    model: autoregressive.Autoregressive,
    optimizer: torch.optim.Optimizer,
    features_BLI: Tensor,
    labels_BKO: Tensor,
    clip_norm: float | None,
) -> None:
    optimizer.zero_grad()
    F.mse_loss(model(features_BLI), labels_BKO).backward()  # type: ignore[no-untyped-call]
    if clip_norm is not None:
        for part in model.parts:
            nn.utils.clip_grad_norm_(part.parameters(), clip_norm)
    optimizer.step()


def _tensors(examples: series.Examples) -> tuple[Tensor, Tensor]:
    features_NLI, labels_NKO = (torch.tensor(part, dtype=torch.float32) for part in examples)
    return features_NLI, labels_NKO
