"""Dynamic evaluation: while text is scored, the weights go on learning from what has been scored already.

After each window s of the text the weights θ, from the trained ones θ_g on, take a step

    θ ← θ − η ∇L(s) + λ (θ_g − θ)                                             rule sgd
    θ ← θ − η ∇L(s) / (RMS_g + ε) + min(1, λ RMS_g / mean RMS_g) (θ_g − θ)     rule rms

where L is the mean loss of the window and RMS_g the root of the mean squared gradient over training text. A token is
always scored before anything is learnt from it, so the scores are those of an honest, if changing, model.

Source: Krause, Kahembwe, Murray and Renals 2018, Dynamic evaluation of neural sequence models, equations 5 to 8.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.config import inference_settings
from core.data.batching import lanes
from core.models import bundle as bundles
from core.models import language_model
from core.models import state as states

# Squared gradients are of windows of so many lanes at once, as in training; fewer where the text is short.
_STATISTICS_LANES = 20


class Learner:
    """Changes a model's weights step by step; where a stream stands is in the weights, which its owner carries on."""

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
            gradient_rms: RMS_g by name of the weight; of the rule `sgd` None.
        """
        assert (gradient_rms is None) == (settings.rule == "sgd"), "statistics belong to the rule rms"
        self._parameters = bundles.unique_parameters(model)
        self.trained = self.weights()
        self._rates: dict[str, Tensor | float] = dict.fromkeys(self.trained, settings.learning_rate)
        self._pulls: dict[str, Tensor | float] = dict.fromkeys(self.trained, settings.decay)
        if gradient_rms is not None:
            mean = torch.cat([rms.flatten() for rms in gradient_rms.values()]).mean().clamp(min=1e-30)
            for name, rms in gradient_rms.items():
                self._rates[name] = settings.learning_rate / (rms + settings.epsilon)
                self._pulls[name] = (settings.decay * rms / mean).clamp(max=1.0)

    def weights(self) -> dict[str, Tensor]:
        """Returns a copy of the weights as they are now."""
        return {name: part.detach().clone() for name, part in self._parameters.items()}

    def go_on_from(self, weights: Mapping[str, Tensor]) -> None:
        """Puts the model where a stream has come to."""
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(weights[name])

    def learn(self, loss: Tensor) -> None:
        """Takes one step down the gradient of a window's loss, and a share of the way back to the trained weights."""
        names = list(self._parameters)
        gradients = torch.autograd.grad(loss, [self._parameters[name] for name in names], allow_unused=True)
        with torch.no_grad():
            for name, gradient in zip(names, gradients, strict=True):
                weight = self._parameters[name]
                change = (self.trained[name] - weight) * self._pulls[name]
                if gradient is not None:
                    change -= gradient * self._rates[name]
                weight += change


def make_differentiable(model: nn.Module) -> None:
    """Lets gradients through the fused kernels, which on a GPU keep what they need only in training mode.

    The fused layers have no dropout of their own, so nothing else changes.
    """
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            module.train()


def gradient_rms(
    model: language_model.LanguageModel, stream: lanes.Stream, window: int, num_windows: int, device: str
) -> dict[str, Tensor]:
    """Measures the root of the mean squared gradient over the first windows of a training stream, state carried.

    Raises:
        DataError: the stream has not even two tokens.
    """
    num_lanes = max(1, min(_STATISTICS_LANES, (len(stream) - 1) // window))
    served = lanes.windows(stream, num_lanes, range(num_lanes), window, offset=0)
    parameters = bundles.unique_parameters(model)
    squares = {name: torch.zeros_like(part) for name, part in parameters.items()}
    count = 0
    for gradients in _gradients(model, served, num_lanes, list(parameters.values()), device):
        for square, gradient in zip(squares.values(), gradients, strict=True):
            if gradient is not None:
                square += gradient**2
        count += 1
        if count == num_windows:
            break
    return {name: (square / count).sqrt() for name, square in squares.items()}


def _gradients(
    model: language_model.LanguageModel,
    served: Iterable[lanes.Window],
    num_lanes: int,
    parameters: list[Tensor],
    device: str,
) -> Iterable[tuple[Tensor | None, ...]]:
    """Yields the gradient of the mean loss of each window."""
    state = model.initial_state(num_lanes)
    for window in served:
        features_BTF, state = model(torch.from_numpy(window.inputs_BT).to(device), states.detach(state))
        logits_NV = model.logits(features_BTF.flatten(0, 1)).float()
        loss = F.cross_entropy(logits_NV, torch.from_numpy(window.targets_BT).to(device).flatten())
        yield torch.autograd.grad(loss, parameters, allow_unused=True)
