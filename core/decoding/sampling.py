"""Next-token selection: greedy, or sampling with temperature, top-k and top-p."""

import torch
from torch import Tensor

from core.config import inference_settings


def select_tokens(
    logits_BV: Tensor, settings: inference_settings.GenerationConfig, generator: torch.Generator
) -> Tensor:
    """Selects a token for each row; greedy takes the most likely one, on a tie the one with the lowest id.

    Sampling divides the logits by the temperature, keeps the `top_k` most likely tokens and of those the smallest set
    whose probabilities sum to `top_p`, and draws from what remains.

    Source: Zhang et al., Dive into Deep Learning (2021), section 8.5.4 "Prediction"; top-k: Fan et al. 2018,
    Hierarchical neural story generation; top-p: Holtzman et al. 2020, The curious case of neural text degeneration.
    """
    logits_BV = logits_BV.float()
    if settings.method == "greedy":
        return logits_BV.argmax(dim=-1)
    filtered_BV = filter_logits(divide_by_temperature(logits_BV, settings.temperature), settings.top_k, settings.top_p)
    # Drawn on the CPU: its generator gives the same tokens whatever device the model is on.
    return torch.multinomial(filtered_BV.softmax(dim=-1).cpu(), 1, generator=generator).squeeze(1).to(logits_BV.device)


def divide_by_temperature(logits_BV: Tensor, temperature: float) -> Tensor:
    """Returns the logits divided by the temperature, relative to the largest in rows where the quotient overflows.

    Both have the same softmax. Elsewhere they are divided as they are, because the difference would round.
    """
    largest_B1 = logits_BV.amax(dim=-1, keepdim=True)
    overflows_B1 = largest_B1.isfinite() & ~(largest_B1 / temperature).isfinite()
    return torch.where(overflows_B1, (logits_BV - largest_B1) / temperature, logits_BV / temperature)


def filter_logits(logits_BV: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Returns the logits with those outside top-k and top-p at -inf; each row keeps at least one."""
    sorted_BV, order_BV = logits_BV.sort(dim=-1, descending=True, stable=True)
    removed_BV = torch.zeros_like(sorted_BV, dtype=torch.bool)
    if top_k is not None:
        removed_BV[:, top_k:] = True
    if top_p is not None:
        probabilities_BV = sorted_BV.masked_fill(removed_BV, -torch.inf).softmax(dim=-1)
        # A token is kept while the tokens before it have not reached p yet.
        removed_BV |= probabilities_BV.cumsum(dim=-1) - probabilities_BV >= top_p
        removed_BV[:, 0] = False
    # The inverse permutation puts the mask back into vocabulary order.
    return logits_BV.masked_fill(removed_BV.gather(1, order_BV.argsort(dim=-1)), -torch.inf)
