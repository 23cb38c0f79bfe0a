"""Scheduled sampling: in training the decoder is fed its own words now and then, as it will be when it translates.

Source: Bengio et al. 2015, Scheduled Sampling for Sequence Prediction with Recurrent Neural Networks.
"""

import torch
from torch import Tensor

from core.config import training_settings
from core.models import seq2seq


def share(settings: training_settings.ScheduledSamplingConfig | None, step: int) -> float:
    """The share of the model's own words in a step: 0 without settings, else linear from `start` to `end`."""
    if settings is None:
        return 0.0
    done = min(1.0, step / settings.over_steps)
    return settings.start + (settings.end - settings.start) * done


@torch.no_grad()
def mixed(model: seq2seq.Seq2Seq, memory: seq2seq.Memory, inputs_BT: Tensor, own_share: float) -> Tensor:
    """What the decoder is fed: each input but the first is the model's own word with this probability.

    A word of its own is drawn from what the model expects after all that it was fed before, own words included. No
    gradient goes through the draw, so that a second pass over the whole target, which is one fused call, has the
    gradient of the method. Dropout masks are drawn anew in that pass.
    """
    state = model.initial_state(memory)
    fed = [inputs_BT[:, 0]]
    for true_B in inputs_BT[:, 1:].unbind(dim=1):
        features_BF, state, _ = model.step(fed[-1], memory, state)
        own_B = torch.multinomial(model.logits(features_BF).float().softmax(dim=-1), 1).squeeze(1)
        is_own_B = torch.rand(true_B.shape, device=true_B.device) < own_share
        fed.append(torch.where(is_own_B, own_B, true_B))
    return torch.stack(fed, dim=1)
