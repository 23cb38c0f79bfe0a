"""One recurrent layer: over whole sequences by torch's fused kernels, or step by step with the same weights."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.models import state as states

_MODULES: dict[str, type[nn.RNN] | type[nn.GRU] | type[nn.LSTM]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class Layer(nn.Module):
    """A layer of cells in one direction.

    `forward` runs a whole sequence in one fused call. `project` and `step` are the same computation in two
    halves, for loops: the projection of all inputs does not depend on the state, so it is one GEMM outside the
    loop. The weights are torch's: `weight_ih` (G, E), `weight_hh` (G, H) and two biases of G, gates in the order
    r z n (GRU), i f g o (LSTM).

    Source: documents 000 section 8.4 and 003 sections 2.2 to 2.4; the GRU resets after the recurrent product.
    """

    def __init__(self, cell: str, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.cell = cell
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.fused = _MODULES[cell](input_size, hidden_size, batch_first=True)

    def forward(self, x_BTE: Tensor, state: states.LayerState) -> tuple[Tensor, states.LayerState]:
        """Returns the outputs of all steps and the state after the last; T is at least 1, B may be 0."""
        carried = tuple(part.unsqueeze(0) for part in state)
        if self.cell == "lstm":
            y_BTH, (h, c) = self.fused(x_BTE, carried)
            after: tuple[Tensor, ...] = (h, c)
        else:
            y_BTH, h = self.fused(x_BTE, carried[0])
            after = (h,)
        # Under autocast the kernels return bf16: between windows a state keeps the precision of the weights.
        return y_BTH, tuple(part.squeeze(0).to(self.weight_hh.dtype) for part in after)

    def project(self, x: Tensor) -> Tensor:
        """Returns what the inputs, of any leading shape, add to the gates, the input bias included."""
        return F.linear(x, self.weight_ih, self.bias_ih)

    def step(self, gates_BG: Tensor, state: states.LayerState) -> states.LayerState:
        """Takes one step from the projected input; the output is the first part of the new state."""
        h_BH = state[0]
        recurrent_BG = F.linear(h_BH, self.weight_hh, self.bias_hh)
        if self.cell == "rnn":
            return (torch.tanh(gates_BG + recurrent_BG).to(h_BH.dtype),)
        if self.cell == "gru":
            reset_x, update_x, new_x = gates_BG.chunk(3, dim=-1)
            reset_h, update_h, new_h = recurrent_BG.chunk(3, dim=-1)
            update_BH = torch.sigmoid(update_x + update_h)
            new_BH = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
            return (new_BH + update_BH * (h_BH - new_BH),)
        input_BH, forget_BH, new_BH, output_BH = (gates_BG + recurrent_BG).chunk(4, dim=-1)
        c_BH = torch.sigmoid(forget_BH) * state[1] + torch.sigmoid(input_BH) * torch.tanh(new_BH)
        return torch.sigmoid(output_BH) * torch.tanh(c_BH), c_BH

    @property
    def weight_ih(self) -> Tensor:
        """(G, E): from input to gates."""
        return cast(Tensor, self.fused.weight_ih_l0)

    @property
    def weight_hh(self) -> Tensor:
        """(G, H): from state to gates."""
        return cast(Tensor, self.fused.weight_hh_l0)

    @property
    def bias_ih(self) -> Tensor:
        """(G,): added with the input's share."""
        return cast(Tensor, self.fused.bias_ih_l0)

    @property
    def bias_hh(self) -> Tensor:
        """(G,): added with the state's share; in a GRU its last third is inside the reset product."""
        return cast(Tensor, self.fused.bias_hh_l0)


def build_layer(cell: str, input_size: int, hidden_size: int) -> Layer:
    """Builds a layer of `rnn` (tanh), `gru` or `lstm` cells with torch's own initial weights."""
    return Layer(cell, input_size, hidden_size)
