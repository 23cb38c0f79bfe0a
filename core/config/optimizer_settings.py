"""Settings of the optimizers, by kind."""

from typing import Annotated, Any, Literal

import pydantic

from core.config import section

Beta = Annotated[section.Float, pydantic.Field(ge=0, lt=1)]


def _momentum() -> Any:
    return section.schedule(0.0, "momentum of the velocity; 0: plain SGD", ge=0, lt=1)


def _weight_decay() -> Any:
    return section.schedule(0.0, "weight decay: an L2 penalty in the gradient; decoupled from it in adamw", ge=0)


class AdamConfig(section.Section):
    """Adam and AdamW.

    Source: Kingma and Ba 2015, Adam: A Method for Stochastic Optimization; Loshchilov and Hutter 2019, Decoupled
    Weight Decay Regularization.
    """

    kind: Literal["adam", "adamw"] = section.identity("adam", "adamw: Adam with decoupled weight decay")
    betas: tuple[Beta, Beta] = section.schedule(
        (0.9, 0.999), "decay rates of the running means of the gradient and of its square"
    )
    epsilon: section.Float = section.schedule(1e-8, "constant added to the denominator of a step", gt=0)
    weight_decay: section.Float = _weight_decay()


class SgdConfig(section.Section):
    """Stochastic gradient descent."""

    kind: Literal["sgd"] = section.identity("sgd", "sgd: stochastic gradient descent")
    momentum: section.Float = _momentum()
    weight_decay: section.Float = _weight_decay()


class AsgdConfig(section.Section):
    """SGD whose weights are averaged from some step on; validation and inference use the averages.

    Source: Merity, Keskar and Socher 2018, Regularizing and Optimizing LSTM Language Models, section 4 (NT-ASGD).
    """

    kind: Literal["asgd"] = section.identity(
        "asgd",
        "asgd: SGD with weight averaging; validation and inference use the averages. The rate does not decay: "
        "torch.optim.ASGD with lambd 0, as in AWD-LSTM, whose t0 is where averaging starts",
    )
    momentum: section.Float = _momentum()
    weight_decay: section.Float = _weight_decay()
    non_monotone_interval: int | None = section.schedule(
        5,
        "averaging starts once a validation is worse than the best of all but this many before it; null: at once",
        ge=1,
    )


OptimizerConfig = AdamConfig | SgdConfig | AsgdConfig
