"""A recurrent layer of one direction: over whole sequences, or step by step with the same weights.

`FusedLayer` calls torch's kernel (cuDNN on a GPU) for the cells that have one; `LoopLayer` runs all other cells in a
Python loop over time, which multiplies the state alone: the inputs of all steps are projected before it.
"""

import contextlib
import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.models import bf16_products, cells, compute
from core.models import state as states

_HOLD = 1e30  # beyond every input of a gate; e to the minus of it is 0 in all precisions


class Layer(nn.Module):
    """A recurrent layer, by the name of its cell.

    `forward` runs a whole sequence. `project` and `step` are the same computation in two halves, for loops: the
    projection of all inputs does not depend on the state, so it is one matrix product outside the loop. Weights have
    torch's layout: `weight_ih` (G, E), `weight_hh` (G, H), and one or two biases (G,). Of torch's two biases the sum
    counts, except in `gru`, where the second bias of the candidate is inside the product with the reset gate.
    """

    def __init__(
        self, cell: str, input_size: int, hidden_size: int, num_biases: int = 2, learned_initial_state: bool = False
    ) -> None:
        super().__init__()
        self.kind = cells.CELLS[cell]
        self.cell = cell
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_biases = num_biases
        if learned_initial_state:
            # The name is part of the stored format, as are those of all parameters here.
            self.start = nn.Parameter(torch.zeros(self.kind.num_parts, hidden_size))

    @property
    def weight_ih(self) -> Tensor:
        """Input weights (G, E) of all gates."""
        raise NotImplementedError

    @property
    def weight_hh(self) -> Tensor:
        """Recurrent weights (G, H) of all gates."""
        raise NotImplementedError

    @property
    def bias_ih(self) -> Tensor:
        """Bias (G,) of the input projection."""
        raise NotImplementedError

    @property
    def weights(self) -> cells.Weights:
        """Weights of the recurrent product."""
        raise NotImplementedError

    def forward(
        self, x_BTE: Tensor, state: states.LayerState, weights: cells.Weights | None = None
    ) -> tuple[Tensor, states.LayerState]:
        """Returns the outputs of all steps and the state after the last; T is at least 1, B may be 0.

        `weights` replace the layer's own in the recurrent product, for instance after DropConnect.
        """
        raise NotImplementedError

    def encode(
        self, x_BSE: Tensor, lengths_B: Tensor, exact_memory: bool, weights: cells.Weights
    ) -> tuple[Tensor, states.LayerState]:
        """Runs padded rows from the initial state; returns their outputs, and the state of each after its last token.

        Args:
            x_BSE: the inputs.
            lengths_B: valid steps of each row, each at least 1; outputs after them are undefined.
            exact_memory: whether the memory cells of a fused LSTM must be exact too; else only `h` is.
            weights: of the recurrent product.
        """
        raise NotImplementedError

    def initial_state(self, batch_size: int) -> states.LayerState:
        """Returns the state before the first token: zero, or learned."""
        if hasattr(self, "start"):
            return tuple(part_H.expand(batch_size, -1) for part_H in self.start)
        return states.zeros(self.kind.num_parts, (self.hidden_size,), batch_size, like=self.weight_hh)[0]

    def project(self, x: Tensor) -> Tensor:
        """Returns the inputs' contribution to all gates, W x + b, for inputs of any leading shape."""
        return F.linear(x, self.weight_ih, self.bias_ih)

    def step(
        self, gates_BG: Tensor, state: states.LayerState, weights: cells.Weights | None = None
    ) -> states.LayerState:
        """Returns the state after one step with the projected input; its first part is the output."""
        return self.kind.step(gates_BG, state, weights or self.weights)


class FusedLayer(Layer):
    """A layer that runs in torch's fused kernel, called with weights after DropConnect if there is any."""

    def __init__(
        self, cell: str, input_size: int, hidden_size: int, num_biases: int, learned_initial_state: bool
    ) -> None:
        super().__init__(cell, input_size, hidden_size, num_biases, learned_initial_state)
        build_fused = self.kind.fused
        assert build_fused is not None
        self.fused = build_fused(input_size, hidden_size)
        if num_biases == 1:
            # The kernels take two biases, so the second is a zero buffer. Assigning it once more updates the list of
            # weights that torch's module keeps.
            second = torch.zeros_like(self.bias_ih)
            del self.fused.bias_hh_l0
            self.fused.register_buffer("bias_hh_l0", second, persistent=False)
            self.fused.bias_hh_l0 = second

    @property
    def weight_ih(self) -> Tensor:
        """Input weights (G, E) of all gates."""
        return cast(Tensor, self.fused.weight_ih_l0)

    @property
    def weight_hh(self) -> Tensor:
        """Recurrent weights (G, H) of all gates."""
        return cast(Tensor, self.fused.weight_hh_l0)

    @property
    def bias_ih(self) -> Tensor:
        """Bias (G,) of the input projection."""
        return cast(Tensor, self.fused.bias_ih_l0)

    @property
    def bias_hh(self) -> Tensor:
        """Bias (G,) of the recurrent product; in a GRU the reset gate multiplies its last third too."""
        return cast(Tensor, self.fused.bias_hh_l0)

    @property
    def weights(self) -> cells.Weights:
        """Weights of the recurrent product."""
        return cells.Weights(self.weight_hh, self.bias_hh, None)

    def forward(
        self, x_BTE: Tensor, state: states.LayerState, weights: cells.Weights | None = None
    ) -> tuple[Tensor, states.LayerState]:
        """See `Layer.forward`."""
        return self._run(x_BTE, state, weights or self.weights, self.weight_ih)

    def encode(
        self, x_BSE: Tensor, lengths_B: Tensor, exact_memory: bool, weights: cells.Weights
    ) -> tuple[Tensor, states.LayerState]:
        """See `Layer.encode`.

        The kernel returns the memory cells after the last column only. For exact ones a cell is held after the last
        token of its row: see `_held_at_padding`.
        """
        weight_ih = self.weight_ih
        if exact_memory:
            x_BSE, weight_ih = _held_at_padding(x_BSE, lengths_B, weight_ih)
        y_BSH, after = self._run(x_BSE, self.initial_state(x_BSE.shape[0]), weights, weight_ih)
        # The output at a row's last token is its final hidden state.
        last_B1H = (lengths_B - 1)[:, None, None].expand(-1, 1, y_BSH.shape[-1])
        return y_BSH, (y_BSH.gather(1, last_B1H).squeeze(1).to(self.weight_hh.dtype), *after[1:])

    def _run(
        self, x_BTE: Tensor, state: states.LayerState, weights: cells.Weights, weight_ih: Tensor
    ) -> tuple[Tensor, states.LayerState]:
        """Calls the kernel as torch's own module does."""
        flat = [weight_ih, weights.recurrent_GH, self.bias_ih, self.bias_hh]
        kernel = _KERNELS[self.fused.mode]
        parts = tuple(part.unsqueeze(0) for part in state)  # the kernels have a dimension of layers
        initial = parts if len(parts) > 1 else parts[0]
        with compute.native_lstm_if_needed(x_BTE) if self.fused.mode == "LSTM" else contextlib.nullcontext():
            # Biases, layers, dropout, training, bidirectional, batch first. Dropout between layers is ours: cuDNN's own
            # cannot be resumed.
            y, *after = kernel(x_BTE, initial, flat, True, 1, 0.0, self.training, False, True)
        # Under autocast the kernels return bf16; the state keeps the precision of the weights, so that rounding errors
        # do not add up from window to window.
        return y, tuple(part.squeeze(0).to(self.weight_hh.dtype) for part in after)


def _held_at_padding(x_BSE: Tensor, lengths_B: Tensor, weight_ih: Tensor) -> tuple[Tensor, Tensor]:
    """Returns inputs and input weights of an LSTM with one column more, which holds its memory cells at padding.

    The column is 1 at padding. Its weights close the input gate and open the forget gate: sigmoid is exactly 0 and 1
    there, so that the cell after the last column is that after the last token, and so are its gradients. Packed rows,
    as torch has them for this, leave the fused kernel. In bf16 more columns of zeros follow: see `bf16_products`.
    """
    size = x_BSE.shape[-1]
    width = size + 1
    if x_BSE.device.type == "cpu" and compute.is_autocast("cpu"):
        width = bf16_products.fill_up(width, bf16_products.KERNEL_COLUMNS)
    positions_S = torch.arange(x_BSE.shape[1], device=x_BSE.device)
    columns_BSC = x_BSE.new_zeros(*x_BSE.shape[:2], width - size)
    columns_BSC[..., 0] = positions_S >= lengths_B[:, None]
    hold_GHC = weight_ih.new_zeros(4, weight_ih.shape[0] // 4, width - size)  # input, forget, candidate, output
    hold_GHC[0, :, 0], hold_GHC[1, :, 0] = -_HOLD, _HOLD
    return torch.cat((x_BSE, columns_BSC), dim=-1), torch.cat((weight_ih, hold_GHC.flatten(0, 1)), dim=1)


# By the `mode` of torch's modules.
_KERNELS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "RNN_TANH": torch.rnn_tanh,
    "RNN_RELU": torch.rnn_relu,
    "GRU": torch.gru,
    "LSTM": torch.lstm,
}


class LoopLayer(Layer):
    """A layer that runs in a Python loop over time; weights are initialized as torch initializes its own layers."""

    def __init__(
        self, cell: str, input_size: int, hidden_size: int, num_biases: int, learned_initial_state: bool
    ) -> None:
        super().__init__(cell, input_size, hidden_size, num_biases, learned_initial_state)
        size = hidden_size * self.kind.num_gates
        bound = 1 / math.sqrt(hidden_size)

        def uniform(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))

        # The order of these lines is that of the random draws: another would change the weights of a seed.
        parameters = {"weight_ih": uniform(size, input_size), "weight_hh": uniform(size, hidden_size)}
        parameters["bias_ih"] = uniform(size)
        if num_biases == 2:
            parameters["bias_hh"] = uniform(size)
        if self.kind.num_peepholes:
            parameters["weight_peephole"] = uniform(self.kind.num_peepholes, hidden_size)
        self.own = nn.ParameterDict(parameters)

    @property
    def weight_ih(self) -> Tensor:
        """Input weights (G, E) of all gates."""
        return cast(Tensor, self.own["weight_ih"])

    @property
    def weight_hh(self) -> Tensor:
        """Recurrent weights (G, H) of all gates."""
        return cast(Tensor, self.own["weight_hh"])

    @property
    def bias_ih(self) -> Tensor:
        """Bias (G,) of the input projection."""
        return cast(Tensor, self.own["bias_ih"])

    @property
    def weights(self) -> cells.Weights:
        """Weights of the recurrent product."""
        return cells.Weights(self.weight_hh, self.own.get("bias_hh"), self.own.get("weight_peephole"))

    def forward(
        self, x_BTE: Tensor, state: states.LayerState, weights: cells.Weights | None = None
    ) -> tuple[Tensor, states.LayerState]:
        """See `Layer.forward`."""
        return self._loop(x_BTE, state, weights or self.weights, None)

    def encode(
        self, x_BSE: Tensor, lengths_B: Tensor, exact_memory: bool, weights: cells.Weights
    ) -> tuple[Tensor, states.LayerState]:
        """See `Layer.encode`; a row that has ended keeps its state, so that all of it is exact."""
        del exact_memory
        return self._loop(x_BSE, self.initial_state(x_BSE.shape[0]), weights, lengths_B)

    def _loop(
        self, x_BTE: Tensor, state: states.LayerState, weights: cells.Weights, lengths_B: Tensor | None
    ) -> tuple[Tensor, states.LayerState]:
        outputs = []
        for time, gates_BG in enumerate(self.project(x_BTE).unbind(dim=1)):
            after = self.kind.step(gates_BG, state, weights)
            outputs.append(after[0])
            if lengths_B is not None:
                # A row that has ended keeps its state, and with it the gradient of its last step.
                is_valid_B1 = (time < lengths_B)[:, None]
                after = tuple(torch.where(is_valid_B1, new, old) for new, old in zip(after, state, strict=True))
            state = after
        return torch.stack(outputs, dim=1), state


def build_layer(
    cell: str, input_size: int, hidden_size: int, num_biases: int = 2, learned_initial_state: bool = False
) -> Layer:
    """Returns a layer of the named cell, on torch's kernel where there is one."""
    # By the cell alone, never by the device: the two classes store their weights under other names.
    layer_class = FusedLayer if cells.CELLS[cell].fused is not None else LoopLayer
    return layer_class(cell, input_size, hidden_size, num_biases, learned_initial_state)
