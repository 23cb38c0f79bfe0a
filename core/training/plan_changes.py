"""Changes of the training plan between two starts: learning rate, schedule, length and early stopping.

A schedule is a function of the whole run, so a change would also apply to the past: a plateau schedule that is switched
on would decay at once for every validation that was no better. So what is counted is counted from the change on. The
state of a run says from where; the settings in its checkpoint say what has changed.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from core.config import schedule_settings, stored_forms, training_settings
from core.training import progress, schedules

_OF_RATE = ("learning_rate", "schedule", "epochs", "max_steps")


class _Before(NamedTuple):
    """The plan that a checkpoint was trained by, and whether by release 0.1, whose schedules differ a little."""

    training: training_settings.TrainingConfig
    is_of_release_01: bool


def follow(
    state: progress.State, saved: Mapping[str, Any], training: training_settings.TrainingConfig
) -> progress.State:
    """Returns the state of a checkpoint for training on with other settings.

    * A plateau schedule counts from a change of its kind, patience, factor or metric on; the decays so far stay. With a
      new `learning_rate`, or another kind before, they do not: the rate is then `learning_rate`.
    * Early stopping counts from where it is switched on, or its metric changed; another patience keeps the count.

    Args:
        state: of the checkpoint.
        saved: the settings in the checkpoint.
        training: the settings of today.
    """
    before = _read(saved)
    if before is None:
        return state
    old, here = before.training, len(state.history)
    if isinstance(training.schedule, schedule_settings.PlateauConfig) and (
        _plateau(old, before.is_of_release_01) != _plateau(training)
    ):
        factor = 1.0
        if isinstance(old.schedule, schedule_settings.PlateauConfig) and old.learning_rate == training.learning_rate:
            factor = _decays(state, before)
        state = dataclasses.replace(state, plateau_start=schedules.PlateauStart(here, factor))
    if training.early_stop is not None and (
        old.early_stop is None or old.early_stop.metric != training.early_stop.metric
    ):
        state = dataclasses.replace(state, early_stop_start=here)
    return state


def describe(state: progress.State, saved: Mapping[str, Any], training: training_settings.TrainingConfig) -> str | None:
    """Returns a line on the learning rate before and after a change of the plan; None if there is none.

    Args: as for `follow`.
    """
    before = _read(saved)
    if before is None:
        return None
    rate, old_rate = _rate(follow(state, saved, training), training), _old_rate(state, before)
    changed = [name for name in _OF_RATE if getattr(training, name) != getattr(before.training, name)]
    if training.schedule.kind == "plateau" and training.best_by != before.training.best_by:
        changed.append("early_stop.metric")
    if rate == old_rate and not {"learning_rate", "schedule", "early_stop.metric"} & set(changed):
        return None
    names = ", ".join(f"training.{name}" for name in changed) or "the schedules of release 0.2"
    return f"learning rate of step {state.step + 1}: {old_rate:.6g} before, {rate:.6g} now ({names})"


def _read(saved: Mapping[str, Any]) -> _Before | None:
    """Returns the plan in a checkpoint's settings; None where there is none that this release understands."""
    stored = saved.get("training")
    training = stored_forms.read_training(stored) if isinstance(stored, dict) else None
    if stored is None or training is None:
        return None
    # Release 0.1 had the settings of all schedules side by side, and the name of one.
    return _Before(training, isinstance(stored.get("schedule"), str))


def _plateau(training: training_settings.TrainingConfig, is_of_release_01: bool = False) -> tuple[Any, ...] | None:
    """Returns all that the decays of a plateau schedule depend on, None for another schedule."""
    schedule = training.schedule
    if not isinstance(schedule, schedule_settings.PlateauConfig):
        return None
    return schedule.decay_factor, schedule.patience, _metric(training, is_of_release_01), training.learning_rate


def _metric(training: training_settings.TrainingConfig, is_of_release_01: bool) -> training_settings.Metric:
    """Returns what a plateau schedule follows: in release 0.1 perplexity, also with early stopping by BLEU."""
    return "perplexity" if is_of_release_01 else training.best_by


def _decays(state: progress.State, before: _Before) -> float:
    """Returns the factor of the decays so far."""
    schedule = before.training.schedule
    assert isinstance(schedule, schedule_settings.PlateauConfig)
    keys = state.selection_keys(_metric(before.training, before.is_of_release_01))
    count = schedules.num_decays(keys[state.plateau_start.num_validations :], schedule.patience)
    return float(state.plateau_start.factor * schedule.decay_factor**count)


def _rate(state: progress.State, training: training_settings.TrainingConfig) -> float:
    keys = state.selection_keys(training.best_by)
    return schedules.learning_rate(training, state.step, state.epochs_done, keys, state.plateau_start)


def _old_rate(state: progress.State, before: _Before) -> float:
    """Returns the rate that the next step would have had by the plan of before."""
    training = before.training
    keys = state.selection_keys(_metric(training, before.is_of_release_01))
    schedule = training.schedule
    if before.is_of_release_01 and isinstance(schedule, schedule_settings.CosineConfig):
        # Release 0.1 began the cosine at the first step, during the warm-up.
        warmup = min(1.0, (state.step + 1) / schedule.warmup_steps) if schedule.warmup_steps else 1.0
        flat = schedule.model_copy(update={"warmup_steps": 0})
        training = training.model_copy(update={"schedule": flat, "learning_rate": training.learning_rate * warmup})
    return schedules.learning_rate(training, state.step, state.epochs_done, keys, state.plateau_start)
