"""The global norm of a gradient and clipping by it."""

from collections.abc import Iterable

import torch
from torch import nn


def clip(parameters: Iterable[nn.Parameter], limit: float | None) -> torch.Tensor:
    """Scales all gradients together so that their global norm is at most `limit`; returns the norm before that.

    g ← min(1, θ/‖g‖) g with the norm over all parameters as one vector. Called once a step, after the gradients of
    all ranks are summed. The result stays on the device, so that nothing waits for it here. A norm that is not
    finite says that the gradients are of no use, whatever scaling did to them.

    Source: document 000 section 8.5.5.
    """
    owners = [parameter for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in owners if parameter.grad is not None])
    if limit is not None:
        nn.utils.clip_grads_with_norm_(owners, limit, norm)
    return norm
