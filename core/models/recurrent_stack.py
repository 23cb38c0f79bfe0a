"""Multi-layer recurrent networks.

`Stack` is unidirectional, with the state as an argument: language models and decoders. `Encoder` runs over padded rows
of unequal length and may be bidirectional. Both share residual, highway and dense connections, layer normalization and
dropout between layers.

Source: Zhang et al., Dive into Deep Learning (2021), sections 9.3 "Deep Recurrent Neural Networks" and 9.4
"Bidirectional Recurrent Neural Networks".
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from core.config import model_settings
from core.models import cells, masks, recurrent_layer
from core.models import state as states


@dataclass(frozen=True)
class StackConfig:
    """Hyperparameters of a stack, named as in the settings; `sizes`: width of each layer, lowest first."""

    cell: str
    sizes: tuple[int, ...]
    dropout: float = 0.0
    weight_dropout: float = 0.0
    locked_dropout: bool = False
    connections: str = "none"
    layer_norm: bool = False
    num_biases: int = 2
    learned_initial_state: bool = False

    @classmethod
    def from_settings(cls, settings: model_settings.RecurrentConfig) -> "StackConfig":
        """Returns the hyperparameters of a language model's layers, or an encoder's."""
        return cls(
            settings.cell_name,
            settings.layer_sizes,
            settings.dropout,
            settings.weight_dropout,
            settings.locked_dropout,
            settings.connections,
            settings.layer_norm,
            num_biases=1 if settings.biases == "one" else 2,
            learned_initial_state=settings.initial_state == "learned",
        )

    def build_layer(self, input_size: int, hidden_size: int) -> recurrent_layer.Layer:
        """Returns a new layer."""
        return recurrent_layer.build_layer(
            self.cell, input_size, hidden_size, self.num_biases, self.learned_initial_state
        )


class TiedEmbedding(nn.Embedding):
    """An embedding that shares its weights with the output layer.

    Rows are initialized with variance 1/E. Where the embedding `is_scaled`, they are multiplied by √E on input: the
    entries then have size 1, as those of an embedding of its own, while the logits start small. Without the factor Adam
    begins to learn much later; recipes for SGD with large learning rates do without it.

    Source: Press and Wolf 2017, Using the output embedding to improve language models (tying); Vaswani et al. 2017,
    Attention is all you need, section 3.4 (scale).
    """

    def __init__(self, output: nn.Linear, padding_idx: int | None, is_scaled: bool) -> None:
        super().__init__(output.out_features, output.in_features, padding_idx)
        self.weight = output.weight
        self.scale = math.sqrt(output.in_features) if is_scaled else 1.0
        # Overwrites the output layer's initialization, which would give logits of another size.
        nn.init.normal_(self.weight, std=output.in_features**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns the embeddings of the tokens."""
        return super().forward(tokens) * self.scale


class Connections(nn.Module):
    """Connections between layers: layer normalization, and residual, highway or dense connections.

    The input x of a layer is the output of the layer below; with dense connections it is the concatenation of the
    outputs of all layers below. The layer's output y is normalized, then combined with the output x of the layer below:

    * residual: y + x
    * highway: g ⊙ y + (1 − g) ⊙ x with the gate g = σ(W x + b)

    Both need equal widths. The lowest layer, whose input is an embedding, and a layer of another width than the one
    below have no such connection. Dropout applies to the input of the layer, not to the connection around it.

    Source: He et al. 2016, Deep residual learning for image recognition, and Wu et al. 2016, Google's neural machine
    translation system (residual); Srivastava et al. 2015, Highway networks; Huang et al. 2017, Densely connected
    convolutional networks (dense); Ba et al. 2016, Layer normalization.
    """

    def __init__(self, config: StackConfig, sizes: Sequence[int], num_connected: int) -> None:
        """Builds the connections of the lowest `num_connected` layers, whose outputs are `sizes` wide."""
        super().__init__()
        self.connections = config.connections
        self.sizes = tuple(sizes)[:num_connected]
        self.normalizes = config.layer_norm
        if config.layer_norm:
            self.norms = nn.ModuleList(nn.LayerNorm(size) for size in self.sizes)
        if config.connections == "highway":
            # Identity keeps the index of a gate in the list, and so its stored name, that of the layer.
            self.gates = nn.ModuleList(
                nn.Linear(size, size) if self._has_shortcut(index) else nn.Identity()
                for index, size in enumerate(self.sizes)
            )

    @staticmethod
    def input_sizes(config: StackConfig, sizes: Sequence[int], input_size: int) -> list[int]:
        """Returns the input width of each layer, given the widths of their outputs."""
        if config.connections == "dense":
            # The outputs of all layers below, but not the embedding.
            return [input_size] + [sum(sizes[:index]) for index in range(1, len(sizes))]
        return [input_size, *sizes[:-1]]

    def layer_input(self, outputs: list[Tensor]) -> Tensor:
        """Returns the input of a layer from the outputs of those below, of which there is at least one."""
        return torch.cat(outputs, dim=-1) if self.connections == "dense" else outputs[-1]

    def combine(self, index: int, y: Tensor, outputs: list[Tensor]) -> Tensor:
        """Returns the final output of a layer, given its own output and those of the layers below."""
        if index >= len(self.sizes):
            return y
        if self.normalizes:
            # Normalized before the shortcut is added, which stays an identity from top to bottom.
            y = self.norms[index](y)
        if not self._has_shortcut(index):
            return y
        below = outputs[-1]
        if self.connections == "highway":
            gate = torch.sigmoid(self.gates[index](below))
            return gate * y + (1 - gate) * below
        return y + below

    def _has_shortcut(self, index: int) -> bool:
        """Tells if a layer has a residual or highway connection."""
        has_shortcuts = self.connections in ("residual", "highway")
        return has_shortcuts and index > 0 and self.sizes[index] == self.sizes[index - 1]


class WindowDropout(NamedTuple):
    """Dropout of one window: drawn once, the same in all of its steps."""

    weights: tuple[cells.Weights, ...]  # of each layer, after DropConnect if there is any
    input_masks: tuple[Tensor | None, ...]  # (B, E) on the input of each layer; None: no locked dropout


class Stack(nn.Module):
    """A unidirectional multi-layer network, with dropout between layers (none after the last)."""

    def __init__(self, config: StackConfig, input_size: int) -> None:
        super().__init__()
        self.config = config
        self.output_size = config.sizes[-1]
        self.input_sizes = Connections.input_sizes(config, config.sizes, input_size)
        self.layers = nn.ModuleList(
            config.build_layer(width, size) for width, size in zip(self.input_sizes, config.sizes, strict=True)
        )
        # The attribute's name is part of the stored format.
        self.joints = Connections(config, config.sizes, len(config.sizes))

    def layer(self, index: int) -> recurrent_layer.Layer:
        """Returns a layer by its index, 0 the lowest."""
        layer = self.layers[index]
        assert isinstance(layer, recurrent_layer.Layer)
        return layer

    def project(self, x_BE: Tensor) -> Tensor:
        """Returns the input of `step` for the input of the lowest layer: its contribution to all gates."""
        return self.layer(0).project(x_BE)

    def initial_state(self, batch_size: int) -> states.State:
        """Returns the state before the first step."""
        return tuple(layer.initial_state(batch_size) for layer in self._iterate_layers())

    def draw_dropout(self, batch_size: int) -> WindowDropout:
        """Draws the dropout of one window of `batch_size` rows; in evaluation mode it drops nothing."""
        weights = tuple(_recurrent_weights(layer, self.config) for layer in self._iterate_layers())
        input_masks: list[Tensor | None] = [None] * len(weights)
        if self.training and self.config.locked_dropout and self.config.dropout > 0:
            for index, size in enumerate(self.input_sizes[1:], start=1):
                input_masks[index] = masks.draw(weights[0].recurrent_GH, (batch_size, size), self.config.dropout)
        return WindowDropout(weights, tuple(input_masks))

    def forward(
        self, x_BTE: Tensor, state: states.State, dropout: WindowDropout | None = None
    ) -> tuple[Tensor, states.State]:
        """Returns the outputs of the top layer and the state after the last step.

        Args:
            x_BTE: the input of a window, or of a segment of one.
            state: before the first step.
            dropout: that of the window, where `x_BTE` is a segment of it; None draws one for this call alone.
        """
        if self.config.learned_initial_state:
            # DDP waits for the gradient of every parameter, but a window that continues another does not use the
            # learned initial state: adding it times 0 gives it a gradient of zeros.
            initial_sums = [layer.start.sum() for layer in self._iterate_layers()]
            x_BTE = x_BTE + torch.stack(initial_sums).sum() * 0.0

        def run_layer(
            layer: recurrent_layer.Layer, x: Tensor | None, before: states.LayerState, weights: cells.Weights
        ) -> _LayerResult:
            result: _LayerResult = layer(x_BTE if x is None else x, before, weights)
            return result

        return self._run_layers(state, dropout or self.draw_dropout(x_BTE.shape[0]), run_layer)

    def step(
        self, gates_BG: Tensor, state: states.State, dropout: WindowDropout | None = None
    ) -> tuple[Tensor, states.State]:
        """Returns the output of the top layer after one step, and the new state.

        Args:
            gates_BG: the input after `project`.
            state: before the step.
            dropout: that of the window that the step belongs to; None draws one for this step alone.
        """

        def run_layer(
            layer: recurrent_layer.Layer, x: Tensor | None, before: states.LayerState, weights: cells.Weights
        ) -> _LayerResult:
            after = layer.step(gates_BG if x is None else layer.project(x), before, weights)
            return after[0], after

        return self._run_layers(state, dropout or self.draw_dropout(gates_BG.shape[0]), run_layer)

    def _run_layers(
        self, state: states.State, dropout: WindowDropout, run_layer: "_RunLayer"
    ) -> tuple[Tensor, states.State]:
        """Runs the layers from the lowest up.

        `run_layer` receives None as the input of the lowest layer, and uses the input that it was built with.
        """
        outputs: list[Tensor] = []
        new_state: list[states.LayerState] = []
        layers = zip(self._iterate_layers(), state, dropout.weights, dropout.input_masks, strict=True)
        for index, (layer, before, weights, mask_BE) in enumerate(layers):
            x = None
            if index > 0:
                x = self.joints.layer_input(outputs)
                if mask_BE is not None:
                    # A step has inputs (B, E), a sequence (B, T, E).
                    x = x * (mask_BE if x.dim() == 2 else mask_BE.unsqueeze(1))
                elif self.training:
                    x = masks.drop(x, self.config.dropout)
            y, after = run_layer(layer, x, before, weights)
            outputs.append(self.joints.combine(index, y, outputs))
            new_state.append(after)
        return outputs[-1], tuple(new_state)

    def _iterate_layers(self) -> Iterator[recurrent_layer.Layer]:
        return cast(Iterator[recurrent_layer.Layer], iter(self.layers))


_LayerResult = tuple[Tensor, states.LayerState]
_RunLayer = Callable[[recurrent_layer.Layer, Tensor | None, states.LayerState, cells.Weights], _LayerResult]


class EncoderOutput(NamedTuple):
    """Outputs and final states of an encoder; C is its width, both directions concatenated."""

    outputs_BSC: Tensor  # zero at padding
    state: states.State  # of each row after its own last token; of each layer, both directions concatenated


class Encoder(nn.Module):
    """A multi-layer encoder of padded rows; all layers or the lowest few may be bidirectional.

    The backward direction is a second layer, which runs over the rows reversed within their lengths: padding stays
    after the tokens in both directions, so that it never influences a valid output.

    Source: Schuster and Paliwal 1997, Bidirectional recurrent neural networks; only the lowest layer bidirectional: Wu
    et al. 2016, Google's neural machine translation system, section 3.2.
    """

    def __init__(
        self,
        config: StackConfig,
        input_size: int,
        num_bidirectional: int = 0,
        backward_sizes: Sequence[int] = (),
        uses_state_only: bool = False,
    ) -> None:
        """Builds the layers.

        Args:
            config: hyperparameters; its `sizes` are those of the forward direction.
            input_size: of the embedded tokens.
            num_bidirectional: number of bidirectional layers, which are the lowest.
            backward_sizes: widths of the backward direction by layer; empty: those of the forward direction.
            uses_state_only: the outputs are not used, so that the top layer has no connections: their parameters would
                get no gradient, and DDP waits for each.
        """
        super().__init__()
        self.config = config
        back = tuple(backward_sizes or config.sizes)[:num_bidirectional]
        # Layers without a backward direction have one of width 0.
        padded = (*back, *(0 for _ in config.sizes[num_bidirectional:]))
        self.sizes = tuple(size + back_size for size, back_size in zip(config.sizes, padded, strict=True))
        self.output_size = self.sizes[-1]
        input_sizes = Connections.input_sizes(config, self.sizes, input_size)
        self.forward_layers = nn.ModuleList(map(config.build_layer, input_sizes, config.sizes))
        if back:
            self.backward_layers = nn.ModuleList(map(config.build_layer, input_sizes, back))
        self.num_bidirectional = num_bidirectional
        # The attribute's name is part of the stored format.
        self.joints = Connections(config, self.sizes, len(self.sizes) - uses_state_only)

    def forward(self, x_BSE: Tensor, lengths_B: Tensor, exact_state: bool) -> EncoderOutput:
        """Returns the encoding of rows of `lengths_B` tokens, each at least 1.

        Args:
            x_BSE: the embedded tokens.
            lengths_B: valid tokens of each row.
            exact_state: the memory cells of an LSTM are needed too; else only `h` is valid in the state.
        """
        positions_S = torch.arange(x_BSE.shape[1], device=x_BSE.device)
        lengths_B = lengths_B.clamp(min=1)
        lengths_on_device_B = lengths_B.to(x_BSE.device)
        padding_BS1 = (positions_S >= lengths_on_device_B[:, None]).unsqueeze(-1)
        # Position s of the reversed row: the tokens mirrored, the padding where it was.
        mirror_BS = torch.where(padding_BS1.squeeze(-1), positions_S, lengths_on_device_B[:, None] - 1 - positions_S)
        has_memory = cells.CELLS[self.config.cell].num_parts > 1
        # Lengths that are on the CPU are read there: where all rows are full, their last column is their last token.
        is_ragged = lengths_B.device.type != "cpu" or not bool((lengths_B == x_BSE.shape[1]).all())
        exact_memory = exact_state and has_memory and is_ragged

        def run_layer(layer: nn.Module, x: Tensor) -> _LayerResult:
            assert isinstance(layer, recurrent_layer.Layer)
            return layer.encode(x, lengths_on_device_B, exact_memory, _recurrent_weights(layer, self.config))

        state: list[states.LayerState] = []
        outputs: list[Tensor] = []
        for index, forward_layer in enumerate(self.forward_layers):
            if index > 0:
                x_BSE = self.joints.layer_input(outputs)
                x_BSE = drop(x_BSE, self.config.dropout, self.training, self.config.locked_dropout)
            y_BSC, final = run_layer(forward_layer, x_BSE)
            if index < self.num_bidirectional:
                back_BSH, back_final = run_layer(self.backward_layers[index], _reorder(x_BSE, mirror_BS))
                y_BSC = torch.cat((y_BSC, _reorder(back_BSH, mirror_BS)), dim=-1)
                final = tuple(torch.cat(parts, dim=-1) for parts in zip(final, back_final, strict=True))
            # Zeros at padding, so that a sum over positions is one over tokens, as in the mean bridge.
            outputs.append(self.joints.combine(index, y_BSC, outputs).masked_fill(padding_BS1, 0.0))
            state.append(final)
        return EncoderOutput(outputs[-1], tuple(state))


def drop(x: Tensor, rate: float, is_training: bool, is_locked: bool) -> Tensor:
    """Returns x (B, …, E) after dropout; locked (variational): one mask for each row, the same at all positions.

    Source: Gal and Ghahramani 2016, A theoretically grounded application of dropout in recurrent neural networks.
    """
    if not is_training:
        return x
    if not is_locked or rate == 0 or x.dim() < 3:
        return masks.drop(x, rate)
    # Sizes of 1 at the positions between broadcast the mask over them.
    return x * masks.draw(x, (x.shape[0], *(1 for _ in x.shape[1:-1]), x.shape[-1]), rate)


def drop_words(x: Tensor, tokens: Tensor, vocabulary_size: int, rate: float, is_training: bool) -> Tensor:
    """Returns the embeddings `x` of `tokens` after dropout of whole words: a dropped word is zero wherever it occurs.

    Source: Gal and Ghahramani 2016; Merity et al. 2018, Regularizing and optimizing LSTM language models, section 4.3
    (there called embedding dropout).
    """
    if rate == 0 or not is_training:
        return x
    mask_V = masks.draw(x, (vocabulary_size,), rate)
    return x * mask_V[tokens].unsqueeze(-1)


def _recurrent_weights(layer: recurrent_layer.Layer, config: StackConfig) -> cells.Weights:
    """Returns the recurrent weights of a layer, in training after DropConnect."""
    if layer.training and config.weight_dropout > 0:
        return cells.drop_connect(layer.weights, config.weight_dropout)
    return layer.weights


def _reorder(x_BSE: Tensor, order_BS: Tensor) -> Tensor:
    """Returns position `order_BS[b, s]` of row b at (b, s)."""
    num_rows, num_positions = order_BS.shape
    starts_B1 = torch.arange(num_rows, device=order_BS.device)[:, None] * num_positions
    flat = x_BSE.flatten(0, 1).index_select(0, (order_BS + starts_B1).flatten())
    return flat.view(num_rows, num_positions, x_BSE.shape[-1])
