"""Neural cache language model: tokens that followed similar hidden states become more likely.

The cache holds the features h_i of the last N positions, each with the token x_{i+1} that followed. A token w has the
cache probability p_cache(w) ∝ Σ_i [x_{i+1} = w] exp(θ h_t · h_i), and the mixture is the linear interpolation
(1 − λ) p_model + λ p_cache, which sums to 1. Nothing is trained. With an empty cache it is p_model alone.

Source: Grave, Joulin and Usunier 2017, Improving neural language models with a continuous cache.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from core.config import inference_settings


class Cache(NamedTuple):
    """Cached positions, oldest first: features in fp32, and the token that followed each.

    The names of the fields are stored with the state of a stream.
    """

    features_NF: Tensor
    followers_N: Tensor


def empty(feature_size: int, device: str) -> Cache:
    """Returns an empty cache."""
    return Cache(torch.zeros(0, feature_size, device=device), torch.zeros(0, dtype=torch.int64, device=device))


def interpolate(
    settings: inference_settings.CacheConfig,
    cache: Cache,
    features_TF: Tensor,
    targets_T: Tensor,
    log_probs_TV: Tensor,
) -> tuple[Tensor, Cache]:
    """Returns the log-probabilities of the mixture at consecutive positions, and the cache after them.

    Position t attends to the last `settings.size` positions before it, those of this call included; its own target is
    cached only after it has been predicted.

    Args:
        settings: N, θ and λ.
        cache: of the positions before.
        features_TF: input of the model's output layer.
        targets_T: the token that followed at each position.
        log_probs_TV: of the model alone, normalized.
    """
    keys_KF = torch.cat((cache.features_NF, features_TF.float()))
    followers_K = torch.cat((cache.followers_N, targets_T))
    num_cached, num_steps = len(cache.followers_N), len(targets_T)
    # In bf16 a dot product of long vectors is too coarse for an exponent.
    with torch.autocast(keys_KF.device.type, enabled=False):
        similarity_TK = settings.theta * (keys_KF[num_cached:] @ keys_KF.T)
    position_K = torch.arange(len(keys_KF), device=keys_KF.device)
    current_T1 = num_cached + torch.arange(num_steps, device=keys_KF.device)[:, None]
    # Strictly before the current position, whose own follower is the token to predict.
    visible_TK = (position_K < current_T1) & (position_K >= current_T1 - settings.size)
    # Masked twice: a row without visible positions is NaN after the softmax, and becomes 0.
    attention_TK = similarity_TK.masked_fill(~visible_TK, -math.inf).softmax(1).masked_fill(~visible_TK, 0.0)
    cache_probs_TV = torch.zeros_like(log_probs_TV).scatter_add_(1, followers_K.expand(num_steps, -1), attention_TK)
    lambda_T1 = settings.weight * visible_TK.any(1, keepdim=True).float()
    # In logarithms, in which the probabilities of rare tokens do not underflow. Where nothing is visible λ is 0,
    # and the second term log 0 = −inf leaves the first as it is.
    mixed_TV = torch.logaddexp(log_probs_TV + torch.log1p(-lambda_T1), torch.log(lambda_T1 * cache_probs_TV))
    return mixed_TV, Cache(keys_KF[-settings.size :], followers_K[-settings.size :])
