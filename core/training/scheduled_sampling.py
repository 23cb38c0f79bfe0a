"""Scheduled sampling.

With teacher forcing a decoder only ever sees correct words; when it translates, it sees its own. Scheduled sampling
replaces some of the decoder's inputs by tokens that the model itself sampled, more of them as training proceeds.

Source: Bengio et al. 2015, Scheduled Sampling for Sequence Prediction with Recurrent Neural Networks.
"""

import torch
from torch import Tensor

from core.config import training_settings
from core.models import seq2seq


def sampling_probability(settings: training_settings.ScheduledSamplingConfig | None, step: int) -> float:
    """Returns the probability of a sampled input in a step: 0 without settings, else linear from `start` to `end`."""
    if settings is None:
        return 0.0
    done = min(1.0, step / settings.over_steps)
    return settings.start + (settings.end - settings.start) * done


@torch.no_grad()
def mix_inputs(
    model: seq2seq.Seq2Seq, memory: seq2seq.Memory, inputs_BT: Tensor, sampling_probability: float
) -> Tensor:
    """Replaces each decoder input but the first by a token sampled from the model, with the given probability.

    A token is sampled from the model's distribution after all inputs before it, sampled ones included. No gradient
    flows through the sampling, so that a second pass over the whole target, which is one fused call, has the gradient
    of the method. That pass draws new dropout masks.
    """
    state = model.initial_state(memory)
    mixed = [inputs_BT[:, 0]]  # <bos> is never replaced
    for true_B in inputs_BT[:, 1:].unbind(dim=1):
        features_BF, state, _ = model.step(mixed[-1], memory, state)
        sampled_B = torch.multinomial(model.logits(features_BF).float().softmax(dim=-1), 1).squeeze(1)
        # Decided for each token, as in the paper, not once for a sentence. The default generator is seeded by the step.
        is_sampled_B = torch.rand(true_B.shape, device=true_B.device) < sampling_probability
        mixed.append(torch.where(is_sampled_B, sampled_B, true_B))
    return torch.stack(mixed, dim=1)
