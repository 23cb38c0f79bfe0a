"""The neural cache: what followed when the model was in a like state is likely to follow again.

The cache remembers the features h_i of the last N positions, each with the token x_{i+1} that followed. A token w is
given p_cache(w) ∝ Σ_i [x_{i+1} = w] exp(θ h_t · h_i), and the mixture (1 − λ) p_model + λ p_cache, which sums to 1.
Nothing is trained. While nothing is remembered yet, the model speaks alone.

Source: Grave, Joulin and Usunier 2017, Improving neural language models with a continuous cache.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from core.config import inference_settings


class Memory(NamedTuple):
    """What is remembered, oldest first: features (fp32), and the token that followed each."""

    features_NF: Tensor
    followers_N: Tensor


def empty(feature_size: int, device: str) -> Memory:
    """Remembers nothing."""
    return Memory(torch.zeros(0, feature_size, device=device), torch.zeros(0, dtype=torch.int64, device=device))


def blend(
    settings: inference_settings.CacheConfig,
    memory: Memory,
    features_TF: Tensor,
    targets_T: Tensor,
    log_probs_TV: Tensor,
) -> tuple[Tensor, Memory]:
    """Returns the log-probabilities of the mixture at consecutive positions, and what is remembered after them.

    Position t sees what was remembered and the positions of this call before it, `settings.size` in all; its own
    target joins when it has been predicted.

    Args:
        settings: N, θ and λ.
        memory: of the positions before.
        features_TF: what the model's output layer reads.
        targets_T: what followed.
        log_probs_TV: of the model alone, normalised.
    """
    keys_KF = torch.cat((memory.features_NF, features_TF.float()))
    followers_K = torch.cat((memory.followers_N, targets_T))
    first, num_steps = len(memory.followers_N), len(targets_T)
    # In bf16 a product of long vectors is too coarse to be an exponent.
    with torch.autocast(keys_KF.device.type, enabled=False):
        scores_TK = settings.theta * (keys_KF[first:] @ keys_KF.T)
    position_K = torch.arange(len(keys_KF), device=keys_KF.device)
    now_T1 = first + torch.arange(num_steps, device=keys_KF.device)[:, None]
    seen_TK = (position_K < now_T1) & (position_K >= now_T1 - settings.size)
    attention_TK = scores_TK.masked_fill(~seen_TK, -math.inf).softmax(1).masked_fill(~seen_TK, 0.0)
    cached_TV = torch.zeros_like(log_probs_TV).scatter_add_(1, followers_K.expand(num_steps, -1), attention_TK)
    share_T1 = settings.weight * seen_TK.any(1, keepdim=True).float()
    mixed_TV = torch.logaddexp(log_probs_TV + torch.log1p(-share_T1), torch.log(share_T1 * cached_TV))
    return mixed_TV, Memory(keys_KF[-settings.size :], followers_K[-settings.size :])
