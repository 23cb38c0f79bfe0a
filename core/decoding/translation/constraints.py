"""What a translation may go on with: given beginnings, tokens that are refused, repetitions."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from core.config import inference_settings
from core.decoding import repetition
from core.decoding.translation import decoders


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
        repetition.penalise(values_RV, history_RT, said.norm_R1, settings.repetition_penalty)
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
            repetition.block_repeats(values_RV, history_RT, settings.no_repeat_ngram)
    if forced_R is not None and given_R1 is not None:
        is_forced_R1 = (forced_R >= 0)[:, None]
        alone_RV = torch.full_like(values_RV, -torch.inf).scatter_(1, forced_R.clamp(min=0)[:, None], given_R1)
        values_RV = torch.where(is_forced_R1, alone_RV, values_RV)
    return values_RV
