"""What search asks for the next token: one model, several together, or either with a language model beside it."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor

from core.models import language_model, seq2seq
from core.models import state as states


class Memory(Protocol):
    """What is known of the sources, a row for each line."""

    def select(self, rows_B: Tensor, /) -> Self:
        """Gives the memory of the rows, in the order asked for; a row may come several times."""


M = TypeVar("M", bound=Memory)
M_contra = TypeVar("M_contra", bound=Memory, contravariant=True)


class Predicted(NamedTuple):
    """What may come next in each row.

    Log-probabilities are `logits_RV - norm_R1`: so they need not be computed where only the likeliest are asked for.

    Attributes:
        logits_RV: in fp32; whoever asked may overwrite them.
        norm_R1: what they are too large by.
        state: after the tokens that went in.
        attention_RS: the share of each source position; None without attention.
        bonus_RV: what else is added to a log-probability where continuations compete; it is no part of the score.
    """

    logits_RV: Tensor
    norm_R1: Tensor
    state: states.State
    attention_RS: Tensor | None
    bonus_RV: Tensor | None = None


class Decoder(Protocol[M_contra]):
    """The part of a model, or of several, that search needs."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def initial_state(self, memory: M_contra, /) -> states.State:
        """The state before the first token."""

    def step(self, tokens_R: Tensor, memory: M_contra, state: states.State, /) -> Predicted:
        """Takes a token of each row.

        There may be K times as many rows as the memory has, the first K of them for its first row, and so on.
        """


class Single:
    """One encoder–decoder, in evaluation mode."""

    def __init__(self, model: seq2seq.Seq2Seq) -> None:
        self._model = model

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._model.output_weight_VF.device

    @property
    def attends(self) -> bool:
        """Whether it has attention."""
        return self._model.attends

    def encode(self, source_BS: Tensor, lengths_B: Tensor) -> seq2seq.Memory:
        """Reads the sources."""
        return self._model.encode(source_BS, lengths_B)

    def initial_state(self, memory: seq2seq.Memory) -> states.State:
        """See `Decoder`."""
        return self._model.initial_state(memory)

    def step(self, tokens_R: Tensor, memory: seq2seq.Memory, state: states.State) -> Predicted:
        """See `Decoder`."""
        features_RF, state, attention_RS = self._model.step(tokens_R, memory, state)
        weight_VF, bias_V = self._model.output_weight_VF, self._model.output_bias_V
        logits_RV = torch.nn.functional.linear(features_RF, weight_VF, bias_V).float()
        return Predicted(logits_RV, logits_RV.logsumexp(1, keepdim=True), state, attention_RS)


class Memories(NamedTuple):
    """What each member of an ensemble knows of the sources."""

    parts: tuple[seq2seq.Memory, ...]

    def select(self, rows_B: Tensor) -> "Memories":
        """See `Memory`."""
        return Memories(tuple(part.select(rows_B) for part in self.parts))


class Ensemble:
    """Several encoder–decoders over the same vocabularies.

    A token's log-probability is the arithmetic mean of those that the members give it, which is the logarithm of the
    geometric mean of the probabilities: so the score of a translation is the mean of its scores by the members.
    Attention is the mean over the members that have it.

    Source: Sutskever et al. 2014, section 3.6 (ensembles of left-to-right beam search).
    """

    def __init__(self, members: Sequence[Single]) -> None:
        self._members = tuple(members)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._members[0].device

    @property
    def attends(self) -> bool:
        """Whether any member has attention."""
        return any(member.attends for member in self._members)

    def encode(self, source_BS: Tensor, lengths_B: Tensor) -> Memories:
        """Reads the sources."""
        return Memories(tuple(member.encode(source_BS, lengths_B) for member in self._members))

    def initial_state(self, memory: Memories) -> states.State:
        """See `Decoder`; the layers of all members, one member after the other."""
        return tuple(
            layer
            for member, part in zip(self._members, memory.parts, strict=True)
            for layer in member.initial_state(part)
        )

    def step(self, tokens_R: Tensor, memory: Memories, state: states.State) -> Predicted:
        """See `Decoder`."""
        said, start = [], 0
        for member, part in zip(self._members, memory.parts, strict=True):
            stop = start + len(part.state)
            said.append(member.step(tokens_R, part, state[start:stop]))
            start = stop
        logits_RV, norm_R1 = said[0].logits_RV, said[0].norm_R1
        for other in said[1:]:
            logits_RV, norm_R1 = logits_RV.add_(other.logits_RV), norm_R1 + other.norm_R1
        looked = [one.attention_RS for one in said if one.attention_RS is not None]
        return Predicted(
            logits_RV.div_(len(said)),
            norm_R1 / len(said),
            tuple(layer for one in said for layer in one.state),
            torch.stack(looked).mean(0) if looked else None,
        )


class Fused:
    """A decoder whose continuations compete with the help of a language model over the same tokens.

    The language model reads the translation from an `<eos>` on, as it read lines in training; its log-probability of
    a token, times `weight`, is the token's bonus.

    Source: shallow fusion, Gülçehre et al. 2015, section 4.1.
    """

    def __init__(self, base: Any, model: language_model.LanguageModel, ids_V: Tensor, weight: float) -> None:
        """Puts a language model beside `base`, a decoder; `ids_V` are its ids of the target's tokens."""
        self._base = base
        self._model = model
        self._ids_V = ids_V
        self._weight = weight

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        device: torch.device = self._base.device
        return device

    def initial_state(self, memory: Any) -> states.State:
        """See `Decoder`; the language model's layers come first."""
        base: states.State = self._base.initial_state(memory)
        return self._model.initial_state(base[0][0].shape[0]) + base

    def step(self, tokens_R: Tensor, memory: Any, state: states.State) -> Predicted:
        """See `Decoder`."""
        num_layers = len(self._model.stack.layers)
        said: Predicted = self._base.step(tokens_R, memory, state[num_layers:])
        features_RF, own = self._model.step(self._ids_V[tokens_R], state[:num_layers])
        bonus_RV = self._model.logits(features_RF).float().log_softmax(1)[:, self._ids_V] * self._weight
        return said._replace(state=own + said.state, bonus_RV=bonus_RV)
