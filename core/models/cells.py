"""Recurrent cells: the step functions of RNN, GRU and LSTM and their variants.

Each cell is one entry of `CELLS`: its step function, its number of gates and the parts of its state. In the formulas
of this module x_g is the input's projection for gate g (W_g x + b_g, computed outside), U_g the recurrent weights, σ
the logistic function and ⊙ the product by elements. Names of gates follow the papers: r reset, z update, i input,
f forget, o output; n and g are the candidate values of GRU and LSTM.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.models import masks
from core.models import state as states


class Weights(NamedTuple):
    """Recurrent weights of a cell, of all its gates; G is the hidden size times the number of gates."""

    recurrent_GH: Tensor
    bias_G: Tensor | None  # in addition to the bias that the input projection includes
    peephole_PH: Tensor | None  # from the memory cell to each of P gates

    def project(self, h_BH: Tensor) -> Tensor:
        """Returns the hidden state's contribution to all gates, U h + b."""
        return F.linear(h_BH, self.recurrent_GH, self.bias_G)


Step = Callable[[Tensor, states.LayerState, Weights], states.LayerState]


@dataclass(frozen=True)
class Cell:
    """Definition of a recurrent cell.

    Attributes:
        step: maps the input's projection (B, G) and the state to the next state, whose first part is the output.
        num_gates: row blocks of the weight matrices, each `hidden_size` high.
        num_parts: parts of the state: 1 for `h`, 2 for `h` and a memory cell `c`.
        num_peepholes: gates with a peephole connection to the memory cell.
        forget_gate: index of the gate that scales the previous memory (or hidden state), if there is one.
        is_forget_share: the gate's value is the share to forget (minimal gated unit), not the share to keep.
        fused: torch's module with the same formula and weight layout, if there is one.
    """

    step: Step
    num_gates: int
    num_parts: int = 1
    num_peepholes: int = 0
    forget_gate: int | None = None
    is_forget_share: bool = False
    fused: Callable[[int, int], nn.RNNBase] | None = None


def _elman(nonlinearity: Callable[[Tensor], Tensor]) -> Step:
    """Returns the step of a simple (Elman) network: h' = φ(x + U h)."""

    def step(x_BG: Tensor, state: states.LayerState, weights: Weights) -> states.LayerState:
        # Under autocast the product is bf16; the state keeps the precision in which it came.
        return (nonlinearity(x_BG + weights.project(state[0])).to(state[0].dtype),)

    return step


def _gru(x_BG: Tensor, state: states.LayerState, weights: Weights) -> states.LayerState:
    """Computes a GRU step, reset gate after the recurrent product, as cuDNN and torch do.

    r = σ(x_r + U_r h), z = σ(x_z + U_z h), n = tanh(x_n + r ⊙ (U_n h)), h' = (1 − z) ⊙ n + z ⊙ h.
    """
    h_BH = state[0]
    reset_x, update_x, new_x = x_BG.chunk(3, dim=-1)
    reset_h, update_h, new_h = weights.project(h_BH).chunk(3, dim=-1)
    update_BH = torch.sigmoid(update_x + update_h)
    new_BH = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
    # (1 − z) ⊙ n + z ⊙ h with one product fewer; the other GRUs below do the same.
    return (new_BH + update_BH * (h_BH - new_BH),)


def _gru_before(x_BG: Tensor, state: states.LayerState, weights: Weights) -> states.LayerState:
    """Computes a GRU step, reset gate before the recurrent product, as Cho et al. 2014: n = tanh(x_n + U_n (r ⊙ h))."""
    h_BH = state[0]
    gates, new = _split(weights, 2)
    gates_x, new_x = torch.split(x_BG, [gates.recurrent_GH.shape[0], h_BH.shape[-1]], dim=-1)
    reset_BH, update_BH = torch.sigmoid(gates_x + gates.project(h_BH)).chunk(2, dim=-1)
    # A second product is needed, because r must be known before U_n is applied.
    new_BH = torch.tanh(new_x + new.project(reset_BH * h_BH))
    return (new_BH + update_BH * (h_BH - new_BH),)


def _gru_coupled(x_BG: Tensor, state: states.LayerState, weights: Weights) -> states.LayerState:
    """Computes a GRU step in which one gate is both reset and update gate.

    z = σ(x_z + U_z h), n = tanh(x_n + U_n (z ⊙ h)), h' = (1 − z) ⊙ n + z ⊙ h.
    """
    h_BH = state[0]
    gate, new = _split(weights, 1)
    gate_x, new_x = x_BG.chunk(2, dim=-1)
    update_BH = torch.sigmoid(gate_x + gate.project(h_BH))
    new_BH = torch.tanh(new_x + new.project(update_BH * h_BH))
    return (new_BH + update_BH * (h_BH - new_BH),)


def _mgu(x_BG: Tensor, state: states.LayerState, weights: Weights) -> states.LayerState:
    """Computes a step of the minimal gated unit.

    f = σ(x_f + U_f h), n = tanh(x_n + U_n (f ⊙ h)), h' = (1 − f) ⊙ h + f ⊙ n.
    """
    h_BH = state[0]
    gate, new = _split(weights, 1)
    gate_x, new_x = x_BG.chunk(2, dim=-1)
    forget_BH = torch.sigmoid(gate_x + gate.project(h_BH))
    new_BH = torch.tanh(new_x + new.project(forget_BH * h_BH))
    return (h_BH + forget_BH * (new_BH - h_BH),)


def _lstm(x_BG: Tensor, state: states.LayerState, weights: Weights) -> states.LayerState:
    """Computes an LSTM step, gates in torch's order i f g o.

    c' = σ(f) ⊙ c + σ(i) ⊙ tanh(g), h' = σ(o) ⊙ tanh(c').
    """
    input_BH, forget_BH, new_BH, output_BH = (x_BG + weights.project(state[0])).chunk(4, dim=-1)
    # bf16 gates times an fp32 cell give fp32: under autocast the memory is not rounded from step to step.
    c_BH = torch.sigmoid(forget_BH) * state[1] + torch.sigmoid(input_BH) * torch.tanh(new_BH)
    return torch.sigmoid(output_BH) * torch.tanh(c_BH), c_BH


def _lstm_peephole(x_BG: Tensor, state: states.LayerState, weights: Weights) -> states.LayerState:
    """Computes an LSTM step with peephole connections: w ⊙ c is added to the gates i, f and o.

    All three gates see the memory cell before the step; w is a vector, so that each unit sees its own memory alone.
    """
    h_BH, c_BH = state
    assert weights.peephole_PH is not None
    peephole_input, peephole_forget, peephole_output = weights.peephole_PH.unbind(0)
    input_BH, forget_BH, new_BH, output_BH = (x_BG + weights.project(h_BH)).chunk(4, dim=-1)
    forget_BH = torch.sigmoid(forget_BH + peephole_forget * c_BH)
    input_BH = torch.sigmoid(input_BH + peephole_input * c_BH)
    new_c_BH = forget_BH * c_BH + input_BH * torch.tanh(new_BH)
    return torch.sigmoid(output_BH + peephole_output * c_BH) * torch.tanh(new_c_BH), new_c_BH


def _lstm_coupled(x_BG: Tensor, state: states.LayerState, weights: Weights) -> states.LayerState:
    """Computes an LSTM step with coupled input and forget gates, i = 1 − f; gates in the order f g o."""
    forget_BH, new_BH, output_BH = (x_BG + weights.project(state[0])).chunk(3, dim=-1)
    new_BH = torch.tanh(new_BH)
    # f ⊙ c + (1 − f) ⊙ g with one product fewer.
    c_BH = new_BH + torch.sigmoid(forget_BH) * (state[1] - new_BH)
    return torch.sigmoid(output_BH) * torch.tanh(c_BH), c_BH


def _lstm_no_output(x_BG: Tensor, state: states.LayerState, weights: Weights) -> states.LayerState:
    """Computes an LSTM step without output gate, gates in the order i f g: h = c, so that the state has one part."""
    input_BH, forget_BH, new_BH = (x_BG + weights.project(state[0])).chunk(3, dim=-1)
    return (torch.sigmoid(forget_BH) * state[0] + torch.sigmoid(input_BH) * torch.tanh(new_BH),)


def _split(weights: Weights, num_gates: int) -> tuple[Weights, Weights]:
    """Splits off the weights of the first gates from those of the candidate, which multiplies another vector than h."""
    # Rows are ordered by gate, each as high as the matrix is wide.
    size = weights.recurrent_GH.shape[1] * num_gates
    bias_G = weights.bias_G
    return (
        Weights(weights.recurrent_GH[:size], None if bias_G is None else bias_G[:size], None),
        Weights(weights.recurrent_GH[size:], None if bias_G is None else bias_G[size:], None),
    )


# `fused` only where torch has the same formula: generation continues step by step from the kernel's state.
CELLS: dict[str, Cell] = {
    "rnn": Cell(_elman(torch.tanh), 1, fused=lambda e, h: nn.RNN(e, h, batch_first=True)),
    "rnn_relu": Cell(_elman(torch.relu), 1, fused=lambda e, h: nn.RNN(e, h, nonlinearity="relu", batch_first=True)),
    "rnn_sigmoid": Cell(_elman(torch.sigmoid), 1),
    "rnn_identity": Cell(_elman(lambda x: x), 1),
    # Gates r z n: of the old state, z is the share that is kept.
    "gru": Cell(_gru, 3, forget_gate=1, fused=lambda e, h: nn.GRU(e, h, batch_first=True)),
    "gru_before": Cell(_gru_before, 3, forget_gate=1),
    "gru_coupled": Cell(_gru_coupled, 2, forget_gate=0),
    "mgu": Cell(_mgu, 2, forget_gate=0, is_forget_share=True),
    # Gates i f g o.
    "lstm": Cell(_lstm, 4, num_parts=2, forget_gate=1, fused=lambda e, h: nn.LSTM(e, h, batch_first=True)),
    "lstm_peephole": Cell(_lstm_peephole, 4, num_parts=2, num_peepholes=3, forget_gate=1),
    "lstm_coupled": Cell(_lstm_coupled, 3, num_parts=2, forget_gate=0),
    "lstm_no_output": Cell(_lstm_no_output, 3, forget_gate=1),
}
"""All cells by name.

Source: Elman 1990, Finding structure in time; Hochreiter and Schmidhuber 1997, Long short-term memory, with the forget
gate of Gers et al. 2000; Cho et al. 2014, Learning phrase representations using RNN encoder-decoder (GRU); Gers and
Schmidhuber 2000, Recurrent nets that time and count (peephole); Greff et al. 2017, LSTM: a search space odyssey
(coupled gates, no output gate); Zhou et al. 2016, Minimal gated unit for recurrent neural networks; Zhang et al., Dive
into Deep Learning (2021), sections 8.4, 9.1 and 9.2.
"""


def drop_connect(weights: Weights, rate: float) -> Weights:
    """Returns the weights with dropout on single recurrent connections (DropConnect).

    The weights that are kept are scaled by 1 / (1 − rate) and get a gradient. With one draw for a window, the same
    connections are missing in all of its steps.

    Source: Wan et al. 2013, Regularization of neural networks using DropConnect; on recurrent weights: Merity et al.
    2018, Regularizing and optimizing LSTM language models, section 2.
    """
    return weights._replace(recurrent_GH=masks.drop(weights.recurrent_GH, rate))
