"""Stream scoring with a small language model, for tests."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from core.config import inference_settings
from core.decoding.lines import results
from core.decoding.scoring import scorer
from core.decoding.scoring import stream as streams
from tests.core.decoding import samples

LINES = ["the cat", "", "a dog sees a dog", "cat", "sees the xylophone", "t"]


def score(
    lines: Sequence[str] = LINES,
    state: streams.StreamState | None = None,
    training_text: np.ndarray[Any, Any] | None = None,
    bundle: Any = None,
    model: Mapping[str, Any] | None = None,
    **settings: Any,
) -> tuple[list[results.Score], streams.StreamState]:
    """Scores lines with a newly built model, as another process would."""
    config = inference_settings.ScoringConfig(unit="stream", **_sections(settings))
    made = bundle or samples.language_model(**(model or {}))
    ready = scorer.Scorer(made, config, samples.FP32, training_text=training_text)
    return ready.score_stream(lines, ready.initial_stream_state() if state is None else state)


def nats(rows: Sequence[results.Score]) -> float:
    """Returns the total negative log-likelihood."""
    return math.fsum(row.nll_nats or 0.0 for row in rows)


def _sections(settings: dict[str, Any]) -> dict[str, Any]:
    kinds = {"cache": inference_settings.CacheConfig, "dynamic": inference_settings.DynamicConfig}
    return {name: kinds[name](**value) if name in kinds else value for name, value in settings.items()}
