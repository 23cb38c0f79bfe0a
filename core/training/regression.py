"""Training of a series regressor: shuffled batches, mean squared error, one process.

The whole series is in memory and an epoch takes moments, so there is one checkpoint, at the end: a run that was
stopped starts over.

Source: Zhang et al., Dive into Deep Learning (2021), section 8.1 "Sequence Models".
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core import errors
from core.config import training_settings
from core.data.series import examples as series_examples
from core.models import autoregressive
from core.training import optimizers, randomness, schedules


class FitResult(NamedTuple):
    """Steps done, and the mean squared errors of all examples after each epoch."""

    steps: int
    train_mse: list[float]
    valid_mse: list[float]


def fit(
    model: autoregressive.Autoregressive,
    train: series_examples.Examples,
    valid: series_examples.Examples,
    deviations_O: series_examples.Array,
    training: training_settings.TrainingConfig,
    seed: int,
    on_epoch: Callable[[FitResult], None],
    should_stop: Callable[[], bool],
) -> FitResult:
    """Trains a model in place; equal arguments give equal weights.

    Args:
        model: takes features (B, L, I) and returns forecasts (B, K, O).
        train: training examples.
        valid: held-out examples; may be empty.
        deviations_O: factors from errors of scaled targets to errors in the units of the series, for returned errors.
        training: batch_lines, epochs, max_steps, optimizer, schedule and clipping (of each model alone, where steps
            ahead have their own) are used; the other settings are ignored.
        seed: of the order of examples.
        on_epoch: called with the errors so far after each epoch.
        should_stop: called before each epoch.

    Raises:
        DataError: there is no example.
        DivergedError: the error is not finite.
        InterruptedRunError: `should_stop` returned true.
    """
    features_NLI, labels_NKO = _tensors(train)
    if not len(features_NLI):
        raise errors.DataError("corpus.train: is shorter than model.lags and model.horizon; use a longer series")
    assert training.batch_lines is not None
    optimizer = optimizers.build(model, training)
    result = FitResult(0, [], [])
    for epoch in range(training.epochs):
        if should_stop():
            raise errors.InterruptedRunError("train: stopped; training on a series cannot be resumed, run it again")
        # A generator for each epoch: its order does not depend on what was drawn before.
        shuffle = torch.Generator().manual_seed(randomness.derive(seed, "order", epoch))
        batches = torch.split(torch.randperm(len(features_NLI), generator=shuffle), training.batch_lines)
        for number, rows in enumerate(batches):
            if result.steps == training.max_steps:
                break  # out of the epoch; its errors are those of the last step
            epochs_done = epoch + number / len(batches)
            rate = schedules.learning_rate(training, result.steps, epochs_done, result.valid_mse)
            optimizers.set_learning_rate(optimizer, rate)
            _train_step(model, optimizer, features_NLI[rows], labels_NKO[rows], training.clip_norm)
            result = result._replace(steps=result.steps + 1)
        result.train_mse.append(mean_squared_error(model, train, deviations_O))
        if len(valid.labels_NKO):
            result.valid_mse.append(mean_squared_error(model, valid, deviations_O))
        # Checked once an epoch: an epoch takes moments, and no checkpoint is lost.
        if not torch.tensor(result.train_mse[-1]).isfinite():
            raise errors.DivergedError(
                f"train: the error after epoch {epoch + 1} is not finite; use a lower learning_rate"
            )
        on_epoch(result)
        if result.steps == training.max_steps:
            break
    return result


def mean_squared_error(
    model: nn.Module, examples: series_examples.Examples, deviations_O: series_examples.Array
) -> float:
    """Returns the mean over all examples, steps ahead and targets, in the squared units of the series."""
    features_NLI, labels_NKO = _tensors(examples)
    with torch.inference_mode():
        scales_O = torch.tensor(deviations_O, dtype=torch.float32)
        return float(F.mse_loss(model(features_NLI) * scales_O, labels_NKO * scales_O))


def _train_step(
    model: autoregressive.Autoregressive,
    optimizer: torch.optim.Optimizer,
    features_BLI: Tensor,
    labels_BKO: Tensor,
    clip_norm: float | None,
) -> None:
    optimizer.zero_grad()
    F.mse_loss(model(features_BLI), labels_BKO).backward()  # type: ignore[no-untyped-call]
    if clip_norm is not None:
        # Models of different steps ahead share no weights: each is clipped as if it were trained alone.
        for network in model.independent_networks:
            nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
    optimizer.step()


def _tensors(examples: series_examples.Examples) -> tuple[Tensor, Tensor]:
    features_NLI, labels_NKO = (torch.tensor(part, dtype=torch.float32) for part in examples)
    return features_NLI, labels_NKO
