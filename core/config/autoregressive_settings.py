"""Settings of models of numeric series."""

from typing import Literal, Self

import pydantic

from core.config import section


class AutoregressiveConfig(section.Section):
    """An autoregressive model: the next values of a series given its last ones."""

    kind: Literal["autoregressive"] = section.identity(..., "autoregressive")
    network: Literal["linear", "mlp", "rnn", "gru", "lstm"] = section.identity(
        "mlp", "network; mlp: one hidden layer with ReLU; rnn, gru, lstm: a recurrent cell over the last values"
    )
    lags: int = section.identity(
        4, "past values in the input (τ in Dive into Deep Learning, section 8.1)", ge=1, le=65536
    )
    hidden_size: int = section.identity(10, "units of the hidden layer or cell", ge=1, le=65536)
    horizon: int = section.identity(1, "steps ahead that the model forecasts directly", ge=1, le=4096)
    horizon_by: Literal["outputs", "models"] = section.identity(
        "outputs",
        "direct forecasts of several steps: by one model with an output for each step, or by a model for each step",
    )

    @pydantic.model_validator(mode="after")
    def _check_horizon(self) -> Self:
        if self.horizon_by == "models" and self.horizon == 1:
            raise ValueError("horizon_by: models needs several steps ahead; use a horizon of 2 or more")
        return self
