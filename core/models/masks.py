"""Dropout and its masks, drawn from the default generators."""

import torch
from torch import Tensor
from torch.nn import functional as F

_LEVELS = 1 << 16


def drop(x: Tensor, rate: float) -> Tensor:
    """Returns x with entries set to zero with probability `rate`, and the others divided by 1 − `rate`.

    Source: Srivastava et al. 2014, Dropout: a simple way to prevent neural networks from overfitting.
    """
    if rate == 0.0:
        return x
    # A GPU draws and applies a mask in one kernel.
    return F.dropout(x, rate) if x.device.type == "cuda" else x * draw(x, x.shape, rate)


def draw(like: Tensor, shape: tuple[int, ...], rate: float) -> Tensor:
    """Draws a mask with entries 0, with probability `rate`, and 1 / (1 − `rate`), of the type and device of `like`.

    Each entry takes 16 random bits of torch's default generator; on a CPU its own dropout draws a random number for
    each, which takes four times as long. The rate is rounded to a multiple of 2^-16, and the scale is that of the
    rounded rate, so that the mean of an entry is 1.
    """
    if like.device.type == "cuda":
        return F.dropout(like.new_ones(shape), rate)
    num_entries = torch.Size(shape).numel()
    words = torch.empty((num_entries + 3) // 4, dtype=torch.int64, device=like.device)
    # From the lowest number: by default the sign is not drawn.
    bits = words.random_(-(1 << 63), None).view(torch.int16)[:num_entries].view(shape)
    num_dropped = round(rate * _LEVELS)
    is_kept = bits >= num_dropped - _LEVELS // 2
    return is_kept.to(like.dtype).mul_(_LEVELS / (_LEVELS - num_dropped))
