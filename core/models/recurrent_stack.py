"""Stacks of recurrent layers: in one direction with state in and out, or an encoder over padded rows."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.config import model_settings
from core.models import cells, recurrent_layer
from core.models import state as states


@dataclass(frozen=True)
class Design:
    """What the layers of a stack have in common, and how wide each is, from the lowest to the highest.

    The settings of the same names say what the rest means.
    """

    cell: str
    sizes: tuple[int, ...]
    dropout: float = 0.0
    weight_dropout: float = 0.0
    locked_dropout: bool = False
    connections: str = "none"
    layer_norm: bool = False
    num_biases: int = 2
    learned_start: bool = False

    def layer(self, input_size: int, hidden_size: int) -> recurrent_layer.Layer:
        """Builds a layer."""
        return recurrent_layer.build_layer(self.cell, input_size, hidden_size, self.num_biases, self.learned_start)


def design_of(config: model_settings.RecurrentConfig) -> Design:
    """Returns what the settings say of a language model's layers, or an encoder's."""
    return Design(
        config.cell_name,
        config.layer_sizes,
        config.dropout,
        config.weight_dropout,
        config.locked_dropout,
        config.connections,
        config.layer_norm,
        1 if config.biases == "one" else 2,
        config.initial_state == "learned",
    )


class TiedEmbedding(nn.Embedding):
    """An embedding whose rows are the weights of the output layer.

    They are drawn with variance 1/E and multiplied by √E on their way in: the input has entries of size 1, as from
    an embedding of its own, and the logits start small. Without this Adam begins to learn much later. Recipes for
    SGD with large rates have their rows as they are.

    Source: Press and Wolf 2017 (tying); Vaswani et al. 2017, section 3.4 (scale).
    """

    def __init__(self, output: nn.Linear, padding_idx: int | None, is_scaled: bool) -> None:
        super().__init__(output.out_features, output.in_features, padding_idx)
        self.weight = output.weight
        self.scale = math.sqrt(output.in_features) if is_scaled else 1.0
        nn.init.normal_(self.weight, std=output.in_features**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Looks the rows up."""
        return super().forward(tokens) * self.scale


class Joints(nn.Module):
    """What lies between layers: normalisation, and the ways around a layer.

    A layer takes the output of the one below, with dense connections those of all below, side by side. Its own
    output is normalised, then joined with that of the layer below: added to it (residual), or mixed with it by a
    learned gate g, g ⊙ output + (1 - g) ⊙ below (highway). That needs equal widths; the lowest layer, whose input
    is of another kind, and a change of width have no way around. Dropout is inside the way, not around it.

    Source: document 003 section 2.5.1; He et al. 2016 and Wu et al. 2016 (residual), Srivastava et al. 2015 (highway),
    Huang et al. 2017 (dense), Ba et al. 2016 (layer normalisation).
    """

    def __init__(self, design: Design, sizes: Sequence[int], num_joined: int) -> None:
        """Builds what lies behind the lowest `num_joined` layers, whose outputs are `sizes` wide."""
        super().__init__()
        self.connections = design.connections
        self.sizes = tuple(sizes)[:num_joined]
        self.normalises = design.layer_norm
        if design.layer_norm:
            self.norms = nn.ModuleList(nn.LayerNorm(size) for size in self.sizes)
        if design.connections == "highway":
            self.gates = nn.ModuleList(
                nn.Linear(size, size) if self._has_way_around(index) else nn.Identity()
                for index, size in enumerate(self.sizes)
            )

    @staticmethod
    def input_sizes(design: Design, sizes: Sequence[int], input_size: int) -> list[int]:
        """Returns how wide the input of each layer is, if their outputs are of the given sizes."""
        if design.connections == "dense":
            return [input_size] + [sum(sizes[:index]) for index in range(1, len(sizes))]
        return [input_size, *sizes[:-1]]

    def enter(self, outputs: list[Tensor]) -> Tensor:
        """Returns what a layer takes from the outputs of those below, of which there is at least one."""
        return torch.cat(outputs, dim=-1) if self.connections == "dense" else outputs[-1]

    def leave(self, index: int, y: Tensor, outputs: list[Tensor]) -> Tensor:
        """Returns what a layer hands on, of its own output and the outputs of those below."""
        if index >= len(self.sizes):
            return y
        if self.normalises:
            y = self.norms[index](y)
        if not self._has_way_around(index):
            return y
        below = outputs[-1]
        if self.connections == "highway":
            gate = torch.sigmoid(self.gates[index](below))
            return gate * y + (1 - gate) * below
        return y + below

    def _has_way_around(self, index: int) -> bool:
        joins = self.connections in ("residual", "highway")
        return joins and index > 0 and self.sizes[index] == self.sizes[index - 1]


class Drawn(NamedTuple):
    """What chance decides once for all steps of a window; without dropout it is the weights as they are."""

    weights: tuple[cells.Weights, ...]
    masks: tuple[Tensor | None, ...]  # (B, width) on the way into each layer; None: no locked dropout


class Stack(nn.Module):
    """Layers on top of each other in one direction, with dropout between them (none after the last)."""

    def __init__(self, design: Design, input_size: int) -> None:
        super().__init__()
        self.design = design
        self.output_size = design.sizes[-1]
        self.input_sizes = Joints.input_sizes(design, design.sizes, input_size)
        self.layers = nn.ModuleList(
            design.layer(entering, size) for entering, size in zip(self.input_sizes, design.sizes, strict=True)
        )
        self.joints = Joints(design, design.sizes, len(design.sizes))

    def layer(self, index: int) -> recurrent_layer.Layer:
        """Returns one layer, 0 the lowest."""
        found = self.layers[index]
        assert isinstance(found, recurrent_layer.Layer)
        return found

    def initial_state(self, batch_size: int) -> states.State:
        """Returns the state before the first step."""
        return tuple(layer.initial_state(batch_size) for layer in self._in_order())

    def draw(self, batch_size: int) -> Drawn:
        """Draws what stays the same for a window of so many rows; in evaluation nothing is left to chance."""
        weights = tuple(_recurrent_weights(layer, self.design) for layer in self._in_order())
        masks: list[Tensor | None] = [None] * len(weights)
        if self.training and self.design.locked_dropout and self.design.dropout > 0:
            for index, size in enumerate(self.input_sizes[1:], start=1):
                masks[index] = F.dropout(weights[0].recurrent_GH.new_ones(batch_size, size), self.design.dropout)
        return Drawn(weights, tuple(masks))

    def forward(self, x_BTE: Tensor, state: states.State, drawn: Drawn | None = None) -> tuple[Tensor, states.State]:
        """Returns the outputs of the last layer and the state after the last step.

        Args:
            x_BTE: the input of a window, or of a piece of one.
            state: before the first step.
            drawn: what chance decided for the window that this is a piece of; None draws for this piece alone.
        """
        if self.design.learned_start:
            # DDP waits for every gradient, in windows that go on from another's state too.
            starts = [layer.start.sum() for layer in self._in_order()]
            x_BTE = x_BTE + torch.stack(starts).sum() * 0.0

        def run(
            layer: recurrent_layer.Layer, entering: Tensor | None, before: states.LayerState, weights: cells.Weights
        ) -> _Ran:
            ran: _Ran = layer(x_BTE if entering is None else entering, before, weights)
            return ran

        return self._climb(state, drawn or self.draw(x_BTE.shape[0]), run)

    def step(self, gates_BG: Tensor, state: states.State, drawn: Drawn | None = None) -> tuple[Tensor, states.State]:
        """Takes one step: the output of the last layer and the new state.

        Args:
            gates_BG: the input as the lowest layer's `project` gives it.
            state: before the step.
            drawn: what chance decided for the window that the step is in; None draws for this step alone.
        """

        def run(
            layer: recurrent_layer.Layer, entering: Tensor | None, before: states.LayerState, weights: cells.Weights
        ) -> _Ran:
            after = layer.step(gates_BG if entering is None else layer.project(entering), before, weights)
            return after[0], after

        return self._climb(state, drawn or self.draw(gates_BG.shape[0]), run)

    def _climb(self, state: states.State, drawn: Drawn, run: "_Run") -> tuple[Tensor, states.State]:
        """Goes from layer to layer; `run` takes what enters one, None for the lowest, over a sequence or a step."""
        outputs: list[Tensor] = []
        after: list[states.LayerState] = []
        each = zip(self._in_order(), state, drawn.weights, drawn.masks, strict=True)
        for index, (layer, before, weights, mask_BD) in enumerate(each):
            entering = None
            if index > 0:
                entering = self.joints.enter(outputs)
                if mask_BD is not None:
                    entering = entering * (mask_BD if entering.dim() == 2 else mask_BD.unsqueeze(1))
                elif self.training:
                    entering = F.dropout(entering, self.design.dropout)
            y, layer_after = run(layer, entering, before, weights)
            outputs.append(self.joints.leave(index, y, outputs))
            after.append(layer_after)
        return outputs[-1], tuple(after)

    def _in_order(self) -> Iterator[recurrent_layer.Layer]:
        return cast(Iterator[recurrent_layer.Layer], iter(self.layers))


_Ran = tuple[Tensor, states.LayerState]
_Run = Callable[[recurrent_layer.Layer, Tensor | None, states.LayerState, cells.Weights], _Ran]


class Encoded(NamedTuple):
    """What an encoder returns; C is its width, both directions together."""

    outputs_BSC: Tensor  # zero at padding
    state: states.State  # of each row after its own last token; directions side by side, →1 ←1, →2 ←2 …


class Encoder(nn.Module):
    """Layers over whole rows of unequal length; the lowest may read in both directions.

    The second direction is a layer of its own over the rows reversed within their length: padding stays
    behind the tokens in both directions, so it never reaches a valid output.

    Source: bidirectional networks, document 003 section 2.6; some layers only, or a narrower way back: 2.7.12.
    """

    def __init__(
        self,
        design: Design,
        input_size: int,
        num_bidirectional: int = 0,
        backward_sizes: Sequence[int] = (),
        is_state_enough: bool = False,
    ) -> None:
        """Builds the layers.

        Args:
            design: of the layers, whose sizes are those of each forward direction.
            input_size: of the embedded tokens.
            num_bidirectional: so many layers, the lowest, read in both directions.
            backward_sizes: of the other direction of each layer; empty: as those forward.
            is_state_enough: nobody reads the outputs, so that nothing is learned behind the top layer.
        """
        super().__init__()
        self.design = design
        back = tuple(backward_sizes or design.sizes)[:num_bidirectional]
        padded = (*back, *(0 for _ in design.sizes[num_bidirectional:]))
        self.sizes = tuple(size + back_size for size, back_size in zip(design.sizes, padded, strict=True))
        self.output_size = self.sizes[-1]
        entering = Joints.input_sizes(design, self.sizes, input_size)
        self.forward_layers = nn.ModuleList(map(design.layer, entering, design.sizes))
        if back:
            self.backward_layers = nn.ModuleList(map(design.layer, entering, back))
        self.num_bidirectional = num_bidirectional
        self.joints = Joints(design, self.sizes, len(self.sizes) - is_state_enough)

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
        has_memory = cells.CELLS[self.design.cell].num_parts > 1
        pack = exact_state and has_memory and not bool((lengths_B == x_BSE.shape[1]).all())
        packed_lengths_B = lengths_B.cpu() if pack else None

        def read(layer: nn.Module, entering: Tensor) -> _Ran:
            assert isinstance(layer, recurrent_layer.Layer)
            return layer.read(entering, lengths_on_device_B, packed_lengths_B, _recurrent_weights(layer, self.design))

        state: list[states.LayerState] = []
        outputs: list[Tensor] = []
        for index, forward_layer in enumerate(self.forward_layers):
            if index > 0:
                x_BSE = drop(self.joints.enter(outputs), self.design.dropout, self.training, self.design.locked_dropout)
            y_BSC, last = read(forward_layer, x_BSE)
            if index < self.num_bidirectional:
                back_BSH, back_last = read(self.backward_layers[index], _reorder(x_BSE, mirror_BS))
                y_BSC = torch.cat((y_BSC, _reorder(back_BSH, mirror_BS)), dim=-1)
                last = tuple(torch.cat(parts, dim=-1) for parts in zip(last, back_last, strict=True))
            outputs.append(self.joints.leave(index, y_BSC, outputs).masked_fill(padding_BS1, 0.0))
            state.append(last)
        return Encoded(outputs[-1], tuple(state))


def drop(x: Tensor, rate: float, is_training: bool, is_locked: bool) -> Tensor:
    """Drops a share of the entries of x (B, …, E); locked: the same ones at all positions between.

    Source: Gal and Ghahramani 2016, A theoretically grounded application of dropout in recurrent neural networks.
    """
    if not is_training:
        return x
    if not is_locked or rate == 0 or x.dim() < 3:
        return F.dropout(x, rate)
    return x * F.dropout(x.new_ones(x.shape[0], *(1 for _ in x.shape[1:-1]), x.shape[-1]), rate)


def drop_words(x: Tensor, tokens: Tensor, vocabulary_size: int, rate: float, is_training: bool) -> Tensor:
    """Drops a share of the words from embedded `tokens`: a dropped one is zero wherever it occurs.

    Source: Merity et al. 2018, section 4.3 (embedding dropout); Gal and Ghahramani 2016.
    """
    if rate == 0 or not is_training:
        return x
    mask_V = F.dropout(x.new_ones(vocabulary_size), rate)
    return x * mask_V[tokens].unsqueeze(-1)


def _recurrent_weights(layer: recurrent_layer.Layer, design: Design) -> cells.Weights:
    if layer.training and design.weight_dropout > 0:
        return cells.drop_recurrent(layer.weights, design.weight_dropout)
    return layer.weights


def _reorder(x_BSE: Tensor, order_BS: Tensor) -> Tensor:
    """Returns position `order_BS[b, s]` of row b at (b, s)."""
    num_rows, num_positions = order_BS.shape
    starts_B1 = torch.arange(num_rows, device=order_BS.device)[:, None] * num_positions
    flat = x_BSE.flatten(0, 1).index_select(0, (order_BS + starts_B1).flatten())
    return flat.view(num_rows, num_positions, x_BSE.shape[-1])
