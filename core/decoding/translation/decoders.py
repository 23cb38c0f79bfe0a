"""Decoders for search: one model, an ensemble, or either fused with a language model."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor

from core.models import compute, language_model, seq2seq
from core.models import state as states


class Memory(Protocol):
    """Encoded sources, with a row for each line."""

    def select(self, rows_B: Tensor, /) -> Self:
        """Returns the memory of the given rows, in their order; a row may occur several times."""


M = TypeVar("M", bound=Memory)
M_contra = TypeVar("M_contra", bound=Memory, contravariant=True)


class Predictions(NamedTuple):
    """Next-token predictions of each row.

    Log-probabilities are `logits_RV - log_norm_R1`. The subtraction is left to the caller, who needs it only for the
    few tokens that it keeps.

    Attributes:
        logits_RV: in fp32; the caller may overwrite them.
        log_norm_R1: log normalizer, the logsumexp of the logits.
        state: after the input tokens.
        attention_RS: attention weight of each source position; None without attention.
        fusion_RV: weighted log-probabilities of a fused language model. They are added to the log-probabilities when
            continuations compete, and are no part of the reported score. None without fusion.
    """

    logits_RV: Tensor
    log_norm_R1: Tensor
    state: states.State
    attention_RS: Tensor | None
    fusion_RV: Tensor | None = None


class Decoder(Protocol[M_contra]):
    """Interface of a model, or of several, that search needs."""

    @property
    def device(self) -> torch.device:
        """Device of the model."""

    def initial_state(self, memory: M_contra, /) -> states.State:
        """Returns the state before the first token."""

    def step(self, tokens_R: Tensor, memory: M_contra, state: states.State, /) -> Predictions:
        """Reads one token for each row.

        There may be K times as many rows as the memory has: the first K for its first row, and so on.
        """


def log_normalizer(logits_RV: Tensor) -> Tensor:
    """Returns the logsumexp of each row (R, 1), with the bits of `torch.logsumexp`, some rows at a time on a CPU."""
    rows = compute.rows_at_once(logits_RV.shape[1], logits_RV.device.type)
    if len(logits_RV) <= rows:
        return logits_RV.logsumexp(1, keepdim=True)
    return torch.cat([part_RV.logsumexp(1, keepdim=True) for part_RV in torch.split(logits_RV, rows)])


class SourceMemory(NamedTuple):
    """Encoded sources of one model, and the target tokens blocked for each line; None: none are."""

    memory: seq2seq.Memory
    blocked_NV: Tensor | None = None

    @property
    def state(self) -> states.State:
        """Initial decoder state."""
        return self.memory.state

    def select(self, rows_B: Tensor) -> "SourceMemory":
        """See `Memory`."""
        blocked_NV = self.blocked_NV
        return SourceMemory(
            self.memory.select(rows_B), None if blocked_NV is None else blocked_NV.index_select(0, rows_B)
        )

    def with_blocked(self, blocked_NV: Tensor) -> "SourceMemory":
        """Returns the memory with tokens blocked for each line."""
        return self._replace(blocked_NV=blocked_NV)


class SingleDecoder:
    """Decoder of one sequence-to-sequence model, over its whole vocabulary or over a subset of V tokens.

    Over a subset, tokens are numbered by their position in it.
    """

    def __init__(self, model: seq2seq.Seq2Seq, ids_V: Tensor | None = None) -> None:
        """Takes a model in evaluation mode, and the vocabulary ids of the subset; None: the whole vocabulary."""
        self._model = model
        self._ids_V = ids_V
        self.weight_VF, self.bias_V = model.output_weight_VF, model.output_bias_V
        if ids_V is not None:
            # Copied once a batch: each of its steps then multiplies by these rows alone.
            self.weight_VF, self.bias_V = (part.index_select(0, ids_V) for part in (self.weight_VF, self.bias_V))

    @property
    def device(self) -> torch.device:
        """See `Decoder`."""
        return self.weight_VF.device

    @property
    def members(self) -> "tuple[SingleDecoder, ...]":
        """The decoder itself."""
        return (self,)

    def restrict(self, ids_V: Tensor) -> "SingleDecoder":
        """Returns the decoder over a subset of the vocabulary."""
        return SingleDecoder(self._model, ids_V)

    def encode(self, source_BS: Tensor, lengths_B: Tensor) -> SourceMemory:
        """Encodes the sources."""
        return SourceMemory(self._model.encode(source_BS, lengths_B))

    def initial_state(self, memory: SourceMemory) -> states.State:
        """See `Decoder`."""
        return self._model.initial_state(memory.memory)

    def step(self, tokens_R: Tensor, memory: SourceMemory, state: states.State) -> Predictions:
        """See `Decoder`; tokens blocked for a line have logit -inf and no part in its normalizer."""
        # The embedding still covers the whole vocabulary.
        ids_R = tokens_R if self._ids_V is None else self._ids_V[tokens_R]
        features_RF, state, attention_RS = self._model.step(ids_R, memory.memory, state)
        logits_RV = torch.nn.functional.linear(features_RF, self.weight_VF, self.bias_V).float()
        if memory.blocked_NV is not None:
            num_lines, size = memory.blocked_NV.shape
            # Rows of a line are adjacent, as `Decoder.step` demands; each keeps to the tokens of its line.
            logits_RV.view(num_lines, -1, size).masked_fill_(memory.blocked_NV[:, None], -torch.inf)
        return Predictions(logits_RV, log_normalizer(logits_RV), state, attention_RS)


class EnsembleMemory(NamedTuple):
    """Encoded sources of each member of an ensemble."""

    members: tuple[SourceMemory, ...]

    def select(self, rows_B: Tensor) -> "EnsembleMemory":
        """See `Memory`."""
        return EnsembleMemory(tuple(member.select(rows_B) for member in self.members))

    def with_blocked(self, blocked_NV: Tensor) -> "EnsembleMemory":
        """See `SourceMemory`."""
        return EnsembleMemory(tuple(member.with_blocked(blocked_NV) for member in self.members))


class EnsembleDecoder:
    """Ensemble of sequence-to-sequence models over the same vocabularies.

    The log-probability of a token is the mean of the members' log-probabilities, which is the log of the geometric mean
    of their probabilities; so the score of a translation is the mean of the members' scores of it. Attention is the
    mean over the members that have it.

    Source: Sutskever, Vinyals and Le 2014, Sequence to sequence learning with neural networks, section 3.6.
    """

    def __init__(self, members: Sequence[SingleDecoder]) -> None:
        self._members = tuple(members)

    @property
    def device(self) -> torch.device:
        """See `Decoder`."""
        return self._members[0].device

    @property
    def members(self) -> tuple[SingleDecoder, ...]:
        """Decoders of the members."""
        return self._members

    def restrict(self, ids_V: Tensor) -> "EnsembleDecoder":
        """See `SingleDecoder`."""
        return EnsembleDecoder([member.restrict(ids_V) for member in self._members])

    def encode(self, source_BS: Tensor, lengths_B: Tensor) -> EnsembleMemory:
        """Encodes the sources with every member."""
        return EnsembleMemory(tuple(member.encode(source_BS, lengths_B) for member in self._members))

    def initial_state(self, memory: EnsembleMemory) -> states.State:
        """See `Decoder`; the layers of all members, one member after the other."""
        return tuple(
            layer
            for member, source in zip(self._members, memory.members, strict=True)
            for layer in member.initial_state(source)
        )

    def step(self, tokens_R: Tensor, memory: EnsembleMemory, state: states.State) -> Predictions:
        """See `Decoder`."""
        # The state has the layers of all members, one member after the other: as many as its memory's state.
        predictions, start = [], 0
        for member, source in zip(self._members, memory.members, strict=True):
            stop = start + len(source.state)
            predictions.append(member.step(tokens_R, source, state[start:stop]))
            start = stop
        # Sums of logits and of normalizers: their difference is the sum of log-probabilities.
        logits_RV, log_norm_R1 = predictions[0].logits_RV, predictions[0].log_norm_R1
        for other in predictions[1:]:
            # In place: the logits of a step belong to the caller.
            logits_RV, log_norm_R1 = logits_RV.add_(other.logits_RV), log_norm_R1 + other.log_norm_R1
        # Attention of the members that have it; their sources are the same tokens, so that weights can be averaged.
        attention = [member.attention_RS for member in predictions if member.attention_RS is not None]
        return Predictions(
            logits_RV.div_(len(predictions)),
            log_norm_R1 / len(predictions),
            tuple(layer for member in predictions for layer in member.state),
            torch.stack(attention).mean(0) if attention else None,
        )


class FusedDecoder:
    """Decoder with shallow fusion of a language model over the same tokens.

    The language model reads the translation after an `<eos>`, as it read lines in training. Its log-probability of a
    token, times `weight`, is added to the token's search score.

    Source: Gülçehre et al. 2015, On using monolingual corpora in neural machine translation, section 4.1 (shallow
    fusion).
    """

    def __init__(self, decoder: Any, model: language_model.LanguageModel, ids_V: Tensor, weight: float) -> None:
        """Fuses a decoder with a language model; `ids_V` are the language model's ids of the decoder's tokens."""
        self._decoder = decoder
        self._model = model
        self._ids_V = ids_V
        self._weight = weight

    @property
    def device(self) -> torch.device:
        """See `Decoder`."""
        device: torch.device = self._decoder.device
        return device

    def initial_state(self, memory: Any) -> states.State:
        """See `Decoder`; the language model's layers come first."""
        state: states.State = self._decoder.initial_state(memory)
        # The memory has the type of the wrapped decoder; the state tells the number of rows.
        return self._model.initial_state(state[0][0].shape[0]) + state

    def step(self, tokens_R: Tensor, memory: Any, state: states.State) -> Predictions:
        """See `Decoder`."""
        num_layers = len(self._model.initial_state(1))
        predictions: Predictions = self._decoder.step(tokens_R, memory, state[num_layers:])
        # The same token for both models, under the id that each of them knows.
        features_RF, model_state = self._model.step(self._ids_V[tokens_R], state[:num_layers])
        # Normalized over its own vocabulary first: a shortlist then selects log-probabilities, and changes none.
        fusion_RV = self._model.logits(features_RF).float().log_softmax(1)[:, self._ids_V] * self._weight
        return predictions._replace(state=model_state + predictions.state, fusion_RV=fusion_RV)
