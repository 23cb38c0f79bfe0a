"""Optimisers, and learning rates as pure functions of where a run is.

No schedule has state of its own: a rate follows from the step, the epochs done and the validation history, all
of which a checkpoint holds. A schedule that is changed on a resume therefore applies from the next step on.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from core import errors
from core.config import training_settings
from core.training import averaged_sgd


def build(model: nn.Module, training: training_settings.TrainingConfig) -> torch.optim.Optimizer:
    """The optimiser of a model's parameters; its rate is set before each step. Fused: one pass over all weights."""
    parameters = list(model.parameters())
    rate, decay = training.learning_rate, training.weight_decay
    if training.optimizer in ("sgd", "asgd"):
        sgd = torch.optim.SGD if training.optimizer == "sgd" else averaged_sgd.AveragedSGD
        return sgd(parameters, lr=rate, momentum=training.momentum, weight_decay=decay, fused=True)
    kind = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, lr=rate, betas=training.betas, eps=training.epsilon, weight_decay=decay, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def prepare(
    optimizer: torch.optim.Optimizer, rate: float, training: training_settings.TrainingConfig, history: Sequence[float]
) -> None:
    """Sets what the next step follows: its rate, and whether averages are kept from now on."""
    set_rate(optimizer, rate)
    if isinstance(optimizer, averaged_sgd.AveragedSGD) and not optimizer.is_averaging:
        optimizer.is_averaging = averaged_sgd.is_triggered(history, training.non_monotone_interval)


def rate(training: training_settings.TrainingConfig, step: int, epochs_done: float, history: Sequence[float]) -> float:
    """The learning rate of a step.

    Args:
        training: the schedule and its highest rate.
        step: steps done before this one.
        epochs_done: passes over the data done before it, with the fraction of the current one.
        history: the validation losses so far, in order.
    """
    warm = min(1.0, (step + 1) / training.warmup_steps) if training.warmup_steps else 1.0
    return training.learning_rate * warm * _share(training, step, epochs_done, history)


def _share(
    training: training_settings.TrainingConfig, step: int, epochs_done: float, history: Sequence[float]
) -> float:
    if training.schedule == "step":
        return float(training.decay_factor ** math.floor(epochs_done / training.decay_every_epochs))
    if training.schedule == "cosine":
        done = min(1.0, max(epochs_done / training.epochs, step / (training.max_steps or math.inf)))
        return training.final_rate + (1 - training.final_rate) * (1 + math.cos(math.pi * done)) / 2
    if training.schedule == "inverse_sqrt":
        flat = max(1, training.warmup_steps)
        return math.sqrt(flat / max(flat, step + 1))
    if training.schedule == "plateau":
        return float(training.decay_factor ** decays(history, training.decay_patience))
    return 1.0


def decays(history: Sequence[float], patience: int) -> int:
    """How often a rate on plateau has fallen: each time more than `patience` validations in a row were not better."""
    best, waited, count = math.inf, 0, 0
    for value in history:
        waited = 0 if value < best else waited + 1
        best = min(best, value)
        if waited > patience:
            waited, count = 0, count + 1
    return count


def validations_since_best(history: Sequence[float]) -> int:
    """How many validations have passed since the best one; 0 without any."""
    return len(history) - 1 - history.index(min(history)) if history else 0


def to_named(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser's tensors as `<what>/<parameter>`, on the CPU: by name, so that order does not matter."""
    named = {}
    for name, parameter in model.named_parameters():
        for what, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                named[f"{what}/{name}"] = value.detach().cpu().contiguous()
    return named


def load_named(model: nn.Module, optimizer: torch.optim.Optimizer, named: Mapping[str, torch.Tensor]) -> None:
    """Gives an optimiser the tensors of `to_named`.

    Raises:
        IntegrityError: a tensor belongs to no parameter of this model, or has another shape.
    """
    indices = {name: index for index, (name, _) in enumerate(model.named_parameters())}
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in named.items():
        what, _, name = key.partition("/")
        if name not in indices or (value.dim() > 0 and value.shape != shapes[name]):
            raise errors.IntegrityError(
                f"optimizer.safetensors: {key} with shape {tuple(value.shape)} fits no parameter of the model; "
                "the checkpoint was made for another model"
            )
        state.setdefault(indices[name], {})[what] = value
    content = optimizer.state_dict()
    content["state"] = state
    optimizer.load_state_dict(content)
