"""Autoregressive models of numeric series: linear, with one hidden layer, or recurrent."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from core.config import autoregressive_settings

_CELLS = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class Autoregressive(nn.Module):
    """Forecasts the next `horizon` values of each target from the last `lags` values of each input.

    Dimensions: L lags, I inputs, O targets, K steps ahead. With `horizon_by: models` there are K networks, in `models`,
    each of which forecasts one step (the direct strategy of multi-step forecasting). The recurrent networks start from
    the zero state in each window.

    Source: Zhang et al., Dive into Deep Learning (2021), section 8.1 "Sequence Models" (autoregressive and latent
    autoregressive models).
    """

    def __init__(self, config: autoregressive_settings.AutoregressiveConfig, num_inputs: int, num_targets: int) -> None:
        super().__init__()
        self.config = config
        self.num_inputs, self.num_targets = num_inputs, num_targets
        if config.horizon_by == "models":
            # Each network is a whole model of one step, so that it can be clipped as if it were trained alone.
            single_step = config.model_copy(update={"horizon": 1, "horizon_by": "outputs"})
            self.models = nn.ModuleList(
                Autoregressive(single_step, num_inputs, num_targets) for _ in range(config.horizon)
            )
            return
        width = config.lags * num_inputs
        if config.network in _CELLS:
            self.cell: nn.RNNBase = _CELLS[config.network](num_inputs, config.hidden_size, batch_first=True)
            width = config.hidden_size
        elif config.network == "mlp":
            self.hidden = nn.Linear(width, config.hidden_size)
            width = config.hidden_size
        self.output = nn.Linear(width, config.horizon * num_targets)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                # As in D2L; biases keep torch's initialization.
                nn.init.xavier_uniform_(module.weight)

    @property
    def independent_networks(self) -> Sequence[nn.Module]:
        """Networks that share no weights and are clipped separately: one for each step, or the whole model."""
        return list(self.models) if self.config.horizon_by == "models" else [self]

    def forward(self, values_BLI: Tensor) -> Tensor:
        """Returns the forecasts (B, K, O), the next step first."""
        if self.config.horizon_by == "models":
            return torch.cat([model(values_BLI) for model in self.models], dim=1)
        if self.config.network in _CELLS:
            # The hidden state after the last lag summarizes all of them.
            features_BF = self.cell(values_BLI)[0][:, -1]
        elif self.config.network == "mlp":
            features_BF = torch.relu(self.hidden(values_BLI.flatten(1)))
        else:
            features_BF = values_BLI.flatten(1)
        forecasts_BKO: Tensor = self.output(features_BF).unflatten(1, (self.config.horizon, self.num_targets))
        return forecasts_BKO
