"""Repetition penalty and blocking of repeated n-grams."""

import torch
from torch import Tensor

from core.config import inference_settings


def penalised_log_probs(logits_RV: Tensor, history_RT: Tensor, settings: inference_settings.GenerationConfig) -> Tensor:
    """Returns next-token log-probabilities with the repetition penalty applied and repeated n-grams at -inf.

    In a row where every token would repeat an n-gram, all are at -inf: the text ends there.
    """
    log_probs_RV = logits_RV.float().log_softmax(dim=-1)
    if settings.repetition_penalty != 1.0:
        # Already normalized, so the log normalizer is 0.
        log_norm_R1 = log_probs_RV.new_zeros(len(log_probs_RV), 1)
        penalise_repeated_tokens(log_probs_RV, history_RT, log_norm_R1, settings.repetition_penalty)
    if settings.no_repeat_ngram is not None:
        block_repeated_ngrams(log_probs_RV, history_RT, settings.no_repeat_ngram)
    return log_probs_RV


def penalise_repeated_tokens(logits_RV: Tensor, history_RT: Tensor, log_norm_R1: Tensor, penalty: float) -> None:
    """Multiplies the log-probabilities (logits less their log normalizer) of tokens in a row's history, in place.

    The paper divides logits. A logit may have either sign, so dividing it can make a repeated token more likely; a
    log-probability is never positive.

    Source: Keskar et al. 2019, CTRL: a conditional transformer language model for controllable generation, section 4.1.
    """
    # Read before it is written: a token that occurs twice gets the same value twice, and is penalized once.
    penalised_RT = (logits_RV.gather(1, history_RT) - log_norm_R1) * penalty
    logits_RV.scatter_(1, history_RT, penalised_RT + log_norm_R1)


def block_repeated_ngrams(logits_RV: Tensor, history_RT: Tensor, n: int) -> None:
    """Sets to -inf every token that would complete an n-gram already in a row's history, in place.

    Source: Paulus, Xiong and Socher 2018, A deep reinforced model for abstractive summarization, section 2.5 (n = 3).
    """
    num_tokens = history_RT.shape[1]
    if num_tokens < n:
        return
    ngrams_RWN = history_RT.unfold(1, n, 1)
    # The last n - 1 tokens: whatever followed them before is blocked. Empty for n = 1, which matches every position.
    suffix_R1N = history_RT[:, None, num_tokens - n + 1 :]
    matches_RW = (ngrams_RWN[:, :, : n - 1] == suffix_R1N).all(dim=2)
    rows, positions = matches_RW.nonzero(as_tuple=True)
    logits_RV[rows, ngrams_RWN[rows, positions, n - 1]] = -torch.inf
