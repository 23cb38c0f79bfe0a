"""Memory of a training step: the logits of a window never exist all at once."""

import pytest
import torch
from torch import profiler

from core.config import model_settings
from core.models import factory
from core.training import batches, losses

VOCABULARY, LANES = 4000, 8
KINDS: list[dict[str, object]] = [{}, {"tie_embeddings": True}, {"adaptive_cutoffs": (500, 2000)}]


def _peak_bytes(settings: dict[str, object], window: int, is_bf16: bool) -> int:
    """Returns the peak memory of a step of a window, in addition to what is allocated before it."""
    config = {"kind": "language_model", "cell": "rnn", "hidden_size": 8, "embedding_size": 8, **settings}
    model = factory.build(model_settings.LanguageModelConfig.model_validate(config), {"text": VOCABULARY}, None)
    learned = losses.Objective(model)
    content = batches.TextContent(
        torch.randint(VOCABULARY, (LANES, window)), torch.randint(VOCABULARY, (LANES * window,))
    )
    with profiler.profile(profile_memory=True) as profile, torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
        torch.autograd.backward(learned(content, None).loss)
    now = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


@pytest.mark.parametrize("settings", KINDS)
@pytest.mark.parametrize("is_bf16", [False, True])
def test_peak_memory_does_not_grow_with_the_logits_of_a_window(settings: dict[str, object], is_bf16: bool) -> None:
    """Four times the window is 48 MB more of logits in each of the forms that plain cross entropy keeps."""
    short, long = (_peak_bytes(settings, window, is_bf16) for window in (125, 500))
    logits_bytes = 4 * LANES * 375 * VOCABULARY
    assert short > 0
    assert long - short < logits_bytes / 20
