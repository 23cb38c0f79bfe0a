"""Training of a series regressor, in the driver's process; commits the one checkpoint of the run."""

import time
from dataclasses import dataclass
from typing import Any

from core.config import autoregressive_settings, training_settings
from core.data.series import dataset as series_dataset
from core.data.series import preparation
from core.models import autoregressive, bundle, compute
from core.storage import location
from core.training import checkpoint, progress, randomness, regression, run_log
from workers.fanout import executor as executors
from workers.fanout import progress_display


@dataclass(frozen=True)
class RegressionJob:
    """A regressor to train.

    Attributes:
        root: folder of the run.
        settings: settings that the checkpoint records.
        model: settings of the model.
        training: settings of training.
        seed: of initial weights and of the order of examples.
        threads: of an operation.
        dataset: of series.
        preparation: of the series of this model, with the scaling by the training split.
    """

    root: location.Location
    settings: dict[str, Any]
    model: autoregressive_settings.AutoregressiveConfig
    training: training_settings.TrainingConfig
    seed: int
    threads: int
    dataset: series_dataset.Dataset
    preparation: preparation.Preparation


def train(job: RegressionJob, session: executors.Session, reporter: progress_display.Reporter) -> dict[str, Any]:
    """Fits the model to the training split of a dataset of series.

    Args:
        job: what to train.
        session: says whether to stop.
        reporter: shows progress.

    Returns:
        The report of `train`: mean squared errors after each epoch.

    Raises:
        DataError: the series is too short.
        DivergedError: the error is not finite.
        InterruptedRunError: it was stopped.
    """
    started_s = time.monotonic()
    dataset, config = job.dataset, job.model
    compute.set_threads(job.threads)
    # Before the model is built, which draws its weights.
    randomness.seed_initialization(job.seed)
    model = autoregressive.Autoregressive(config, len(dataset.inputs), len(dataset.targets))
    scaling = job.preparation.scaling
    examples = dataset.examples("train", config.lags, config.horizon, scaling)
    valid = dataset.examples("valid", config.lags, config.horizon, scaling)
    with reporter.stage("train", job.training.epochs, "epochs") as stage:

        def show(result: regression.FitResult) -> None:
            # Named by split: the error of the training rows says little of other rows.
            shown = {"train_mse": result.train_mse, "valid_mse": result.valid_mse}
            stage.advance(1, **{name: round(values[-1], 6) for name, values in shown.items() if values})

        deviations_O = scaling.deviations_of(dataset.targets)
        fitted = regression.fit(model, examples, valid, deviations_O, job.training, job.seed, show, session.should_stop)
    names = {"inputs": dataset.inputs, "targets": dataset.targets}
    trained = bundle.Bundle(model, config, {}, "none", "fp32", columns=names, series=job.preparation)
    state = progress.State(step=fitted.steps, corpora=[progress.CorpusState(epoch=len(fitted.train_mse))])
    # Taken at the end: nothing is written before, so that a run that is stopped leaves no trace.
    fencing_number = checkpoint.take_fencing_number(job.root, world_size=1)
    # Without optimizer and hidden state: nothing resumes from this checkpoint.
    snapshot = checkpoint.Snapshot(trained, {}, None, state, job.settings, None)
    saved = checkpoint.save(job.root, fencing_number, snapshot, run_log.RunLog(job.root, fencing_number))
    return {
        "step": fitted.steps,
        "examples": len(examples.labels_NKO),
        "train_mse": fitted.train_mse,
        "valid_mse": fitted.valid_mse,
        "checkpoint": str(saved.folder),
        "elapsed_s": round(time.monotonic() - started_s, 3),
    }
