"""Gradient norms, gradient clipping, and diagnostics of vanishing and exploding gradients.

Clipping bounds the size of an update, so that one steep batch cannot throw the weights far away. The diagnostics
(spectral radii, forget gates, gradient norms by time lag) show how far back in time a recurrent model learns from.

Source: Pascanu, Mikolov and Bengio 2013, On the Difficulty of Training Recurrent Neural Networks.
"""

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.config import training_settings
from core.models import language_model, recurrent_layer


class Limits(NamedTuple):
    """Limits of clipping; None for no limit.

    Attributes:
        clip_norm: of the norm of all gradients together, or of each layer's.
        clip_value: of the absolute value of each entry; takes the place of `clip_norm`.
        by_layer: whether `clip_norm` applies to each layer on its own.
    """

    clip_norm: float | None = None
    clip_value: float | None = None
    by_layer: bool = False


def limits(training: training_settings.TrainingConfig) -> Limits:
    """Returns the limits that the settings ask for."""
    return Limits(training.clip_norm, training.clip_value, training.clip_by == "layer")


def clip(parameters: Iterable[nn.Parameter], clip_norm: float | None) -> Tensor:
    """Scales all gradients together so that their global norm is at most θ = `clip_norm`; returns the norm before.

    g ← min(1, θ/‖g‖) g with the norm over all parameters as one vector. Called once a step, after the gradients of
    all ranks are summed. The norm stays on the device, so that the CPU does not wait for the GPU here. A norm that is
    not finite means that the gradients are unusable, whatever they were scaled to.

    Source: Pascanu et al. 2013, algorithm 1; Zhang et al., Dive into Deep Learning (2021), section 8.5.5 "Gradient
    Clipping".
    """
    # A parameter that the batch did not use has no gradient, and does not count.
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in trained if parameter.grad is not None])
    if clip_norm is not None:
        nn.utils.clip_grads_with_norm_(trained, clip_norm, norm)
    return norm


def clip_to_limits(model: nn.Module, within: Limits) -> Tensor:
    """Clips by value, by layer or by the global norm; returns the global norm before that, as `clip` does."""
    if within.clip_value is None and not within.by_layer:
        return clip(model.parameters(), within.clip_norm)
    norm = clip(model.parameters(), None)  # the norm before clipping is reported, however gradients are clipped
    if within.clip_value is not None:
        nn.utils.clip_grad_value_(model.parameters(), within.clip_value)
    else:
        for parameters in layers(model).values():
            clip(parameters, within.clip_norm)
    return norm


def layers(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Returns the parameters by the module that owns them, in order of declaration; a shared one counts once."""
    by_module: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        by_module.setdefault(name.rpartition(".")[0], []).append(parameter)
    return by_module


def layer_norms(model: nn.Module) -> dict[str, float]:
    """Returns the norm of each layer's gradient."""
    return {name: float(clip(parameters, None)) for name, parameters in layers(model).items()}


def spectral_radii(model: nn.Module) -> dict[str, list[float]]:
    """Returns the spectral radius of each recurrent matrix W_hh, by layer: one for each gate, in their order.

    The spectral radius is the largest absolute value of an eigenvalue. Below 1 the gradients of a plain recurrent layer
    vanish, above 1 they may explode.

    Source: Pascanu et al. 2013, section 2.1; Zhang et al., Dive into Deep Learning (2021), section 8.7.2
    "Backpropagation Through Time in Detail".
    """
    radii = {}
    for name, parameter in model.named_parameters():
        layer, _, own_name = name.rpartition(".")
        if own_name.startswith("weight_hh"):
            # The matrix holds the square matrices of all gates, one below the other.
            # In fp64: eigenvalues of a matrix that is not symmetric are sensitive to rounding.
            weight_GH = parameter.detach().to("cpu", torch.float64)
            gates_NHH = weight_GH.reshape(-1, weight_GH.shape[1], weight_GH.shape[1])
            radii[layer] = torch.linalg.eigvals(gates_NHH).abs().amax(dim=-1).tolist()
    return radii


def forget_gates(model: language_model.LanguageModel, inputs_BT: Tensor) -> dict[str, float]:
    """Returns the mean share of its memory that each layer keeps per step, over a window from the initial state.

    That is the forget gate of an LSTM and the update gate of a GRU: the factor of the memory's gradient in one step of
    the backward pass. Layers without such a gate are left out.

    Source: Hochreiter and Schmidhuber 1997, Long Short-Term Memory, and Gers et al. 2000, Learning to Forget, for the
    LSTM; Cho et al. 2014, Learning Phrase Representations using RNN Encoder-Decoder, for the GRU.
    """
    means: dict[str, float] = {}
    gated = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, recurrent_layer.Layer) and module.kind.forget_gate is not None
    ]
    handles = [
        layer.register_forward_hook(functools.partial(_record_forget_gate, means, name)) for name, layer in gated
    ]
    with torch.no_grad():
        model(inputs_BT, model.initial_state(inputs_BT.shape[0]))
    for handle in handles:
        handle.remove()
    return means


def _record_forget_gate(means: dict[str, float], name: str, layer: recurrent_layer.Layer, inputs: Any, _: Any) -> None:
    """Computes the steps of a layer again, because the fused kernels do not return their gates."""
    x_BTE, state = inputs[:2]
    kind, weights = layer.kind, layer.weights
    index = kind.forget_gate
    assert index is not None
    gates = []
    for gates_BG in layer.project(x_BTE).unbind(dim=1):
        gate_BH = (gates_BG + weights.project(state[0])).chunk(kind.num_gates, dim=-1)[index]
        if weights.peephole_PH is not None:  # rows i, f, o: those of i and f have the index of their gate
            gate_BH = gate_BH + weights.peephole_PH[index] * state[1]
        gates.append(gate_BH.sigmoid())
        state = layer.step(gates_BG, state, weights)
    mean = float(torch.stack(gates).mean())
    # Some cells' gate is the share that is forgotten, as f of the MGU; the others' is the share that is kept.
    means[name] = 1.0 - mean if kind.is_forget_share else mean


def norms_by_lag(model: language_model.LanguageModel, inputs_BT: Tensor, targets_B: Tensor) -> list[float]:
    """Returns the norm of the gradient of the last step's loss with respect to each earlier state.

    Entry k is ‖∂ℓ_T / ∂s_(T-1-k)‖, the mean over rows, with s the whole state (all layers and parts) that one step
    hands to the next: entry 0 belongs to the state that enters the last step. Rows start from the zero state.

    Source: Zhang et al., Dive into Deep Learning (2021), section 8.7.2 "Backpropagation Through Time in Detail".
    """
    state = model.initial_state(inputs_BT.shape[0])
    states_before = []
    with torch.enable_grad():
        for tokens_B in inputs_BT.unbind(dim=1):
            # A copy of each state, so that autograd has a tensor at which to stop and return the gradient.
            state = tuple(tuple(part.clone().requires_grad_() for part in layer) for layer in state)
            states_before.append(state)
            features_BF, state = model.step(tokens_B, state)
        # A sum: rows do not influence each other, so its gradient is that of each row.
        loss = F.cross_entropy(model.logits(features_BF).float(), targets_B, reduction="sum")
        # Latest state first: its lag is 0.
        flat = [part for before in reversed(states_before) for layer in before for part in layer]
        flat_gradients = torch.autograd.grad(loss, flat)
    per_state = len(flat_gradients) // len(states_before)
    squares = [
        sum(part.square().sum(dim=1) for part in flat_gradients[first : first + per_state])
        for first in range(0, len(flat_gradients), per_state)
    ]
    return [float(torch.as_tensor(square_B).sqrt().mean()) for square_B in squares]
