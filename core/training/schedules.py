"""Learning-rate schedules, as pure functions.

No schedule has state of its own: the learning rate follows from the step, the epochs done and the validation history,
all of which a checkpoint holds. A schedule that is changed on a resume applies from the next step on; `plan_changes`
says from where a plateau then counts.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from core.config import schedule_settings, training_settings

# What a validation is compared by, lower is better: a loss, or a key of `training_settings.selection_key`.
Key = TypeVar("Key", float, tuple[float, float])


class PlateauStart(NamedTuple):
    """The point from which a plateau schedule counts: the beginning of the run, or a change of the schedule.

    Attributes:
        num_validations: validations before it, which do not count.
        factor: of the learning rate, by the decays before it.
    """

    num_validations: int = 0
    factor: float = 1.0


BEGINNING = PlateauStart()


def learning_rate(
    training: training_settings.TrainingConfig,
    step: int,
    epochs_done: float,
    history: Sequence[Key],
    plateau_start: PlateauStart = BEGINNING,
) -> float:
    """Returns the learning rate of a step: linear warm-up, then the schedule.

    Args:
        training: the schedule and its peak learning rate.
        step: steps done before this one.
        epochs_done: epochs done before it, including the fraction of the current one.
        history: what the validations so far are compared by, in order.
        plateau_start: where a plateau schedule counts from.
    """
    # step + 1: the first step must not have a learning rate of 0.
    warmup_steps = training.schedule.warmup_steps
    warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    return training.learning_rate * warmup * _factor(training, step, epochs_done, history, plateau_start)


def _factor(
    training: training_settings.TrainingConfig,
    step: int,
    epochs_done: float,
    history: Sequence[Key],
    plateau_start: PlateauStart,
) -> float:
    """Returns the schedule's factor in [0, 1] of the peak learning rate.

    Source: Loshchilov and Hutter 2017, SGDR: Stochastic Gradient Descent with Warm Restarts, for "cosine" (without
    restarts); Vaswani et al. 2017, Attention Is All You Need, section 5.3, for "inverse_sqrt".
    """
    schedule = training.schedule
    match schedule:
        case schedule_settings.StepConfig():
            return float(schedule.decay_factor ** math.floor(epochs_done / schedule.decay_every_epochs))
        case schedule_settings.CosineConfig():
            done = _share_done(training, step, epochs_done)
            return schedule.final_rate + (1 - schedule.final_rate) * (1 + math.cos(math.pi * done)) / 2
        case schedule_settings.InverseSqrtConfig():
            # Falls from the end of the warm-up on, where it is 1, so that the peak is `learning_rate`.
            flat_steps = max(1, schedule.warmup_steps)
            return math.sqrt(flat_steps / max(flat_steps, step + 1))
        case schedule_settings.PlateauConfig():
            counted = history[plateau_start.num_validations :]
            return float(plateau_start.factor * schedule.decay_factor ** num_decays(counted, schedule.patience))
        case schedule_settings.ConstantConfig():
            return 1.0


def _share_done(training: training_settings.TrainingConfig, step: int, epochs_done: float) -> float:
    """Returns the share that is done of the steps between the end of the warm-up and the end of training.

    The end is that of the epochs or of the steps, whichever comes first. The number of steps in the epochs is not
    known in advance (windows and batches differ in size): it is estimated from those that are done.
    """
    planned = min(1.0, max(epochs_done / training.epochs, step / (training.max_steps or math.inf)))
    warmup_steps = training.schedule.warmup_steps
    if step <= warmup_steps:
        return 0.0
    warmup = planned * warmup_steps / step  # the share of all steps that the warm-up takes
    return (planned - warmup) / (1.0 - warmup)


def num_decays(history: Sequence[Key], patience: int) -> int:
    """Counts the decays of a plateau schedule: one whenever more than `patience` validations in a row are no better.

    The same as torch's `ReduceLROnPlateau` with a threshold of 0, computed from the whole history.
    """
    best: Key | None = None
    waited = count = 0
    for value in history:
        if best is None or value < best:
            best, waited = value, 0
        else:
            waited += 1
        if waited > patience:
            waited, count = 0, count + 1  # the best stays: a decay alone does not improve it
    return count
