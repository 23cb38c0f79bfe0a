"""Stacks of recurrent layers: in one direction with state in and out, or an encoder over padded rows."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import rnn as packing

from core.models import cells
from core.models import state as states


class TiedEmbedding(nn.Embedding):
    """An embedding whose rows are the weights of the output layer.

    They are drawn with variance 1/E and multiplied by √E on their way in: the input has entries of size 1, as from
    an embedding of its own, and the logits start small. Without this a model begins to learn much later.

    Source: Press and Wolf 2017 (tying); Vaswani et al. 2017, section 3.4 (scale).
    """

    def __init__(self, output: nn.Linear, padding_idx: int | None = None) -> None:
        super().__init__(output.out_features, output.in_features, padding_idx)
        self.weight = output.weight
        nn.init.normal_(self.weight, std=output.in_features**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Looks the rows up."""
        return super().forward(tokens) * math.sqrt(self.embedding_dim)


class Stack(nn.Module):
    """Layers on top of each other in one direction, with dropout between them (none after the last)."""

    def __init__(self, cell: str, input_size: int, hidden_size: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.cell = cell
        self.hidden_size = hidden_size
        self.dropout = dropout
        sizes = [input_size] + [hidden_size] * (num_layers - 1)
        self.layers = nn.ModuleList(cells.build_layer(cell, size, hidden_size) for size in sizes)

    def layer(self, index: int) -> cells.Layer:
        """Returns one layer, 0 the lowest."""
        found = self.layers[index]
        assert isinstance(found, cells.Layer)
        return found

    def initial_state(self, batch_size: int) -> states.State:
        """Returns the zero state."""
        sizes = (self.hidden_size,) * len(self.layers)
        return states.zeros(self.cell, sizes, batch_size, like=self.layer(0).weight_hh)

    def forward(self, x_BTE: Tensor, state: states.State) -> tuple[Tensor, states.State]:
        """Returns the outputs of the last layer and the state after the last step."""
        after = []
        for index, layer_state in enumerate(state):
            if index > 0:
                x_BTE = F.dropout(x_BTE, self.dropout, self.training)
            x_BTE, layer_after = self.layer(index)(x_BTE, layer_state)
            after.append(layer_after)
        return x_BTE, tuple(after)

    def step(self, gates_BG: Tensor, state: states.State) -> states.State:
        """Takes one step; `gates_BG` is the input as the lowest layer's `project` gives it."""
        after = [self.layer(0).step(gates_BG, state[0])]
        for index in range(1, len(state)):
            below_BH = F.dropout(after[-1][0], self.dropout, self.training)
            layer = self.layer(index)
            after.append(layer.step(layer.project(below_BH), state[index]))
        return tuple(after)


class Encoded(NamedTuple):
    """What an encoder returns; C is its width, both directions together."""

    outputs_BSC: Tensor  # zero at padding
    state: states.State  # of each row after its own last token; directions side by side, →1 ←1, →2 ←2 …


class Encoder(nn.Module):
    """Layers over whole rows of unequal length, in one direction or two.

    The second direction is a layer of its own over the rows reversed within their length: padding stays
    behind the tokens in both directions, so it never reaches a valid output.

    Source: bidirectional networks, document 003 section 2.6.
    """

    def __init__(
        self, cell: str, input_size: int, hidden_size: int, num_layers: int, dropout: float, bidirectional: bool
    ) -> None:
        super().__init__()
        self.cell = cell
        self.dropout = dropout
        self.bidirectional = bidirectional
        self.output_size = hidden_size * (2 if bidirectional else 1)
        sizes = [input_size] + [self.output_size] * (num_layers - 1)
        self.forward_layers = nn.ModuleList(cells.build_layer(cell, size, hidden_size) for size in sizes)
        if bidirectional:
            self.backward_layers = nn.ModuleList(cells.build_layer(cell, size, hidden_size) for size in sizes)

    def forward(self, x_BSE: Tensor, lengths_B: Tensor, exact_state: bool) -> Encoded:
        """Encodes rows of `lengths_B` tokens, each at least 1.

        Args:
            x_BSE: the embedded tokens.
            lengths_B: valid tokens of each row.
            exact_state: the memory cells of an LSTM are wanted too. Torch's kernel returns them after the last
                column only, so rows of unequal length then take the slower packed path; without it the state
                has `h` alone, which is read off the outputs.
        """
        positions_S = torch.arange(x_BSE.shape[1], device=x_BSE.device)
        lengths_B = lengths_B.clamp(min=1)
        lengths_on_device_B = lengths_B.to(x_BSE.device)
        padding_BS1 = (positions_S >= lengths_on_device_B[:, None]).unsqueeze(-1)
        mirror_BS = torch.where(padding_BS1.squeeze(-1), positions_S, lengths_on_device_B[:, None] - 1 - positions_S)
        pack = exact_state and self.cell == "lstm" and not bool((lengths_B == x_BSE.shape[1]).all())
        packed_lengths_B = lengths_B.cpu() if pack else None
        state: list[states.LayerState] = []
        for index, forward_layer in enumerate(self.forward_layers):
            if index > 0:
                x_BSE = F.dropout(x_BSE, self.dropout, self.training)
            y_BSC, last = _run(forward_layer, x_BSE, lengths_on_device_B, packed_lengths_B)
            if self.bidirectional:
                mirrored_BSE = _reorder(x_BSE, mirror_BS)
                back_BSH, back_last = _run(
                    self.backward_layers[index], mirrored_BSE, lengths_on_device_B, packed_lengths_B
                )
                y_BSC = torch.cat((y_BSC, _reorder(back_BSH, mirror_BS)), dim=-1)
                last = tuple(torch.cat(parts, dim=-1) for parts in zip(last, back_last, strict=True))
            x_BSE = y_BSC.masked_fill(padding_BS1, 0.0)
            state.append(last)
        return Encoded(x_BSE, tuple(state))


def _run(
    layer: nn.Module, x_BSE: Tensor, lengths_B: Tensor, packed_lengths_B: Tensor | None
) -> tuple[Tensor, states.LayerState]:
    """Runs a layer from the zero state; the state it returns is that of each row at its own length."""
    assert isinstance(layer, cells.Layer)
    zero = states.zeros(layer.cell, (layer.hidden_size,), x_BSE.shape[0], like=layer.weight_hh)[0]
    if packed_lengths_B is not None:
        packed = packing.pack_padded_sequence(x_BSE, packed_lengths_B, batch_first=True, enforce_sorted=False)
        packed_y, after = layer.fused(packed, tuple(part.unsqueeze(0) for part in zero))
        y_BSH, _ = packing.pad_packed_sequence(packed_y, batch_first=True, total_length=x_BSE.shape[1])
        return y_BSH, tuple(part.squeeze(0).to(layer.weight_hh.dtype) for part in after)
    y_BSH, after = layer(x_BSE, zero)
    last_B1H = (lengths_B - 1)[:, None, None].expand(-1, 1, y_BSH.shape[-1])
    h_BH = y_BSH.gather(1, last_B1H).squeeze(1).to(layer.weight_hh.dtype)
    return y_BSH, (h_BH, *after[1:])


def _reorder(x_BSE: Tensor, order_BS: Tensor) -> Tensor:
    """Returns position `order_BS[b, s]` of row b at (b, s)."""
    num_rows, num_positions = order_BS.shape
    starts_B1 = torch.arange(num_rows, device=order_BS.device)[:, None] * num_positions
    flat = x_BSE.flatten(0, 1).index_select(0, (order_BS + starts_B1).flatten())
    return flat.view(num_rows, num_positions, x_BSE.shape[-1])
