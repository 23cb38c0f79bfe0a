"""Trains the regressor of a series in the driver's process and commits it as the one checkpoint of a run."""

import time
from typing import Any

from core.config import autoregressive_settings, training_settings
from core.data import series
from core.models import autoregressive, bundle, compute
from core.storage import location
from core.training import checkpoint, progress, randomness, regression
from workers.fanout import executor as executors
from workers.fanout import progress_display


def make(
    root: location.Location,
    settings: dict[str, Any],
    config: autoregressive_settings.AutoregressiveConfig,
    training: training_settings.TrainingConfig,
    seed: int,
    threads: int,
    dataset: series.Dataset,
    session: executors.Session,
    reporter: progress_display.Reporter,
) -> dict[str, Any]:
    """Fits the model to the training split of a dataset of series.

    Args:
        root: of the run.
        settings: what the checkpoint says that it was made with.
        config: the model.
        training: how it is fitted.
        seed: of first weights and of the order of examples.
        threads: of an operation.
        dataset: of series.
        session: says whether to stop.
        reporter: shows how far it is.

    Returns:
        What `train` reports: mean squared errors after each epoch.

    Raises:
        DataError: the series is too short.
        DivergedError: the error is not finite.
        InterruptedRunError: it was stopped.
    """
    started_s = time.monotonic()
    compute.set_threads(threads)
    randomness.seed_initialisation(seed)
    model = autoregressive.Autoregressive(config, len(dataset.inputs), len(dataset.targets))
    train = dataset.examples("train", config.lags, config.horizon)
    valid = dataset.examples("valid", config.lags, config.horizon)
    with reporter.stage("train", training.epochs, "epochs") as stage:

        def show(error: float) -> None:
            stage.advance(1, mse=round(error, 6))

        fitted = regression.fit(model, train, valid, training, seed, show, session.should_stop)
    names = {"inputs": dataset.inputs, "targets": dataset.targets}
    found = bundle.Bundle(model, config, {}, "none", "fp32", columns=names)
    state = progress.State(step=fitted.steps, tasks=[progress.Task(passes=len(fitted.train_mse))])
    epoch = checkpoint.take_epoch(root, world_size=1)
    snapshot = checkpoint.Snapshot(found, {}, None, state, settings, None)
    saved = checkpoint.save(root, epoch, snapshot, progress.Record(root, epoch))
    return {
        "step": fitted.steps,
        "examples": len(train.labels_NKO),
        "train_mse": fitted.train_mse,
        "valid_mse": fitted.valid_mse,
        "checkpoint": str(saved.folder),
        "elapsed_s": round(time.monotonic() - started_s, 3),
    }
