"""Recurrent encoder-decoder (sequence to sequence), with or without attention."""

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
    """Encoded sources, computed once for each and used by all decoder steps; C is the encoder's width."""

    outputs_BSC: Tensor  # the encoder's outputs, zero at padding; the values of the attention
    keys_BSQ: Tensor  # of the attention; without attention Q is 0
    mask_BS: Tensor  # True at tokens, False at padding
    context_BC: Tensor  # final hidden state of the encoder's top layer
    state: states.State  # initial state of the decoder

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
    """Initial decoder state from the output of the encoder.

    `final`: the decoder's layers start from the final states of as many encoder layers, the topmost ones; unchanged
    where sizes agree, else each as tanh(W h + b). `mean`: each part of each layer's state is tanh(W m + b) with the
    mean m of the encoder's outputs over the tokens of the source.

    Source: Sutskever et al. 2014, Sequence to sequence learning with neural networks (final); Bahdanau et al. 2015,
    appendix A.2.2 (tanh of a linear map); Sennrich et al. 2017, Nematus: a toolkit for neural machine translation
    (mean).
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
        # Linear maps only where they are needed: with equal sizes the bridge has no parameters.
        self.is_mapped = [kind == "mean" or source != size for source, size in zip(sources, sizes, strict=True)]
        if any(self.is_mapped):
            self.maps = nn.ModuleList(
                nn.Linear(source, size) if mapped else nn.Identity()
                for source, size, mapped in zip(sources, sizes, self.is_mapped, strict=True)
                for _ in range(num_parts)
            )

    def forward(self, encoded: recurrent_stack.EncoderOutput, mask_BS: Tensor) -> states.State:
        """Returns one layer state for each decoder layer, in the precision of the weights."""
        if self.kind == "mean":
            # Outputs are zero at padding, so the sum is over tokens; in fp32 also where the outputs are bf16.
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
        return tuple(
            torch.tanh(linear(source_BC)).to(source_BC.dtype) for linear, source_BC in zip(maps, layer, strict=True)
        )


class Seq2Seq(nn.Module):
    """Encoder, bridge, and a decoder with or without attention.

    `model.context` decides how the source's context c reaches the decoder; x is the embedding of the previous target
    token, h the hidden state of the decoder's top layer:

    * `output`, with attention (Luong et al. 2015): the recurrence runs over the whole target in one fused call, then
      attention over all its steps; features are the attentional hidden states tanh(W [h; c]).
    * `input`, with attention (Bahdanau et al. 2015): the query is h of the step before, and the lowest layer's input is
      [x; c]. The loop over steps holds only what depends on the step before: not the embeddings' part of the gates, the
      keys or the output layer.
    * `feed`, with attention (input feeding, Luong et al. 2015, section 3.3): as `output`, but the lowest layer's input
      is [x; the attentional hidden state of the step before], so that past alignment decisions are known. The
      attentional hidden state is the last part of the state (before the coverage, if any), zero at first.
    * `input`, without attention (Cho et al. 2014): c is the encoder's final hidden state, the same in every step; the
      lowest layer's input is [x; c].
    * `output`, without attention (Sutskever et al. 2014): the initial state alone carries the source.

    With `model.coverage_attention` (Tu et al. 2016) the state's last part is the coverage (B, S): the sum of attention
    weights that each source position has had so far, zero at first. With `output` the recurrence is still one call;
    attention then runs step by step, because each step needs the coverage of the one before.

    `decode` returns features, the input of the output layer, as in a language model. With a tied output layer they are
    as wide as the target embedding, through a linear map if the sizes differ.

    Source: Zhang et al., Dive into Deep Learning (2021), sections 9.6 "Encoder-Decoder Architecture" and 9.7 "Sequence
    to Sequence Learning"; Bahdanau et al. 2015, Neural machine translation by jointly learning to align and translate.
    """

    def __init__(
        self, config: model_settings.Seq2SeqConfig, source_size: int, target_size: int, pad_id: int | None = None
    ) -> None:
        super().__init__()
        self.config = config
        width = config.embedding_size
        stack_config = recurrent_stack.StackConfig.from_settings(config)
        num_bidirectional = (config.bidirectional_layers or config.num_layers) if config.bidirectional else 0
        backward_sizes = (config.backward_hidden_size,) * config.num_layers if config.backward_hidden_size else ()
        self.has_attention = config.attention != "none"
        # Without attention, and with the final bridge, nothing reads the encoder's outputs.
        uses_state_only = not self.has_attention and config.bridge == "final"
        self.encoder = recurrent_stack.Encoder(stack_config, width, num_bidirectional, backward_sizes, uses_state_only)
        memory_size = self.encoder.output_size
        # By default as wide as the encoder's output, so that its final states fit without a map.
        sizes = config.decoder_hidden_size or memory_size
        if isinstance(sizes, int):
            sizes = (sizes,) * (config.decoder_num_layers or config.num_layers)
        self.hidden_size = sizes[-1]
        self.has_input_context = config.context == "input"
        self.has_input_feeding = config.context == "feed"
        tied = config.tie_embeddings != "none"
        self.feature_size = width if tied else self.hidden_size
        # Width of what enters the lowest layer besides the embedding.
        fed_size = memory_size if self.has_input_context else self.feature_size if self.has_input_feeding else 0
        self.bridge = Bridge(config.bridge, cells.CELLS[stack_config.cell].num_parts, self.encoder.sizes, sizes)
        self.decoder = recurrent_stack.Stack(
            # The decoder starts from the bridge, so a learned initial state would never get a gradient.
            dataclasses.replace(stack_config, sizes=sizes, learned_initial_state=False),
            width + fed_size,
        )
        self.has_coverage = config.coverage_attention
        if self.has_attention:
            self.attention = attention.Attention(config.attention, self.hidden_size, memory_size, self.has_coverage)
        self.has_output_context = self.has_attention and not self.has_input_context
        if self.has_output_context:
            self.readout = nn.Linear(self.hidden_size + memory_size, self.feature_size)
        elif self.feature_size != self.hidden_size:
            self.readout = nn.Linear(self.hidden_size, self.feature_size)
        # Before the embeddings, which may share its weights.
        self.output = nn.Linear(self.feature_size, target_size)
        self.target_embedding = self._embedding(target_size, pad_id, tied)
        self.source_embedding = self._embedding(source_size, pad_id, config.tie_embeddings == "all")

    def _embedding(self, size: int, pad_id: int | None, tied: bool) -> nn.Embedding:
        if tied:
            return recurrent_stack.TiedEmbedding(self.output, pad_id, self.config.scale_tied)
        return nn.Embedding(size, self.config.embedding_size, padding_idx=pad_id)

    def encode(self, source_BS: Tensor, source_lengths_B: Tensor) -> Memory:
        """Returns the encoded sources; B may be 0, S and each length are at least 1."""
        positions_S = torch.arange(source_BS.shape[1], device=source_BS.device)
        mask_BS = positions_S < source_lengths_B.to(source_BS.device)[:, None]
        x_BSE = self._embed(self.source_embedding, source_BS)
        # Only the final bridge uses the memory cells.
        encoded = self.encoder(x_BSE, source_lengths_B, exact_state=self.config.bridge == "final")
        if self.has_attention:
            keys_BSQ = self.attention.keys(encoded.outputs_BSC)
        else:
            # A tensor of width 0 rather than None, so that `Memory.select` needs no case.
            keys_BSQ = encoded.outputs_BSC.new_zeros((*source_BS.shape, 0))
        initial = self.bridge(encoded, mask_BS)
        if self.has_input_feeding:
            initial = (*initial, (initial[0][0].new_zeros(source_BS.shape[0], self.feature_size),))
        if self.has_coverage:
            initial = (*initial, (initial[0][0].new_zeros(source_BS.shape),))
        return Memory(encoded.outputs_BSC, keys_BSQ, mask_BS, encoded.state[-1][0], initial)

    def initial_state(self, memory: Memory) -> states.State:
        """Returns the initial state of the decoder."""
        return memory.state

    def forward(self, source_BS: Tensor, source_lengths_B: Tensor, inputs_BT: Tensor) -> Tensor:
        """Returns the features (B, T, F) of whole targets by teacher forcing: each step is given the true prefix."""
        memory = self.encode(source_BS, source_lengths_B)
        features_BTF, _ = self.decode(inputs_BT, memory, self.initial_state(memory))
        return features_BTF

    def decode(self, inputs_BT: Tensor, memory: Memory, state: states.State) -> tuple[Tensor, states.State]:
        """Returns the features of all given target tokens and the state after the last.

        A target may be decoded in segments, each from the state of the one before: between them backpropagation may be
        truncated.
        """
        x_BTE = self._embed(self.target_embedding, inputs_BT)
        if self.has_input_feeding or (self.has_attention and self.has_input_context):
            return self._unroll(x_BTE, memory, state)
        state, coverage_BS = self._split_coverage(state)
        if self.has_input_context:
            # The same context in every step; `expand` copies nothing.
            context_BTC = memory.context_BC.unsqueeze(1).expand(-1, x_BTE.shape[1], -1)
            x_BTE = torch.cat((x_BTE, context_BTC.to(x_BTE.dtype)), dim=-1)
        y_BTH, state = self.decoder(x_BTE, state)
        if self.has_output_context:
            source = memory.keys_BSQ, memory.outputs_BSC, memory.mask_BS
            if coverage_BS is None:
                context_BTC, _ = self.attention(y_BTH, *source)
            else:
                context_BTC, _, coverage_BS = self.attention.attend_stepwise(y_BTH, *source, coverage_BS)
            y_BTH = torch.cat((y_BTH, context_BTC.to(y_BTH.dtype)), dim=-1)
        return self._compute_features(y_BTH), _append_coverage(state, coverage_BS)

    def step(self, tokens_B: Tensor, memory: Memory, state: states.State) -> tuple[Tensor, states.State, Tensor | None]:
        """Returns features (B, F) after one more token of each row, the new state, and weights (B, S) of any attention.

        There may be K times as many rows as sources in the memory: rows 0 … K−1 then belong to its first source, and so
        on, so that the hypotheses of a beam share the keys and values of their source.
        """
        # A batch may be empty.
        beam = max(tokens_B.shape[0], 1) // max(memory.mask_BS.shape[0], 1)
        x_BE = self._embed(self.target_embedding, tokens_B)
        weights_BS: Tensor | None = None
        state, coverage_BS = self._split_coverage(state)
        if self.has_input_context:
            if self.has_attention:
                # The query is the hidden state of the step before, because this step's needs the context first.
                context_BC, weights_BS, coverage_BS = self._attend(state[-1][0], memory, beam, coverage_BS)
            else:
                context_BC = memory.context_BC.repeat_interleave(beam, dim=0)
            x_BE = torch.cat((x_BE, context_BC.to(x_BE.dtype)), dim=-1)
        elif self.has_input_feeding:
            *recurrent, (fed_BF,) = state
            state = tuple(recurrent)
            x_BE = torch.cat((x_BE, fed_BF.to(x_BE.dtype)), dim=-1)
        y_BH, state = self.decoder.step(self.decoder.project(x_BE), state)
        if self.has_output_context:
            context_BC, weights_BS, coverage_BS = self._attend(y_BH, memory, beam, coverage_BS)
            y_BH = torch.cat((y_BH, context_BC.to(y_BH.dtype)), dim=-1)
        features_BF = self._apply_readout(y_BH)
        if self.has_input_feeding:
            # Fed before output dropout: the next step should know the features, not a random part of them.
            state = (*state, (features_BF.to(state[0][0].dtype),))
        return self._drop(features_BF, self.config.output_dropout), _append_coverage(state, coverage_BS), weights_BS

    def logits(self, features: Tensor) -> Tensor:
        """Returns the logits of all target tokens."""
        logits: Tensor = self.output(features)
        return logits

    @property
    def output_weight_VF(self) -> Tensor:
        """Weights of the output layer; with tied embeddings also those of the target embedding."""
        return self.output.weight

    @property
    def output_bias_V(self) -> Tensor:
        """Bias of the output layer."""
        return self.output.bias

    def _unroll(self, x_BTE: Tensor, memory: Memory, state: states.State) -> tuple[Tensor, states.State]:
        """Runs a decoder whose input depends on its attention, step by step over embedded tokens; see `decode`."""
        lowest = self.decoder.layer(0)
        width = x_BTE.shape[-1]
        # W [x; c] = W_x x + W_c c: the first product, over all steps at once, stays outside the loop.
        embedded_BTG = F.linear(x_BTE, lowest.weight_ih[:, :width], lowest.bias_ih)
        # A slice is not contiguous, and would be copied in every step.
        fed_weight_GC = lowest.weight_ih[:, width:].contiguous()
        dropout = self.decoder.draw_dropout(x_BTE.shape[0])  # once for all steps
        outputs = []
        state, coverage_BS = self._split_coverage(state)
        if self.has_input_context:
            for embedded_BG in embedded_BTG.unbind(dim=1):
                context_BC, _, coverage_BS = self._attend(state[-1][0], memory, 1, coverage_BS)
                y_BH, state = self.decoder.step(embedded_BG + F.linear(context_BC, fed_weight_GC), state, dropout)
                outputs.append(y_BH)
            return self._compute_features(torch.stack(outputs, dim=1)), _append_coverage(state, coverage_BS)
        *recurrent, (fed_BF,) = state
        state = tuple(recurrent)
        for embedded_BG in embedded_BTG.unbind(dim=1):
            y_BH, state = self.decoder.step(embedded_BG + F.linear(fed_BF, fed_weight_GC), state, dropout)
            context_BC, _, coverage_BS = self._attend(y_BH, memory, 1, coverage_BS)
            fed_BF = self._apply_readout(torch.cat((y_BH, context_BC.to(y_BH.dtype)), dim=-1))
            outputs.append(fed_BF)
        features_BTF = self._drop(torch.stack(outputs, dim=1), self.config.output_dropout)
        return features_BTF, _append_coverage((*state, (fed_BF.to(state[0][0].dtype),)), coverage_BS)

    def _attend(
        self, query_BH: Tensor, memory: Memory, beam: int, coverage_BS: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns contexts (B, C), weights (B, S) and the new coverage; one query a row, `beam` rows a source."""
        num_sources, length = memory.mask_BS.shape
        # The hypotheses of a source become the queries of one row, against its keys once.
        queries_BTH = query_BH.view(num_sources, beam, self.hidden_size)
        coverage_BTS = None if coverage_BS is None else coverage_BS.view(num_sources, beam, length)
        contexts_BTC, weights_BTS = self.attention(
            queries_BTH, memory.keys_BSQ, memory.outputs_BSC, memory.mask_BS, coverage_BTS
        )
        weights_BS = weights_BTS.flatten(0, 1)
        return contexts_BTC.flatten(0, 1), weights_BS, None if coverage_BS is None else coverage_BS + weights_BS

    def _split_coverage(self, state: states.State) -> tuple[states.State, Tensor | None]:
        """Returns the state without the coverage at its end, and that coverage (B, S) or None."""
        return (state[:-1], state[-1][0]) if self.has_coverage else (state, None)

    def _compute_features(self, y: Tensor) -> Tensor:
        return self._drop(self._apply_readout(y), self.config.output_dropout)

    def _apply_readout(self, y: Tensor) -> Tensor:
        """Returns features before output dropout: attentional hidden states tanh(W [h; c]), or h.

        A linear map is applied to h if the sizes differ.
        """
        if self.has_output_context:
            return torch.tanh(self.readout(y))
        return self.readout(y) if self.feature_size != self.hidden_size else y

    def _embed(self, embedding: nn.Embedding, tokens: Tensor) -> Tensor:
        x = recurrent_stack.drop_words(
            embedding(tokens), tokens, embedding.num_embeddings, self.config.word_dropout, self.training
        )
        return self._drop(x, self.config.embedding_dropout)

    def _drop(self, x: Tensor, rate: float) -> Tensor:
        return recurrent_stack.drop(x, rate, self.training, self.config.locked_dropout)


def _append_coverage(state: states.State, coverage_BS: Tensor | None) -> states.State:
    """Returns a state with the coverage at its end, the inverse of `_split_coverage`."""
    return state if coverage_BS is None else (*state, (coverage_BS,))
