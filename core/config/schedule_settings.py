"""Settings of the learning-rate schedules, by kind."""

from typing import Any, Literal

from core.config import section


def _warmup_steps() -> Any:
    return section.schedule(0, "steps of linear warm-up from 0 to the peak learning rate", ge=0)


def _decay_factor() -> Any:
    return section.schedule(0.1, "factor of the learning rate at each decay", gt=0, lt=1)


class ConstantConfig(section.Section):
    """The peak learning rate after the warm-up."""

    kind: Literal["constant"] = section.schedule("constant", "constant: the peak learning rate throughout")
    warmup_steps: int = _warmup_steps()


class CosineConfig(section.Section):
    """Half a cosine from the peak to the final learning rate, from the warm-up to the end of epochs or max_steps.

    Source: Loshchilov and Hutter 2017, SGDR: Stochastic Gradient Descent with Warm Restarts (without the restarts).
    """

    kind: Literal["cosine"] = section.schedule(
        "cosine", "cosine: half a cosine from the end of the warm-up to the end of epochs or max_steps"
    )
    warmup_steps: int = _warmup_steps()
    final_rate: section.Float = section.schedule(
        0.0, "learning rate at the end of training, as a fraction of the peak one", ge=0, le=1
    )


class PlateauConfig(section.Section):
    """Decays the learning rate where validation, by the metric of early stopping, stops improving.

    After a change on a resume, validations from before it do not count; the decays so far stay.
    """

    kind: Literal["plateau"] = section.schedule("plateau", "plateau: decays when validation stops improving")
    warmup_steps: int = _warmup_steps()
    decay_factor: section.Float = _decay_factor()
    patience: int = section.schedule(
        1, "validations without improvement, by early_stop.metric (else perplexity), before a decay", ge=0
    )
    reload_best: bool = section.schedule(
        False, "return of weights and optimizer to the best validation's checkpoint at each decay"
    )


class StepConfig(section.Section):
    """Decays the learning rate after every few epochs."""

    kind: Literal["step"] = section.schedule("step", "step: decays after every decay_every_epochs epochs")
    warmup_steps: int = _warmup_steps()
    decay_factor: section.Float = _decay_factor()
    decay_every_epochs: int = section.schedule(1, "epochs between two decays", ge=1)


class InverseSqrtConfig(section.Section):
    """The inverse square root of the step, flat during the warm-up.

    Source: Vaswani et al. 2017, Attention Is All You Need, section 5.3.
    """

    kind: Literal["inverse_sqrt"] = section.schedule(
        "inverse_sqrt", "inverse_sqrt: by the inverse square root of the step"
    )
    warmup_steps: int = _warmup_steps()


ScheduleConfig = ConstantConfig | CosineConfig | PlateauConfig | StepConfig | InverseSqrtConfig
