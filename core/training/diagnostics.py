"""What a validation adds to the run record besides its figures: samples, and how gradients fare in time."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from core.config import training_settings
from core.models import language_model
from core.training import batches, gradients, resume, validation

MOST_ROWS = 8


def of_validation(
    start: resume.Start, training: training_settings.TrainingConfig, seen: Sequence[validation.Sample]
) -> Iterator[dict[str, Any]]:
    """The further rows of a validation, on one rank; the model is left as it is."""
    where = {"step": start.state.step, "epoch": start.state.epoch}
    if seen:
        samples = [sample._asdict() for sample in seen]
        yield {"kind": "samples", **where, "samples": samples}
    if training.record_gradients:
        model = start.learner.objective.model
        row: dict[str, Any] = {"kind": "gradients", **where, "spectral_radii": gradients.spectral_radii(model)}
        if isinstance(model, language_model.LanguageModel):
            row |= _through_time(start, training, model)
        yield row


def _through_time(
    start: resume.Start, training: training_settings.TrainingConfig, model: language_model.LanguageModel
) -> dict[str, Any]:
    """What the first window of the validation split shows, the same text each time."""
    piece = next(validation.pieces(start.dataset, training, 0, 1))
    content = batches.to_device(piece.content, start.learner.device)
    assert isinstance(content, batches.TextContent)
    inputs_BT = content.inputs_BT[:MOST_ROWS]
    targets_BT = content.targets_N.view_as(content.inputs_BT)[:MOST_ROWS]
    model.eval()
    norms = gradients.by_time_lag(model, inputs_BT, targets_BT[:, -1])
    gates = gradients.forget_gates(model, inputs_BT)
    model.train()
    return {"norms_by_lag": [norm if math.isfinite(norm) else None for norm in norms], "forget_gates": gates}
