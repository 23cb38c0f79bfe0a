"""An encoder and a decoder: a line in, and what comes next in its translation."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.config import model_settings
from core.models import attention, cells, recurrent_stack
from core.models import state as states


class Memory(NamedTuple):
    """What the decoder knows of its sources: computed once for each, C wide."""

    outputs_BSC: Tensor  # the encoder's outputs, zero at padding
    keys_BSQ: Tensor  # of the attention; without one of width 0
    mask_BS: Tensor  # True where a token is
    context_BC: Tensor  # the encoder's last state of its top layer
    state: states.State  # what the decoder starts from

    def select(self, rows: Tensor) -> "Memory":
        """Returns the memory of the given rows, in their order; a row may occur several times."""
        return Memory(
            self.outputs_BSC.index_select(0, rows),
            self.keys_BSQ.index_select(0, rows),
            self.mask_BS.index_select(0, rows),
            self.context_BC.index_select(0, rows),
            states.select(self.state, rows),
        )


class Bridge(nn.Module):
    """Makes the decoder's first state from what the encoder returned.

    `final`: decoder layers start from the states of as many topmost encoder layers; as they are where sizes
    agree, else each through a linear map and tanh. `mean`: every part of every layer is a linear map and tanh
    of the mean of the encoder's outputs.
    """

    def __init__(self, kind: str, num_parts: int, encoder_sizes: Sequence[int], sizes: Sequence[int]) -> None:
        super().__init__()
        self.kind = kind
        self.num_parts = num_parts
        self.num_layers = len(sizes)
        if kind == "mean":
            sources: Sequence[int] = [encoder_sizes[-1]] * len(sizes)
        else:
            sources = encoder_sizes[-len(sizes) :]
        self.is_mapped = [kind == "mean" or source != size for source, size in zip(sources, sizes, strict=True)]
        if any(self.is_mapped):
            self.maps = nn.ModuleList(
                nn.Linear(source, size) if mapped else nn.Identity()
                for source, size, mapped in zip(sources, sizes, self.is_mapped, strict=True)
                for _ in range(num_parts)
            )

    def forward(self, encoded: recurrent_stack.Encoded, mask_BS: Tensor) -> states.State:
        """Returns one layer state for each decoder layer, in the precision of the weights."""
        if self.kind == "mean":
            lengths_B1 = mask_BS.sum(dim=1, keepdim=True).clamp(min=1)
            mean_BC = encoded.outputs_BSC.sum(dim=1, dtype=encoded.state[0][0].dtype) / lengths_B1
            sources: states.State = ((mean_BC,) * self.num_parts,) * self.num_layers
        else:
            sources = encoded.state[-self.num_layers :]
        return tuple(
            self._mapped(index, layer) if self.is_mapped[index] else layer for index, layer in enumerate(sources)
        )

    def _mapped(self, index: int, layer: states.LayerState) -> states.LayerState:
        maps = self.maps[index * self.num_parts : (index + 1) * self.num_parts]
        return tuple(torch.tanh(own(source_BC)).to(source_BC.dtype) for own, source_BC in zip(maps, layer, strict=True))


class Seq2Seq(nn.Module):
    """Encoder, bridge, and a decoder with or without attention.

    How the context of the source reaches the decoder (`model.context`):

    * `output`, with attention: the recurrence runs over the whole target in one fused call, attention for all
      steps follows at once, features are tanh(W [h; context]) (Luong et al. 2015).
    * `input`, with attention: the state of the top layer asks, and the context enters the lowest layer beside the
      embedding (Bahdanau et al. 2015; document 003 section 2.13). Only what depends on the step before is in
      the loop: the embedding's share of the gates, the keys and the output layer are not.
    * `feed`, with attention: as `output`, but the attentional features of each step enter the lowest layer at the next,
      beside the embedding, so that it knows where was looked before (Luong et al. 2015, section 3.3, input feeding).
      They are one more part at the end of the state, zero at first.
    * `input`, without attention: the encoder's last state enters every step beside the embedding, the same in
      decoding (document 003 section 2.11; Cho et al. 2014).
    * `output`, without attention: the state alone carries the source (Sutskever et al. 2014).

    With `model.coverage_attention` the attention knows how much of it each source position had in the steps before (Tu
    et al. 2016): that sum is the last part of the state, (B, S), zero at first. With `output` the recurrence is still
    one call; the attention of a step then waits for that of the step before.

    Features stop before the output layer, as in a language model. With a tied output layer they are as wide
    as the target embedding, through a linear map if need be.
    """

    def __init__(
        self, config: model_settings.Seq2SeqConfig, source_size: int, target_size: int, pad_id: int | None = None
    ) -> None:
        super().__init__()
        self.config = config
        width = config.embedding_size
        design = recurrent_stack.design_of(config)
        num_bidirectional = (config.bidirectional_layers or config.num_layers) if config.bidirectional else 0
        back = (config.backward_hidden_size,) * config.num_layers if config.backward_hidden_size else ()
        self.attends = config.attention != "none"
        is_state_enough = not self.attends and config.bridge == "final"
        self.encoder = recurrent_stack.Encoder(design, width, num_bidirectional, back, is_state_enough)
        memory_size = self.encoder.output_size
        sizes = config.decoder_hidden_size or memory_size
        if isinstance(sizes, int):
            sizes = (sizes,) * (config.decoder_num_layers or config.num_layers)
        self.hidden_size = sizes[-1]
        self.feeds_context = config.context == "input"
        self.feeds_features = config.context == "feed"
        tied = config.tie_embeddings != "none"
        self.feature_size = width if tied else self.hidden_size
        fed_size = memory_size if self.feeds_context else self.feature_size if self.feeds_features else 0
        self.bridge = Bridge(config.bridge, cells.CELLS[design.cell].num_parts, self.encoder.sizes, sizes)
        self.decoder = recurrent_stack.Stack(
            dataclasses.replace(design, sizes=sizes, learned_start=False), width + fed_size
        )
        self.covers = config.coverage_attention
        if self.attends:
            self.attention = attention.Attention(config.attention, self.hidden_size, memory_size, self.covers)
        self.joins_context = self.attends and not self.feeds_context
        if self.joins_context:
            self.readout = nn.Linear(self.hidden_size + memory_size, self.feature_size)
        elif self.feature_size != self.hidden_size:
            self.readout = nn.Linear(self.hidden_size, self.feature_size)
        self.output = nn.Linear(self.feature_size, target_size)
        self.target_embedding = self._embedding(target_size, pad_id, tied)
        self.source_embedding = self._embedding(source_size, pad_id, config.tie_embeddings == "all")

    def _embedding(self, size: int, pad_id: int | None, tied: bool) -> nn.Embedding:
        if tied:
            return recurrent_stack.TiedEmbedding(self.output, pad_id, self.config.scale_tied)
        return nn.Embedding(size, self.config.embedding_size, padding_idx=pad_id)

    def encode(self, source_BS: Tensor, source_lengths_B: Tensor) -> Memory:
        """Reads the sources; B may be 0, S and each length are at least 1."""
        positions_S = torch.arange(source_BS.shape[1], device=source_BS.device)
        mask_BS = positions_S < source_lengths_B.to(source_BS.device)[:, None]
        x_BSE = self._embedded(self.source_embedding, source_BS)
        encoded = self.encoder(x_BSE, source_lengths_B, exact_state=self.config.bridge == "final")
        if self.attends:
            keys_BSQ = self.attention.keys(encoded.outputs_BSC)
        else:
            keys_BSQ = encoded.outputs_BSC.new_zeros((*source_BS.shape, 0))
        first = self.bridge(encoded, mask_BS)
        if self.feeds_features:
            first = (*first, (first[0][0].new_zeros(source_BS.shape[0], self.feature_size),))
        if self.covers:
            first = (*first, (first[0][0].new_zeros(source_BS.shape),))
        return Memory(encoded.outputs_BSC, keys_BSQ, mask_BS, encoded.state[-1][0], first)

    def initial_state(self, memory: Memory) -> states.State:
        """Returns the state that the decoder starts from."""
        return memory.state

    def forward(self, source_BS: Tensor, source_lengths_B: Tensor, inputs_BT: Tensor) -> Tensor:
        """Returns the features (B, T, F) of whole targets, each step given the true tokens before it."""
        memory = self.encode(source_BS, source_lengths_B)
        features_BTF, _ = self.decode(inputs_BT, memory, self.initial_state(memory))
        return features_BTF

    def decode(self, inputs_BT: Tensor, memory: Memory, state: states.State) -> tuple[Tensor, states.State]:
        """Returns the features of all given target tokens and the state after the last.

        A target may come in pieces, the state of one going into the next: then gradients may be cut between.
        """
        x_BTE = self._embedded(self.target_embedding, inputs_BT)
        if self.feeds_features or (self.attends and self.feeds_context):
            return self._unroll(x_BTE, memory, state)
        state, coverage_BS = self._without_coverage(state)
        if self.feeds_context:
            context_BTC = memory.context_BC.unsqueeze(1).expand(-1, x_BTE.shape[1], -1)
            x_BTE = torch.cat((x_BTE, context_BTC.to(x_BTE.dtype)), dim=-1)
        y_BTH, state = self.decoder(x_BTE, state)
        if self.joins_context:
            looked_at = memory.keys_BSQ, memory.outputs_BSC, memory.mask_BS
            if coverage_BS is None:
                context_BTC, _ = self.attention(y_BTH, *looked_at)
            else:
                context_BTC, _, coverage_BS = self.attention.in_order(y_BTH, *looked_at, coverage_BS)
            y_BTH = torch.cat((y_BTH, context_BTC.to(y_BTH.dtype)), dim=-1)
        return self._features(y_BTH), _with_coverage(state, coverage_BS)

    def step(self, tokens_B: Tensor, memory: Memory, state: states.State) -> tuple[Tensor, states.State, Tensor | None]:
        """Takes one token of each row: features (B, F), the new state, and with attention its weights (B, S).

        There may be K times as many rows as the memory has: then rows 0 … K-1 belong to its first source, and
        so on, so that the hypotheses of a beam share what was computed for their source.
        """
        group = max(tokens_B.shape[0], 1) // max(memory.mask_BS.shape[0], 1)
        x_BE = self._embedded(self.target_embedding, tokens_B)
        weights_BS: Tensor | None = None
        state, coverage_BS = self._without_coverage(state)
        if self.feeds_context:
            if self.attends:
                context_BC, weights_BS, coverage_BS = self._look(state[-1][0], memory, group, coverage_BS)
            else:
                context_BC = memory.context_BC.repeat_interleave(group, dim=0)
            x_BE = torch.cat((x_BE, context_BC.to(x_BE.dtype)), dim=-1)
        elif self.feeds_features:
            *recurrent, (fed_BF,) = state
            state = tuple(recurrent)
            x_BE = torch.cat((x_BE, fed_BF.to(x_BE.dtype)), dim=-1)
        y_BH, state = self.decoder.step(self.decoder.layer(0).project(x_BE), state)
        if self.joins_context:
            context_BC, weights_BS, coverage_BS = self._look(y_BH, memory, group, coverage_BS)
            y_BH = torch.cat((y_BH, context_BC.to(y_BH.dtype)), dim=-1)
        features_BF = self._read_out(y_BH)
        if self.feeds_features:
            state = (*state, (features_BF.to(state[0][0].dtype),))
        return self._drop(features_BF, self.config.output_dropout), _with_coverage(state, coverage_BS), weights_BS

    def logits(self, features: Tensor) -> Tensor:
        """Applies the output layer."""
        scores: Tensor = self.output(features)
        return scores

    @property
    def output_weight_VF(self) -> Tensor:
        """Weights of the output layer; with tied embeddings the target embedding itself."""
        return self.output.weight

    @property
    def output_bias_V(self) -> Tensor:
        """Bias of the output layer."""
        return self.output.bias

    def _unroll(self, x_BTE: Tensor, memory: Memory, state: states.State) -> tuple[Tensor, states.State]:
        """Runs the decoder in which what was looked at enters the recurrence, over embedded tokens."""
        lowest = self.decoder.layer(0)
        width = x_BTE.shape[-1]
        embedded_BTG = F.linear(x_BTE, lowest.weight_ih[:, :width], lowest.bias_ih)
        fed_weight_GC = lowest.weight_ih[:, width:].contiguous()
        drawn = self.decoder.draw(x_BTE.shape[0])
        outputs = []
        state, coverage_BS = self._without_coverage(state)
        if self.feeds_context:
            for embedded_BG in embedded_BTG.unbind(dim=1):
                context_BC, _, coverage_BS = self._look(state[-1][0], memory, 1, coverage_BS)
                y_BH, state = self.decoder.step(embedded_BG + F.linear(context_BC, fed_weight_GC), state, drawn)
                outputs.append(y_BH)
            return self._features(torch.stack(outputs, dim=1)), _with_coverage(state, coverage_BS)
        *recurrent, (fed_BF,) = state
        state = tuple(recurrent)
        for embedded_BG in embedded_BTG.unbind(dim=1):
            y_BH, state = self.decoder.step(embedded_BG + F.linear(fed_BF, fed_weight_GC), state, drawn)
            context_BC, _, coverage_BS = self._look(y_BH, memory, 1, coverage_BS)
            fed_BF = self._read_out(torch.cat((y_BH, context_BC.to(y_BH.dtype)), dim=-1))
            outputs.append(fed_BF)
        features_BTF = self._drop(torch.stack(outputs, dim=1), self.config.output_dropout)
        return features_BTF, _with_coverage((*state, (fed_BF.to(state[0][0].dtype),)), coverage_BS)

    def _look(
        self, query_BH: Tensor, memory: Memory, group: int, coverage_BS: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns contexts (B, C), weights (B, S) and coverage after one query a row, `group` rows for each source."""
        num_sources, length = memory.mask_BS.shape
        queries_BTH = query_BH.view(num_sources, group, self.hidden_size)
        coverage_BTS = None if coverage_BS is None else coverage_BS.view(num_sources, group, length)
        contexts_BTC, weights_BTS = self.attention(
            queries_BTH, memory.keys_BSQ, memory.outputs_BSC, memory.mask_BS, coverage_BTS
        )
        weights_BS = weights_BTS.flatten(0, 1)
        return contexts_BTC.flatten(0, 1), weights_BS, None if coverage_BS is None else coverage_BS + weights_BS

    def _without_coverage(self, state: states.State) -> tuple[states.State, Tensor | None]:
        """Takes the coverage (B, S) off the end of a state, if the decoder has one."""
        return (state[:-1], state[-1][0]) if self.covers else (state, None)

    def _features(self, y: Tensor) -> Tensor:
        return self._drop(self._read_out(y), self.config.output_dropout)

    def _read_out(self, y: Tensor) -> Tensor:
        """Applies the readout, if there is one: features before the dropout in front of the output layer."""
        if self.joins_context:
            return torch.tanh(self.readout(y))
        return self.readout(y) if self.feature_size != self.hidden_size else y

    def _embedded(self, embedding: nn.Embedding, tokens: Tensor) -> Tensor:
        x = recurrent_stack.drop_words(
            embedding(tokens), tokens, embedding.num_embeddings, self.config.word_dropout, self.training
        )
        return self._drop(x, self.config.embedding_dropout)

    def _drop(self, x: Tensor, rate: float) -> Tensor:
        return recurrent_stack.drop(x, rate, self.training, self.config.locked_dropout)


def _with_coverage(state: states.State, coverage_BS: Tensor | None) -> states.State:
    """Undoes `_without_coverage`."""
    return state if coverage_BS is None else (*state, (coverage_BS,))
