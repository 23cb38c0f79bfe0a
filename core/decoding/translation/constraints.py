"""Constraints of decoding: forced prefixes, lengths, blocked tokens, repetition."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from core.config import inference_settings
from core.decoding import repetition
from core.decoding.translation import decoders


class SpecialTokens(NamedTuple):
    """Ids of the target side's reserved tokens."""

    pad: int
    bos: int
    eos: int


class ForcedPrefixes:
    """Given beginnings of the lines' translations; any of them may be empty."""

    def __init__(self, prefixes: Sequence[Sequence[int]], device: torch.device) -> None:
        self._max_length = max(map(len, prefixes), default=0)
        # -1, which no token has as its id: nothing is forced at this position.
        rows = [[*prefix, *[-1] * (self._max_length - len(prefix))] for prefix in prefixes]
        self._tokens_NP = torch.tensor(rows, device=device, dtype=torch.int64).view(len(rows), self._max_length)

    def at(self, length: int) -> Tensor | None:
        """Returns each line's forced token at position `length`, from 1, or -1; None if no prefix is so long."""
        return self._tokens_NP[:, length - 1] if length <= self._max_length else None


def apply(
    predictions: decoders.Predictions,
    length: int,
    forced_R: Tensor | None,
    history_RT: Tensor | None,
    settings: inference_settings.DecodingConfig,
    special: SpecialTokens,
) -> Tensor:
    """Returns the search scores of all continuations, -inf where they are blocked, in place of the logits.

    A search score is the log-probability with the repetition penalty and the language model applied; like a logit it
    is too large by `log_norm_R1`. `<pad>` and `<bos>` are blocked everywhere, `<eos>` up to `min_length` tokens, and
    everything but `<eos>` at `max_length`. A forced token overrides every other constraint. The probability of blocked
    tokens is not redistributed to the others.

    Args:
        predictions: of the decoder; its logits may be overwritten.
        length: of a hypothesis with this token.
        forced_R: forced token of each row, -1 for none.
        history_RT: tokens so far.
        settings: lengths and penalties.
        special: reserved ids.
    """
    scores_RV = predictions.logits_RV
    if history_RT is not None and settings.repetition_penalty != 1.0 and history_RT.shape[1]:
        repetition.penalise_repeated_tokens(scores_RV, history_RT, predictions.log_norm_R1, settings.repetition_penalty)
    if predictions.fusion_RV is not None:
        scores_RV = scores_RV + predictions.fusion_RV
    # Read before anything is blocked: a forced token keeps its score.
    forced_scores_R1 = None if forced_R is None else scores_RV.gather(1, forced_R.clamp(min=0)[:, None])
    if length == settings.max_length:
        # A hypothesis that is cut off pays for its `<eos>` too: forced decoding must give the same score.
        eos_scores_R1 = scores_RV[:, special.eos, None].clone()
        scores_RV = torch.full_like(scores_RV, -torch.inf)
        scores_RV[:, special.eos, None] = eos_scores_R1
    else:
        blocked = [special.pad, special.bos] + [special.eos] * (length <= settings.min_length)
        scores_RV[:, blocked] = -torch.inf
        if history_RT is not None and settings.no_repeat_ngram is not None:
            repetition.block_repeated_ngrams(scores_RV, history_RT, settings.no_repeat_ngram)
    if forced_R is not None and forced_scores_R1 is not None:
        is_forced_R1 = (forced_R >= 0)[:, None]
        forced_only_RV = torch.full_like(scores_RV, -torch.inf)
        # Rows without a forced token write to entry 0, and `where` discards what they wrote.
        forced_only_RV.scatter_(1, forced_R.clamp(min=0)[:, None], forced_scores_R1)
        scores_RV = torch.where(is_forced_R1, forced_only_RV, scores_RV)
    return scores_RV
