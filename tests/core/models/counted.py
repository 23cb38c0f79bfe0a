"""N-gram models of small streams and lines, for tests."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.config import ngram_settings
from core.data import ngram_counts
from core.models.ngram import ngram_model, smoothing


def estimate(stream: Sequence[int], size: int, order: int, how: str, **settings: Any) -> smoothing.Estimate:
    """Counts a stream whole and makes its model."""
    config = ngram_settings.NgramConfig(kind="ngram", order=order, smoothing=how, **settings)  # type: ignore[arg-type]
    counts = ngram_counts.count(np.array(stream), 0, len(stream), order, size)
    beginning = tuple([*stream[:order], *[size] * order][:order])
    return estimate_of(config, size, counts, beginning)


def estimate_lines(
    lines: Sequence[Sequence[int]], size: int, order: int, how: str, line_end: int, **settings: Any
) -> smoothing.Estimate:
    """Counts lines, without their line ends, and makes the model whose unit is the line."""
    config = ngram_settings.NgramConfig(kind="ngram", order=order, smoothing=how, unit="line", **settings)  # type: ignore[arg-type]
    stream = ngram_counts.WholeLines(stream_of(lines, line_end), line_end, backward=False)
    counts = ngram_counts.count_lines(stream, 0, len(stream), order, size, line_end)
    return estimate_of(config, size, counts, (0,) * order, line_end)


def estimate_of(
    config: ngram_settings.NgramConfig,
    size: int,
    counts: ngram_counts.Counts,
    beginning: tuple[int, ...],
    line_end: int | None = None,
) -> smoothing.Estimate:
    """Makes the model of counts that are in memory, a few n-grams at a time."""
    num_rows = len(counts.counts_R)
    blocks = (
        ngram_counts.Counts(counts.ngrams_RN[start : start + 50], counts.counts_R[start : start + 50])
        for start in range(0, num_rows, 50)
    )
    with tempfile.TemporaryDirectory() as folder:
        return smoothing.estimate(config, size, blocks, beginning, Path(folder), line_end)


def stream_of(lines: Sequence[Sequence[int]], line_end: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Returns the stream of lines, with a line end after each."""
    return np.array([token for line in lines for token in (*line, line_end)], dtype=np.int64)


def nlls(model: ngram_model.Ngram, tokens: Sequence[int]) -> Tensor:
    """Returns the scores of all tokens but the first, each given those before it."""
    tokens_L = torch.tensor(tokens)
    return model.score(tokens_L, model.look_up(tokens_L))[1:]


def predictions(model: ngram_model.Ngram, tokens: Sequence[int]) -> list[int]:
    """Returns the most likely token after each token."""
    # What follows the last token has no influence on its prediction.
    tokens_L = torch.tensor([*tokens, 0])
    return model.predict(tokens_L, model.look_up(tokens_L), model.followers())[1:].tolist()
