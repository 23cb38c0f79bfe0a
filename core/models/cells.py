"""Recurrent cells: a cell is one entry of `CELLS`, with its formula and how many gates and state parts it has."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.models import state as states


class Weights(NamedTuple):
    """What a step multiplies the state with; G is the hidden size times the number of gates."""

    recurrent_GH: Tensor
    bias_G: Tensor | None  # beside the one that the projected input holds already
    peephole_PH: Tensor | None  # of the memory cell into each of P gates

    def product(self, h_BH: Tensor) -> Tensor:
        """Returns the state's share of all gates."""
        return F.linear(h_BH, self.recurrent_GH, self.bias_G)


Step = Callable[[Tensor, states.LayerState, Weights], states.LayerState]


@dataclass(frozen=True)
class Cell:
    """What a cell is.

    Attributes:
        step: the formula: from the input's share of the gates (B, G) and the state to the next state, whose first
            part is the output.
        num_gates: blocks of the weights, each as tall as the layer is wide.
        num_parts: 1 for `h`, 2 for `h` and a memory cell `c`.
        num_peepholes: gates that see the memory cell.
        forget_gate: the block that decides what the memory, or the state, keeps of itself, if there is one.
        forgets: whether that gate says what goes instead of what stays.
        fused: torch's module with the same formula and weights.
    """

    step: Step
    num_gates: int
    num_parts: int = 1
    num_peepholes: int = 0
    forget_gate: int | None = None
    forgets: bool = False
    fused: Callable[[int, int], nn.RNNBase] | None = None


def _plain(nonlinearity: Callable[[Tensor], Tensor]) -> Step:
    """No gates: h = φ(x + U h)."""

    def step(x_BG: Tensor, state: states.LayerState, weights: Weights) -> states.LayerState:
        return (nonlinearity(x_BG + weights.product(state[0])).to(state[0].dtype),)

    return step


def _gru(x_BG: Tensor, state: states.LayerState, weights: Weights) -> states.LayerState:
    """Gates r z n; the reset gate is on the product: n = tanh(x + r ⊙ (U h))."""
    h_BH = state[0]
    reset_x, update_x, new_x = x_BG.chunk(3, dim=-1)
    reset_h, update_h, new_h = weights.product(h_BH).chunk(3, dim=-1)
    update_BH = torch.sigmoid(update_x + update_h)
    new_BH = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
    return (new_BH + update_BH * (h_BH - new_BH),)


def _gru_before(x_BG: Tensor, state: states.LayerState, weights: Weights) -> states.LayerState:
    """Gates r z n; the reset gate is on the state: n = tanh(x + U (r ⊙ h))."""
    h_BH = state[0]
    both, new = _split(weights, 2)
    gates_x, new_x = torch.split(x_BG, [both.recurrent_GH.shape[0], h_BH.shape[-1]], dim=-1)
    reset_BH, update_BH = torch.sigmoid(gates_x + both.product(h_BH)).chunk(2, dim=-1)
    new_BH = torch.tanh(new_x + new.product(reset_BH * h_BH))
    return (new_BH + update_BH * (h_BH - new_BH),)


def _gru_coupled(x_BG: Tensor, state: states.LayerState, weights: Weights) -> states.LayerState:
    """Gates z n: one gate keeps the past and shows it to the new value, n = tanh(x + U (z ⊙ h))."""
    h_BH = state[0]
    gate, new = _split(weights, 1)
    gate_x, new_x = x_BG.chunk(2, dim=-1)
    update_BH = torch.sigmoid(gate_x + gate.product(h_BH))
    new_BH = torch.tanh(new_x + new.product(update_BH * h_BH))
    return (new_BH + update_BH * (h_BH - new_BH),)


def _mgu(x_BG: Tensor, state: states.LayerState, weights: Weights) -> states.LayerState:
    """Gates f n: n = tanh(x + U (f ⊙ h)), h' = (1 - f) ⊙ h + f ⊙ n."""
    h_BH = state[0]
    gate, new = _split(weights, 1)
    gate_x, new_x = x_BG.chunk(2, dim=-1)
    forget_BH = torch.sigmoid(gate_x + gate.product(h_BH))
    new_BH = torch.tanh(new_x + new.product(forget_BH * h_BH))
    return (h_BH + forget_BH * (new_BH - h_BH),)


def _lstm(x_BG: Tensor, state: states.LayerState, weights: Weights) -> states.LayerState:
    """Gates i f g o: c' = f ⊙ c + i ⊙ tanh(g), h' = o ⊙ tanh(c')."""
    input_BH, forget_BH, new_BH, output_BH = (x_BG + weights.product(state[0])).chunk(4, dim=-1)
    c_BH = torch.sigmoid(forget_BH) * state[1] + torch.sigmoid(input_BH) * torch.tanh(new_BH)
    return torch.sigmoid(output_BH) * torch.tanh(c_BH), c_BH


def _lstm_peephole(x_BG: Tensor, state: states.LayerState, weights: Weights) -> states.LayerState:
    """Gates i f g o, of which i, f and o see the memory before the step as well, each unit its own: + w ⊙ c."""
    h_BH, c_BH = state
    assert weights.peephole_PH is not None
    see_input, see_forget, see_output = weights.peephole_PH.unbind(0)
    input_BH, forget_BH, new_BH, output_BH = (x_BG + weights.product(h_BH)).chunk(4, dim=-1)
    keep_BH, add_BH = torch.sigmoid(forget_BH + see_forget * c_BH), torch.sigmoid(input_BH + see_input * c_BH)
    after_BH = keep_BH * c_BH + add_BH * torch.tanh(new_BH)
    return torch.sigmoid(output_BH + see_output * c_BH) * torch.tanh(after_BH), after_BH


def _lstm_coupled(x_BG: Tensor, state: states.LayerState, weights: Weights) -> states.LayerState:
    """Gates f g o: what is forgotten makes room for as much, i = 1 - f."""
    forget_BH, new_BH, output_BH = (x_BG + weights.product(state[0])).chunk(3, dim=-1)
    new_BH = torch.tanh(new_BH)
    c_BH = new_BH + torch.sigmoid(forget_BH) * (state[1] - new_BH)
    return torch.sigmoid(output_BH) * torch.tanh(c_BH), c_BH


def _lstm_no_output(x_BG: Tensor, state: states.LayerState, weights: Weights) -> states.LayerState:
    """Gates i f g: the output is the memory, h = c; one part is both."""
    input_BH, forget_BH, new_BH = (x_BG + weights.product(state[0])).chunk(3, dim=-1)
    return (torch.sigmoid(forget_BH) * state[0] + torch.sigmoid(input_BH) * torch.tanh(new_BH),)


def _split(weights: Weights, num_gates: int) -> tuple[Weights, Weights]:
    """Parts the weights of the first gates from those of the last, which multiplies another state."""
    size = weights.recurrent_GH.shape[1] * num_gates
    bias_G = weights.bias_G
    return (
        Weights(weights.recurrent_GH[:size], None if bias_G is None else bias_G[:size], None),
        Weights(weights.recurrent_GH[size:], None if bias_G is None else bias_G[size:], None),
    )


CELLS: dict[str, Cell] = {
    "rnn": Cell(_plain(torch.tanh), 1, fused=lambda e, h: nn.RNN(e, h, batch_first=True)),
    "rnn_relu": Cell(_plain(torch.relu), 1, fused=lambda e, h: nn.RNN(e, h, nonlinearity="relu", batch_first=True)),
    "rnn_sigmoid": Cell(_plain(torch.sigmoid), 1),
    "rnn_identity": Cell(_plain(lambda x: x), 1),
    "gru": Cell(_gru, 3, forget_gate=1, fused=lambda e, h: nn.GRU(e, h, batch_first=True)),
    "gru_before": Cell(_gru_before, 3, forget_gate=1),
    "gru_coupled": Cell(_gru_coupled, 2, forget_gate=0),
    "mgu": Cell(_mgu, 2, forget_gate=0, forgets=True),
    "lstm": Cell(_lstm, 4, num_parts=2, forget_gate=1, fused=lambda e, h: nn.LSTM(e, h, batch_first=True)),
    "lstm_peephole": Cell(_lstm_peephole, 4, num_parts=2, num_peepholes=3, forget_gate=1),
    "lstm_coupled": Cell(_lstm_coupled, 3, num_parts=2, forget_gate=0),
    "lstm_no_output": Cell(_lstm_no_output, 3, forget_gate=1),
}
"""Every cell by its name.

Source: documents 000 section 8.4 and 003 sections 2.2 to 2.4 and 2.4.11; Gers and Schmidhuber 2000 (peephole), Greff et
al. 2017 (coupled, without output gate), Zhou et al. 2016 (minimal gated unit).
"""


def drop_recurrent(weights: Weights, rate: float) -> Weights:
    """Returns the weights with a share of the recurrent connections cut, the others made up for it.

    The gradient reaches the weights that are kept. Drawn once for a window, the same connections are missing in
    all of its steps.

    Source: Merity et al. 2018, Regularizing and optimizing LSTM language models, section 2.
    """
    return weights._replace(recurrent_GH=F.dropout(weights.recurrent_GH, rate))
