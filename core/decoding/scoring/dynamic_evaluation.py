"""Dynamic evaluation: gradient steps on text that has just been scored adapt the weights to the text that follows.

After each window s of the text the weights θ, starting from the trained ones θ_g, take a step

    θ ← θ − η ∇L(s) + λ (θ_g − θ)                                             rule sgd
    θ ← θ − η ∇L(s) / (RMS_g + ε) + min(1, λ RMS_g / mean RMS_g) (θ_g − θ)     rule rms

where L is the mean loss of the window and RMS_g the root mean squared gradient over training text, of windows of many
lanes each. A token is always scored before the weights learn from it, so no token influences its own score.

As in the authors' program, mean RMS_g is the mean over tensors of the mean within each, not the mean over all weights,
which the large matrices with their small gradients would rule. Values of η, λ and ε that were published before that
program followed the equations are of another scale; its option for them says how to convert them.

Source: Krause, Kahembwe, Murray and Renals 2018, Dynamic evaluation of neural sequence models, equations 5 to 8.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.config import inference_settings
from core.data.batching import lanes
from core.models import language_model, weights
from core.models import state as states


class DynamicEvaluator:
    """Updates a model's weights window by window; a stream's weights are held by its caller, between its parts."""

    def __init__(
        self,
        model: language_model.LanguageModel,
        settings: inference_settings.DynamicConfig,
        gradient_rms: Mapping[str, Tensor] | None,
    ) -> None:
        """Starts from the model's weights.

        Args:
            model: on its device, in evaluation mode.
            settings: rule, η, λ and ε.
            gradient_rms: RMS_g by parameter name; None with rule `sgd`.
        """
        assert (gradient_rms is None) == (settings.rule == "sgd"), "gradient statistics belong to rule rms"
        self._parameters = weights.unique_parameters(model)
        # A copy: the parameters themselves change with the first update.
        self.trained_weights = self.weights()
        self._learning_rates: dict[str, Tensor | float] = dict.fromkeys(self.trained_weights, settings.learning_rate)
        self._decays: dict[str, Tensor | float] = dict.fromkeys(self.trained_weights, settings.decay)
        if gradient_rms is not None:
            # Not 0 where the statistics hold no gradient at all: the decays are divided by it.
            mean = torch.stack([rms.mean() for rms in gradient_rms.values()]).mean().clamp(min=1e-30)
            for name, rms in gradient_rms.items():
                self._learning_rates[name] = settings.learning_rate / (rms + settings.epsilon)
                # A decay above 1 would overshoot the trained weights.
                self._decays[name] = (settings.decay * rms / mean).clamp(max=1.0)

    def weights(self) -> dict[str, Tensor]:
        """Returns a copy of the current weights."""
        return {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Copies the weights of a stream into the model."""
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(weights[name])

    def update(self, loss: Tensor) -> None:
        """Takes one gradient step on a window's loss, and decays the weights towards the trained ones."""
        names = list(self._parameters)
        gradients = torch.autograd.grad(loss, [self._parameters[name] for name in names], allow_unused=True)
        with torch.no_grad():
            for name, gradient in zip(names, gradients, strict=True):
                weight = self._parameters[name]
                # Both terms are of the weights before the step, so the decay is computed before the weight changes.
                change = (self.trained_weights[name] - weight) * self._decays[name]
                if gradient is not None:
                    change -= gradient * self._learning_rates[name]
                weight += change


def enable_gradients(model: nn.Module) -> None:
    """Puts fused recurrent layers into training mode: cuDNN cannot backpropagate in evaluation mode.

    The fused layers have no dropout of their own, so nothing else changes.
    """
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            module.train()


def gradient_rms(
    model: language_model.LanguageModel,
    stream: lanes.Stream,
    settings: inference_settings.DynamicConfig,
    device: str,
) -> dict[str, Tensor]:
    """Computes the root mean squared gradient over the windows of a training stream, hidden state carried over.

    A text that is too short for a window in each of `statistics_lanes` lanes has fewer lanes.

    Raises:
        DataError: the stream has fewer than two tokens.
    """
    num_lanes = max(1, min(settings.statistics_lanes, (len(stream) - 1) // settings.window))
    windows = lanes.windows(stream, num_lanes, range(num_lanes), settings.window, offset=0)
    parameters = weights.unique_parameters(model)
    squares = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    count = 0
    for gradients in _gradients(model, windows, num_lanes, list(parameters.values()), device):
        # Both in the order of `parameters`.
        for square, gradient in zip(squares.values(), gradients, strict=True):
            if gradient is not None:
                square += gradient**2
        count += 1
        if count == settings.statistics_windows:
            break
    return {name: (square / count).sqrt() for name, square in squares.items()}


def _gradients(
    model: language_model.LanguageModel,
    windows: Iterable[lanes.Window],
    num_lanes: int,
    parameters: list[Tensor],
    device: str,
) -> Iterable[tuple[Tensor | None, ...]]:
    """Yields the gradient of the mean loss of each window."""
    state = model.initial_state(num_lanes)
    for window in windows:
        # Truncated backpropagation: the state is carried over, its gradient is not.
        features_BTF, state = model(torch.from_numpy(window.inputs_BT).to(device), states.detach(state))
        logits_NV = model.logits(features_BTF.flatten(0, 1)).float()
        loss = F.cross_entropy(logits_NV, torch.from_numpy(window.targets_BT).to(device).flatten())
        yield torch.autograd.grad(loss, parameters, allow_unused=True)
