"""N-gram models of small streams, for tests."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from core.config import ngram_settings
from core.data import ngram_counts
from core.models.ngram import smoothing


def estimate(stream: Sequence[int], size: int, order: int, how: str, **settings: Any) -> smoothing.Estimate:
    """Counts a stream whole and makes its model."""
    config = ngram_settings.NgramConfig(kind="ngram", order=order, smoothing=how, **settings)  # type: ignore[arg-type]
    counts = ngram_counts.count(np.array(stream), 0, len(stream), order, size)
    beginning = torch.tensor([*stream[:order], *[size] * order][:order])
    return smoothing.estimate(
        config, size, torch.from_numpy(counts.ngrams_RN), torch.from_numpy(counts.counts_R), beginning
    )
