"""Mixture of language models: interpolation of the distributions of several models over one vocabulary."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from core.config import mixture_settings
from core.models import language_model
from core.models import state as states
from core.models.ngram import ngram_model

Member = language_model.LanguageModel | ngram_model.Ngram


class Mixture:
    """Several language models as one, with the interface of a single model.

    `linear`: p(w | h) = Σ λ_m p_m(w | h). `log_linear`: p(w | h) ∝ Π p_m(w | h)^λ_m. Its state is the layers of all
    members, one member after the other, and its features are theirs side by side: the inputs of a network's output
    layer, and the contexts of an n-gram model, whose token ids fp32 holds exactly.

    Source: Mikolov et al. 2011, Empirical evaluation and combination of advanced language modeling techniques (linear);
    Klakow 1998, Log-linear interpolation of language models.
    """

    def __init__(self, members: Sequence[Member], settings: mixture_settings.MixtureConfig) -> None:
        """Combines models of one vocabulary and one reading direction, on the same device."""
        assert settings.kind != "ranking", "a ranking score has no distribution"
        sizes = {member.vocabulary_size for member in members}
        assert len(sizes) == 1, "a token has the same id in all members"
        # Beyond 2^24 fp32 has no longer every integer.
        assert max(sizes) <= 1 << 24, "token ids must be exact in fp32"
        self.members = tuple(members)
        self.weights = mixture_settings.weights_of(settings, len(members))
        self.is_linear = settings.kind == "linear"
        self._widths = [
            member.config.order - 1 if isinstance(member, ngram_model.Ngram) else member.feature_size
            for member in members
        ]

    @property
    def feature_size(self) -> int:
        """Width of the features of all members together."""
        return sum(self._widths)

    def initial_state(self, batch_size: int) -> states.State:
        """Returns the state before the first token of a text."""
        return tuple(itertools.chain.from_iterable(member.initial_state(batch_size) for member in self.members))

    def __call__(self, tokens_BT: Tensor, state: states.State) -> tuple[Tensor, states.State]:
        """Returns the features of every position and the state after the last, as those of a single model."""
        features, after = [], list[states.LayerState]()
        for member in self.members:
            # Each member has as many layers as at the start, and what is left over belongs to the members after it.
            num_layers = len(member.initial_state(1))
            own, state = state[:num_layers], state[num_layers:]
            features_BTF, own = member(tokens_BT, own)
            features.append(features_BTF.float())
            after += own
        return torch.cat(features, dim=-1), tuple(after)

    def log_probs(self, features_NF: Tensor) -> Tensor:
        """Returns the log-probabilities of all V tokens (N, V); those of n-gram models, and so of the sum, in fp64."""
        mixed_NV: Tensor | None = None
        own_features = torch.split(features_NF, self._widths, dim=1)
        for member, weight, own_NF in zip(self.members, self.weights, own_features, strict=True):
            # Left out rather than weighted: 0 times the logarithm of an impossible token would be NaN.
            if weight == 0:
                continue
            log_probs_NV = _log_probs(member, own_NF)
            if self.is_linear:
                term_NV = log_probs_NV if weight == 1 else log_probs_NV + math.log(weight)
                mixed_NV = term_NV if mixed_NV is None else _logaddexp(mixed_NV, term_NV)
            else:
                mixed_NV = log_probs_NV * weight if mixed_NV is None else mixed_NV + log_probs_NV * weight
        assert mixed_NV is not None, "the settings refuse weights that are all 0"
        if self.is_linear:
            return mixed_NV
        # Where members exclude each other no token is possible: the softmax of nothing would be NaN.
        is_impossible_N1 = mixed_NV.amax(1, keepdim=True).isneginf()
        return mixed_NV.log_softmax(1).masked_fill(is_impossible_N1, -torch.inf)


def _log_probs(member: Member, features_NF: Tensor) -> Tensor:
    if isinstance(member, ngram_model.Ngram):
        return member.logits(features_NF.long())
    return member.logits(features_NF).float().log_softmax(1)


def _logaddexp(first_NV: Tensor, second_NV: Tensor) -> Tensor:
    dtype = torch.promote_types(first_NV.dtype, second_NV.dtype)
    return torch.logaddexp(first_NV.to(dtype), second_NV.to(dtype))
