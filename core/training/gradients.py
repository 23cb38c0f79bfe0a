"""Norms of a gradient and clipping by them, and what tells whether gradients live on through time."""

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.config import training_settings
from core.models import language_model, recurrent_layer


class Limits(NamedTuple):
    """What gradients are clipped to: the norm of all, or of each layer, or the entries; None: no limit."""

    norm: float | None = None
    value: float | None = None
    by_layer: bool = False


def limits(training: training_settings.TrainingConfig) -> Limits:
    """The limits that the settings ask for."""
    return Limits(training.clip_norm, training.clip_value, training.clip_by == "layer")


def clip(parameters: Iterable[nn.Parameter], limit: float | None) -> Tensor:
    """Scales all gradients together so that their global norm is at most `limit`; returns the norm before that.

    g ← min(1, θ/‖g‖) g with the norm over all parameters as one vector. Called once a step, after the gradients of
    all ranks are summed. The result stays on the device, so that nothing waits for it here. A norm that is not
    finite says that the gradients are of no use, whatever scaling did to them.

    Source: document 000 section 8.5.5.
    """
    owners = [parameter for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in owners if parameter.grad is not None])
    if limit is not None:
        nn.utils.clip_grads_with_norm_(owners, limit, norm)
    return norm


def clip_within(model: nn.Module, within: Limits) -> Tensor:
    """Clips by one of the limits; returns the global norm before that, as `clip` does."""
    if within.value is None and not within.by_layer:
        return clip(model.parameters(), within.norm)
    norm = clip(model.parameters(), None)
    if within.value is not None:
        nn.utils.clip_grad_value_(model.parameters(), within.value)
    else:
        for parameters in layers(model).values():
            clip(parameters, within.norm)
    return norm


def layers(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The parameters by the module that owns them, in order of declaration; one that is shared counts once."""
    found: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        found.setdefault(name.rpartition(".")[0], []).append(parameter)
    return found


def norms(model: nn.Module) -> dict[str, float]:
    """The norm of each layer's gradient."""
    return {name: float(clip(parameters, None)) for name, parameters in layers(model).items()}


def spectral_radii(model: nn.Module) -> dict[str, list[float]]:
    """The largest eigenvalue, in size, of each recurrent matrix W_hh, by layer: one for each gate, in their order.

    Below 1 a plain recurrent layer forgets, above 1 its gradients may explode.

    Source: document 000 section 8.7.2.
    """
    found = {}
    for name, parameter in model.named_parameters():
        layer, _, own = name.rpartition(".")
        if own.startswith("weight_hh"):
            weight_GH = parameter.detach().to("cpu", torch.float64)
            gates_NHH = weight_GH.reshape(-1, weight_GH.shape[1], weight_GH.shape[1])
            found[layer] = torch.linalg.eigvals(gates_NHH).abs().amax(dim=-1).tolist()
    return found


def forget_gates(model: language_model.LanguageModel, inputs_BT: Tensor) -> dict[str, float]:
    """The mean share of its memory that each layer keeps in a step, over a window from the initial state.

    That is the forget gate of an LSTM and the update gate of a GRU: what the gradient of the memory is multiplied by
    on its way back. Layers without such a gate are left out.

    Source: document 003 section 2.2.
    """
    found: dict[str, float] = {}
    gated = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, recurrent_layer.Layer) and module.kind.forget_gate is not None
    ]
    handles = [layer.register_forward_hook(functools.partial(_note_forget_gate, found, name)) for name, layer in gated]
    with torch.no_grad():
        model(inputs_BT, model.initial_state(inputs_BT.shape[0]))
    for handle in handles:
        handle.remove()
    return found


def _note_forget_gate(found: dict[str, float], name: str, layer: recurrent_layer.Layer, inputs: Any, _: Any) -> None:
    """Takes the steps anew, for the kernels give no gate away."""
    x_BTE, state = inputs[:2]
    kind, weights = layer.kind, layer.weights
    place = kind.forget_gate
    assert place is not None
    gates = []
    for gates_BG in layer.project(x_BTE).unbind(dim=1):
        gate_BH = (gates_BG + weights.project(state[0])).chunk(kind.num_gates, dim=-1)[place]
        if weights.peephole_PH is not None:  # of i, f and o: the first two stand where their blocks do
            gate_BH = gate_BH + weights.peephole_PH[place] * state[1]
        gates.append(gate_BH.sigmoid())
        state = layer.step(gates_BG, state, weights)
    mean = float(torch.stack(gates).mean())
    found[name] = 1.0 - mean if kind.forgets else mean


def by_time_lag(model: language_model.LanguageModel, inputs_BT: Tensor, targets_B: Tensor) -> list[float]:
    """How much of the last step's loss reaches each earlier state: the norm of its gradient there.

    Entry k is ‖∂ℓ_T / ∂s_(T-1-k)‖, the mean over rows, with s the whole state (all layers and parts) that goes from a
    step to the next: entry 0 is that of the state that enters the last step. Rows start from the zero state.

    Source: document 000 section 8.7.2.
    """
    state = model.initial_state(inputs_BT.shape[0])
    seen = []
    with torch.enable_grad():
        for tokens_B in inputs_BT.unbind(dim=1):
            state = tuple(tuple(part.clone().requires_grad_() for part in layer) for layer in state)
            seen.append(state)
            features_BF, state = model.step(tokens_B, state)
        loss = F.cross_entropy(model.logits(features_BF).float(), targets_B, reduction="sum")
        flat = [part for before in reversed(seen) for layer in before for part in layer]
        found = torch.autograd.grad(loss, flat)
    per_state = len(found) // len(seen)
    squares = [
        sum(part.square().sum(dim=1) for part in found[at : at + per_state]) for at in range(0, len(found), per_state)
    ]
    return [float(torch.as_tensor(square_B).sqrt().mean()) for square_B in squares]
