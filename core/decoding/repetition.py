"""Penalties against repetition: repeated tokens cost more, repeated n-grams are blocked."""

import torch
from torch import Tensor

from core.config import inference_settings


def follow(logits_RV: Tensor, history_RT: Tensor, settings: inference_settings.DecodingConfig) -> Tensor:
    """Returns what a language model says next as the settings change it: without what would repeat.

    Where all tokens are refused, none is.
    """
    values_RV = logits_RV.float().log_softmax(dim=-1)
    if settings.repetition_penalty != 1.0:
        penalise(values_RV, history_RT, values_RV.new_zeros(len(values_RV), 1), settings.repetition_penalty)
    if settings.no_repeat_ngram is not None:
        blocked_RV = values_RV.clone()
        block_repeats(blocked_RV, history_RT, settings.no_repeat_ngram)
        values_RV = torch.where((blocked_RV == -torch.inf).all(dim=-1, keepdim=True), values_RV, blocked_RV)
    return values_RV


def penalise(values_RV: Tensor, history_RT: Tensor, norm_R1: Tensor, penalty: float) -> None:
    """Multiplies the log-probabilities of tokens that a row has already; not logits, which may have any sign.

    Source: Keskar et al. 2019, section 4.1 (there logits are divided).
    """
    repeated_RT = (values_RV.gather(1, history_RT) - norm_R1) * penalty
    values_RV.scatter_(1, history_RT, repeated_RT + norm_R1)


def block_repeats(values_RV: Tensor, history_RT: Tensor, n: int) -> None:
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
