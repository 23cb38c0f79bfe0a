"""One recurrent layer of any cell: over whole sequences, or step by step with the same weights.

What torch has a fused kernel for runs in it; every other cell runs in a loop of ours, in which only the product
with the state is left.
"""

import contextlib
import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import rnn as packing

from core.models import cells, compute
from core.models import state as states


class Layer(nn.Module):
    """A layer of cells in one direction.

    `forward` runs a whole sequence. `project` and `step` are the same computation in two halves, for loops: the
    projection of all inputs does not depend on the state, so it is one GEMM outside the loop. The weights are laid
    out as torch does it: `weight_ih` (G, E), `weight_hh` (G, H), and biases of G: one, or torch's two, whose sum counts
    (but for `gru`, where the second bias of the last gate is inside the reset product).
    """

    def __init__(
        self, cell: str, input_size: int, hidden_size: int, num_biases: int = 2, learned_start: bool = False
    ) -> None:
        super().__init__()
        self.kind = cells.CELLS[cell]
        self.cell = cell
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_biases = num_biases
        if learned_start:
            self.start = nn.Parameter(torch.zeros(self.kind.num_parts, hidden_size))

    @property
    def weight_ih(self) -> Tensor:
        """(G, E): from input to gates."""
        raise NotImplementedError

    @property
    def weight_hh(self) -> Tensor:
        """(G, H): from state to gates."""
        raise NotImplementedError

    @property
    def bias_ih(self) -> Tensor:
        """(G,): added with the input's share."""
        raise NotImplementedError

    @property
    def weights(self) -> cells.Weights:
        """What a step multiplies the state with."""
        raise NotImplementedError

    def forward(
        self, x_BTE: Tensor, state: states.LayerState, weights: cells.Weights | None = None
    ) -> tuple[Tensor, states.LayerState]:
        """Returns the outputs of all steps and the state after the last; T is at least 1, B may be 0.

        `weights` are those of the recurrent product, where they are not the layer's own.
        """
        raise NotImplementedError

    def read(
        self, x_BSE: Tensor, lengths_B: Tensor, packed_lengths_B: Tensor | None, weights: cells.Weights
    ) -> tuple[Tensor, states.LayerState]:
        """Reads rows of unequal length from the initial state; the state it returns is each row's at its own end.

        Args:
            x_BSE: the inputs.
            lengths_B: valid steps of each row, each at least 1; outputs behind them mean nothing.
            packed_lengths_B: the same on the CPU, if the memory cells of a fused LSTM must be exact too.
            weights: of the recurrent product.
        """
        raise NotImplementedError

    def initial_state(self, batch_size: int) -> states.LayerState:
        """Returns the state of rows that have read nothing: zero, or learned."""
        if hasattr(self, "start"):
            return tuple(part_H.expand(batch_size, -1) for part_H in self.start)
        return states.zeros(self.kind.num_parts, (self.hidden_size,), batch_size, like=self.weight_hh)[0]

    def project(self, x: Tensor) -> Tensor:
        """Returns what the inputs, of any leading shape, add to the gates, the input bias included."""
        return F.linear(x, self.weight_ih, self.bias_ih)

    def step(
        self, gates_BG: Tensor, state: states.LayerState, weights: cells.Weights | None = None
    ) -> states.LayerState:
        """Takes one step from the projected input; the output is the first part of the new state."""
        return self.kind.step(gates_BG, state, weights or self.weights)


class FusedLayer(Layer):
    """A layer that torch has a kernel for; the kernel is called with the weights given, dropped ones included."""

    def __init__(self, cell: str, input_size: int, hidden_size: int, num_biases: int, learned_start: bool) -> None:
        super().__init__(cell, input_size, hidden_size, num_biases, learned_start)
        make = self.kind.fused
        assert make is not None
        self.fused = make(input_size, hidden_size)
        if num_biases == 1:
            # The kernels want both: the second is zero, and no parameter. Assigning it tells torch's own list.
            second = torch.zeros_like(self.bias_ih)
            del self.fused.bias_hh_l0
            self.fused.register_buffer("bias_hh_l0", second, persistent=False)
            self.fused.bias_hh_l0 = second

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

    @property
    def weights(self) -> cells.Weights:
        """What a step multiplies the state with."""
        return cells.Weights(self.weight_hh, self.bias_hh, None)

    def forward(
        self, x_BTE: Tensor, state: states.LayerState, weights: cells.Weights | None = None
    ) -> tuple[Tensor, states.LayerState]:
        """Returns the outputs of all steps and the state after the last."""
        return self._run(x_BTE, state, weights or self.weights)

    def read(
        self, x_BSE: Tensor, lengths_B: Tensor, packed_lengths_B: Tensor | None, weights: cells.Weights
    ) -> tuple[Tensor, states.LayerState]:
        """Reads rows of unequal length.

        The kernel returns memory cells after the last column only, so to have them exact takes the slower packed
        path; `h` alone is read off the outputs.
        """
        state = self.initial_state(x_BSE.shape[0])
        if packed_lengths_B is None:
            y_BSH, after = self._run(x_BSE, state, weights)
            last_B1H = (lengths_B - 1)[:, None, None].expand(-1, 1, y_BSH.shape[-1])
            return y_BSH, (y_BSH.gather(1, last_B1H).squeeze(1).to(self.weight_hh.dtype), *after[1:])
        packed = packing.pack_padded_sequence(x_BSE, packed_lengths_B, batch_first=True, enforce_sorted=False)
        assert packed.unsorted_indices is not None
        # All rows start from the same state, so it need not be brought into the order of the packed rows.
        y, after = self._run(packed.data, state, weights, packed.batch_sizes)
        y_BSH, _ = packing.pad_packed_sequence(packed._replace(data=y), batch_first=True, total_length=x_BSE.shape[1])
        return y_BSH, states.select((after,), packed.unsorted_indices)[0]

    def _run(
        self, x: Tensor, state: states.LayerState, weights: cells.Weights, batch_sizes: Tensor | None = None
    ) -> tuple[Tensor, states.LayerState]:
        """Calls the kernel, as torch's own module does, over padded or packed rows."""
        flat = [self.weight_ih, weights.recurrent_GH, self.bias_ih, self.bias_hh]
        kernel = _KERNELS[self.fused.mode]
        parts = tuple(part.unsqueeze(0) for part in state)
        carried = parts if len(parts) > 1 else parts[0]
        with compute.native_lstm_if_needed(x) if self.fused.mode == "LSTM" else contextlib.nullcontext():
            if batch_sizes is None:
                y, *after = kernel(x, carried, flat, True, 1, 0.0, self.training, False, True)
            else:
                y, *after = kernel(x, batch_sizes, carried, flat, True, 1, 0.0, self.training, False)
        # Under autocast the kernels return bf16: between windows a state keeps the precision of the weights.
        return y, tuple(part.squeeze(0).to(self.weight_hh.dtype) for part in after)


_KERNELS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "RNN_TANH": torch.rnn_tanh,
    "RNN_RELU": torch.rnn_relu,
    "GRU": torch.gru,
    "LSTM": torch.lstm,
}


class LoopLayer(Layer):
    """A layer whose time loop is ours; its first weights are drawn as torch draws those of its own layers."""

    def __init__(self, cell: str, input_size: int, hidden_size: int, num_biases: int, learned_start: bool) -> None:
        super().__init__(cell, input_size, hidden_size, num_biases, learned_start)
        size = hidden_size * self.kind.num_gates
        bound = 1 / math.sqrt(hidden_size)

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))

        own = {"weight_ih": drawn(size, input_size), "weight_hh": drawn(size, hidden_size), "bias_ih": drawn(size)}
        if num_biases == 2:
            own["bias_hh"] = drawn(size)
        if self.kind.num_peepholes:
            own["weight_peephole"] = drawn(self.kind.num_peepholes, hidden_size)
        self.own = nn.ParameterDict(own)

    @property
    def weight_ih(self) -> Tensor:
        """(G, E): from input to gates."""
        return cast(Tensor, self.own["weight_ih"])

    @property
    def weight_hh(self) -> Tensor:
        """(G, H): from state to gates."""
        return cast(Tensor, self.own["weight_hh"])

    @property
    def bias_ih(self) -> Tensor:
        """(G,): added with the input's share."""
        return cast(Tensor, self.own["bias_ih"])

    @property
    def weights(self) -> cells.Weights:
        """What a step multiplies the state with."""
        return cells.Weights(self.weight_hh, self.own.get("bias_hh"), self.own.get("weight_peephole"))

    def forward(
        self, x_BTE: Tensor, state: states.LayerState, weights: cells.Weights | None = None
    ) -> tuple[Tensor, states.LayerState]:
        """Returns the outputs of all steps and the state after the last."""
        return self._loop(x_BTE, state, weights or self.weights, None)

    def read(
        self, x_BSE: Tensor, lengths_B: Tensor, packed_lengths_B: Tensor | None, weights: cells.Weights
    ) -> tuple[Tensor, states.LayerState]:
        """Reads rows of unequal length; a row that has ended keeps its state, which is exact without packing."""
        del packed_lengths_B
        return self._loop(x_BSE, self.initial_state(x_BSE.shape[0]), weights, lengths_B)

    def _loop(
        self, x_BTE: Tensor, state: states.LayerState, weights: cells.Weights, lengths_B: Tensor | None
    ) -> tuple[Tensor, states.LayerState]:
        outputs = []
        for time, gates_BG in enumerate(self.project(x_BTE).unbind(dim=1)):
            after = self.kind.step(gates_BG, state, weights)
            outputs.append(after[0])
            if lengths_B is not None:
                goes_on_B1 = (time < lengths_B)[:, None]
                after = tuple(torch.where(goes_on_B1, new, old) for new, old in zip(after, state, strict=True))
            state = after
        return torch.stack(outputs, dim=1), state


def build_layer(
    cell: str, input_size: int, hidden_size: int, num_biases: int = 2, learned_start: bool = False
) -> Layer:
    """Builds a layer of the cells of this name, in torch's kernel where it has one."""
    make = FusedLayer if cells.CELLS[cell].fused is not None else LoopLayer
    return make(cell, input_size, hidden_size, num_biases, learned_start)
