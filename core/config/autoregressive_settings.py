"""Settings of models of numeric series."""

from typing import Literal, Self

import pydantic

from core.config import section


class AutoregressiveConfig(section.Section):
    """A regressor: the next values of a series given its last ones."""

    kind: Literal["autoregressive"] = section.identity(..., "autoregressive")
    network: Literal["linear", "mlp", "rnn", "gru", "lstm"] = section.identity(
        "mlp", "linear; mlp: one hidden layer with relu; rnn, gru, lstm: a cell reads the last values one by one"
    )
    lags: int = section.identity(4, "how many of the last values go in (the documents' τ)", ge=1, le=65536)
    hidden_size: int = section.identity(10, "units of the hidden layer or cell", ge=1, le=65536)
    horizon: int = section.identity(1, "steps that are forecast directly: see horizon_by", ge=1, le=4096)
    horizon_by: Literal["outputs", "models"] = section.identity(
        "outputs",
        "outputs: one model, with an output for each step; models: a model for each step, which share nothing",
    )

    @pydantic.model_validator(mode="after")
    def _has_several_steps(self) -> Self:
        if self.horizon_by == "models" and self.horizon == 1:
            raise ValueError("horizon_by: models needs steps to tell apart; use a horizon of 2 or more, or drop it")
        return self
