"""How the next token of a continuation is chosen from the logits: the likeliest, or a draw."""

import torch
from torch import Tensor

from core.config import inference_settings


def choose(logits_BV: Tensor, settings: inference_settings.DecodingConfig, generator: torch.Generator) -> Tensor:
    """Chooses a token for each row: greedy takes the likeliest, of several the one with the lowest id.

    A draw divides the logits by the temperature, keeps the `top_k` likeliest and of those the fewest that
    together have `top_p` of their probability, and draws among what is left.

    Source: documents 000 section 8.5.4 and 003 section 1.14.14; top-p: Holtzman et al. 2020.
    """
    logits_BV = logits_BV.float()
    if settings.method == "greedy":
        return logits_BV.argmax(dim=-1)
    probabilities_BV = kept(logits_BV / settings.temperature, settings.top_k, settings.top_p).softmax(dim=-1)
    return torch.multinomial(probabilities_BV.cpu(), 1, generator=generator).squeeze(1).to(logits_BV.device)


def kept(logits_BV: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Returns the logits with those that may not be drawn at -inf; at least one is left in each row."""
    sorted_BV, order_BV = logits_BV.sort(dim=-1, descending=True, stable=True)
    refused_BV = torch.zeros_like(sorted_BV, dtype=torch.bool)
    if top_k is not None:
        refused_BV[:, top_k:] = True
    if top_p is not None:
        probabilities_BV = sorted_BV.masked_fill(refused_BV, -torch.inf).softmax(dim=-1)
        # A token is kept while those before it have not reached p yet.
        refused_BV |= probabilities_BV.cumsum(dim=-1) - probabilities_BV >= top_p
        refused_BV[:, 0] = False
    return logits_BV.masked_fill(refused_BV.gather(1, order_BV.argsort(dim=-1)), -torch.inf)
