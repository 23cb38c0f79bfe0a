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


class Known(NamedTuple):
    """What one model knows of the sources, and which tokens are refused to each line; None: none are."""

    memory: seq2seq.Memory
    refused_NV: Tensor | None = None

    @property
    def state(self) -> states.State:
        """What the decoder starts from."""
        return self.memory.state

    def select(self, rows_B: Tensor) -> "Known":
        """See `Memory`."""
        refused_NV = self.refused_NV
        return Known(self.memory.select(rows_B), None if refused_NV is None else refused_NV.index_select(0, rows_B))

    def refusing(self, refused_NV: Tensor) -> "Known":
        """Returns the memory of lines that may not use these tokens."""
        return self._replace(refused_NV=refused_NV)


class Single:
    """One encoder–decoder, in evaluation mode; perhaps over some tokens alone, which then go by their places."""

    def __init__(self, model: seq2seq.Seq2Seq, ids_V: Tensor | None = None) -> None:
        """Takes a model, and the ids of the tokens that it may use if these are not all."""
        self._model = model
        self._ids_V = ids_V
        self.weight_VF, self.bias_V = model.output_weight_VF, model.output_bias_V
        if ids_V is not None:
            self.weight_VF, self.bias_V = (part.index_select(0, ids_V) for part in (self.weight_VF, self.bias_V))

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.weight_VF.device

    @property
    def parts(self) -> "tuple[Single, ...]":
        """The models in it."""
        return (self,)

    def narrowed(self, ids_V: Tensor) -> "Single":
        """Returns the decoder over some tokens alone."""
        return Single(self._model, ids_V)

    @property
    def attends(self) -> bool:
        """Whether it has attention."""
        return self._model.attends

    def encode(self, source_BS: Tensor, lengths_B: Tensor) -> Known:
        """Reads the sources."""
        return Known(self._model.encode(source_BS, lengths_B))

    def initial_state(self, memory: Known) -> states.State:
        """See `Decoder`."""
        return self._model.initial_state(memory.memory)

    def step(self, tokens_R: Tensor, memory: Known, state: states.State) -> Predicted:
        """See `Decoder`; what is refused to a line has a logit of -inf, and no share in the others' norm."""
        own_R = tokens_R if self._ids_V is None else self._ids_V[tokens_R]
        features_RF, state, attention_RS = self._model.step(own_R, memory.memory, state)
        logits_RV = torch.nn.functional.linear(features_RF, self.weight_VF, self.bias_V).float()
        if memory.refused_NV is not None:
            num_lines, size = memory.refused_NV.shape
            logits_RV.view(num_lines, -1, size).masked_fill_(memory.refused_NV[:, None], -torch.inf)
        return Predicted(logits_RV, logits_RV.logsumexp(1, keepdim=True), state, attention_RS)


class Memories(NamedTuple):
    """What each member of an ensemble knows of the sources."""

    parts: tuple[Known, ...]

    def select(self, rows_B: Tensor) -> "Memories":
        """See `Memory`."""
        return Memories(tuple(part.select(rows_B) for part in self.parts))

    def refusing(self, refused_NV: Tensor) -> "Memories":
        """See `Known`."""
        return Memories(tuple(part.refusing(refused_NV) for part in self.parts))


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
    def parts(self) -> tuple[Single, ...]:
        """The models in it."""
        return self._members

    def narrowed(self, ids_V: Tensor) -> "Ensemble":
        """Returns the ensemble over some tokens alone."""
        return Ensemble([member.narrowed(ids_V) for member in self._members])

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
