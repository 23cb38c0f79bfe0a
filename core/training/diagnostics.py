"""Rows that a validation adds to the run log besides its figures: samples, and gradient diagnostics."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from core.config import training_settings
from core.models import language_model
from core.training import batches, gradients, resume, validation

MAX_ROWS = 8  # of the window that gradients are followed through: enough for a mean, and quick


def validation_rows(
    run: resume.TrainingRun, training: training_settings.TrainingConfig, samples: Sequence[validation.Sample]
) -> Iterator[dict[str, Any]]:
    """Yields the further rows of a validation, on one rank; leaves the model as it is."""
    position = {"step": run.state.step, "epoch": run.state.epoch}
    if samples:
        yield {"kind": "samples", **position, "samples": [sample._asdict() for sample in samples]}
    if training.record_gradients:
        model = run.learner.objective.model
        row: dict[str, Any] = {"kind": "gradients", **position, "spectral_radii": gradients.spectral_radii(model)}
        if isinstance(model, language_model.LanguageModel):
            row |= _follow_through_time(run, training, model)
        yield row


def _follow_through_time(
    run: resume.TrainingRun, training: training_settings.TrainingConfig, model: language_model.LanguageModel
) -> dict[str, Any]:
    """Computes gradient norms by time lag and forget gates on the first window of the validation split.

    It is the same text each time, so that the figures of a run can be compared.
    """
    first = next(validation.held_out_batches(run.dataset, training, 0, 1))
    content = batches.to_device(first.content, run.learner.device)
    assert isinstance(content, batches.TextContent)
    inputs_BT = content.inputs_BT[:MAX_ROWS]
    targets_BT = content.targets_N.view_as(content.inputs_BT)[:MAX_ROWS]
    # Without dropout: two figures then differ by the weights alone.
    model.eval()
    # The loss of the last step only, so that every earlier state has one lag.
    norms = gradients.norms_by_lag(model, inputs_BT, targets_BT[:, -1])
    gates = gradients.forget_gates(model, inputs_BT)
    model.train()
    return {"norms_by_lag": [norm if math.isfinite(norm) else None for norm in norms], "forget_gates": gates}
