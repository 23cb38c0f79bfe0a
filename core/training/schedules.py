"""Learning-rate schedules, as pure functions.

No schedule has state of its own: the learning rate follows from the step, the epochs done and the validation history,
all of which a checkpoint holds. A resume needs nothing else, and a schedule that is changed on a resume applies from
the next step on.
"""

import math
from collections.abc import Sequence

from core.config import schedule_settings, training_settings


def learning_rate(
    training: training_settings.TrainingConfig, step: int, epochs_done: float, history: Sequence[float]
) -> float:
    """Returns the learning rate of a step: linear warmup, then the schedule.

    Args:
        training: the schedule and its peak learning rate.
        step: steps done before this one.
        epochs_done: epochs done before it, including the fraction of the current one.
        history: the validation losses so far, in order.
    """
    # step + 1: the first step must not have a learning rate of 0.
    warmup_steps = training.schedule.warmup_steps
    warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    return training.learning_rate * warmup * _factor(training, step, epochs_done, history)


def _factor(
    training: training_settings.TrainingConfig, step: int, epochs_done: float, history: Sequence[float]
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
            # Whichever end of the run comes first, epochs or steps, is the end of the half cosine.
            done = min(1.0, max(epochs_done / training.epochs, step / (training.max_steps or math.inf)))
            return schedule.final_rate + (1 - schedule.final_rate) * (1 + math.cos(math.pi * done)) / 2
        case schedule_settings.InverseSqrtConfig():
            # Falls from the end of the warmup on, where it is 1, so that the peak is `learning_rate`.
            flat_steps = max(1, schedule.warmup_steps)
            return math.sqrt(flat_steps / max(flat_steps, step + 1))
        case schedule_settings.PlateauConfig():
            return float(schedule.decay_factor ** num_decays(history, schedule.patience))
        case schedule_settings.ConstantConfig():
            return 1.0


def num_decays(history: Sequence[float], patience: int) -> int:
    """Counts the decays of a plateau schedule: one whenever more than `patience` validations in a row are no better.

    The same as torch's `ReduceLROnPlateau` with a threshold of 0, computed from the whole history.
    """
    best, waited, count = math.inf, 0, 0
    for value in history:
        waited = 0 if value < best else waited + 1
        best = min(best, value)
        if waited > patience:
            waited, count = 0, count + 1  # the best stays: a decay alone does not improve it
    return count
