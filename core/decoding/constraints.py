"""What a translation may go on with: given beginnings, tokens that are refused, repetitions."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from core.config import inference_settings
from core.decoding import decoders


class Special(NamedTuple):
    """The reserved ids of the target side."""

    pad: int
    bos: int
    eos: int


class Prefixes:
    """The given beginnings of the lines' translations, most of them perhaps empty."""

    def __init__(self, prefixes: Sequence[Sequence[int]], device: torch.device) -> None:
        self._longest = max(map(len, prefixes), default=0)
        rows = [[*prefix, *[-1] * (self._longest - len(prefix))] for prefix in prefixes]
        self._tokens_NP = torch.tensor(rows, device=device, dtype=torch.int64).view(len(rows), self._longest)

    def at(self, length: int) -> Tensor | None:
        """Returns each line's token for the `length`-th place, from 1, or -1; None where no line has one."""
        return self._tokens_NP[:, length - 1] if length <= self._longest else None


def apply(
    said: decoders.Predicted,
    length: int,
    forced_R: Tensor | None,
    history_RT: Tensor | None,
    settings: inference_settings.DecodingConfig,
    special: Special,
) -> Tensor:
    """Returns what each continuation competes with: its log-probability as the settings change it, -inf if refused.

    `<pad>` and `<bos>` are never chosen, `<eos>` not before `min_length` tokens and nothing else in the last place.
    A given token is chosen whatever else is said. What others would have got is not shared out. The numbers are too
    large by `norm_R1`, as logits are, and take the place of the logits.

    Args:
        said: what the decoder says.
        length: how long a hypothesis is with this token.
        forced_R: the given token of each row, -1 for none.
        history_RT: the tokens so far.
        settings: lengths and penalties.
        special: the reserved ids.
    """
    values_RV = said.logits_RV
    if history_RT is not None and settings.repetition_penalty != 1.0 and history_RT.shape[1]:
        _penalise(values_RV, history_RT, said.norm_R1, settings.repetition_penalty)
    if said.bonus_RV is not None:
        values_RV = values_RV + said.bonus_RV
    given_R1 = None if forced_R is None else values_RV.gather(1, forced_R.clamp(min=0)[:, None])
    if length == settings.max_length:
        last_R1 = values_RV[:, special.eos, None].clone()
        values_RV = torch.full_like(values_RV, -torch.inf)
        values_RV[:, special.eos, None] = last_R1
    else:
        refused = [special.pad, special.bos] + [special.eos] * (length <= settings.min_length)
        values_RV[:, refused] = -torch.inf
        if history_RT is not None and settings.no_repeat_ngram is not None:
            _block_repeats(values_RV, history_RT, settings.no_repeat_ngram)
    if forced_R is not None and given_R1 is not None:
        is_forced_R1 = (forced_R >= 0)[:, None]
        alone_RV = torch.full_like(values_RV, -torch.inf).scatter_(1, forced_R.clamp(min=0)[:, None], given_R1)
        values_RV = torch.where(is_forced_R1, alone_RV, values_RV)
    return values_RV


def follow(logits_RV: Tensor, history_RT: Tensor, settings: inference_settings.DecodingConfig) -> Tensor:
    """Returns what a language model says next as the settings change it: without what would repeat.

    Where all tokens are refused, none is.
    """
    values_RV = logits_RV.float().log_softmax(dim=-1)
    if settings.repetition_penalty != 1.0:
        _penalise(values_RV, history_RT, values_RV.new_zeros(len(values_RV), 1), settings.repetition_penalty)
    if settings.no_repeat_ngram is not None:
        blocked_RV = values_RV.clone()
        _block_repeats(blocked_RV, history_RT, settings.no_repeat_ngram)
        values_RV = torch.where((blocked_RV == -torch.inf).all(dim=-1, keepdim=True), values_RV, blocked_RV)
    return values_RV


def _penalise(values_RV: Tensor, history_RT: Tensor, norm_R1: Tensor, penalty: float) -> None:
    """Multiplies the log-probabilities of tokens that a row has already; not logits, which may have any sign.

    Source: Keskar et al. 2019, section 4.1 (there logits are divided).
    """
    repeated_RT = (values_RV.gather(1, history_RT) - norm_R1) * penalty
    values_RV.scatter_(1, history_RT, repeated_RT + norm_R1)


def _block_repeats(values_RV: Tensor, history_RT: Tensor, n: int) -> None:
    """Refuses every token that would make the last n tokens of a row equal to n that it has already.

    Source: Paulus et al. 2018, section 2.5 (there n = 3).
    """
    num_tokens = history_RT.shape[1]
    if num_tokens < n:
        return
    windows_RWN = history_RT.unfold(1, n, 1)
    ending_R1N = history_RT[:, None, num_tokens - n + 1 :]
    same_RW = (windows_RWN[:, :, : n - 1] == ending_R1N).all(dim=2)
    rows, places = same_RW.nonzero(as_tuple=True)
    values_RV[rows, windows_RWN[rows, places, n - 1]] = -torch.inf
