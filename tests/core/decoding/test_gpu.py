"""Translation and scoring on a GPU: the lines and scores of the CPU, and each line as if it were alone.

`RAYCURRENT_TEST_DEVICE=cpu pytest -m gpu` runs them on a CPU.
"""

import os
from typing import Any

import pytest
import torch

from core.config import inference_settings
from core.decoding.scoring import scorer
from core.decoding.translation import translator
from core.models import bundle
from tests.core.decoding import samples

DEVICE = os.environ.get("RAYCURRENT_TEST_DEVICE", "cuda")
HAS_DEVICE = DEVICE == "cpu" or torch.cuda.is_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not HAS_DEVICE, reason="there is no GPU")]

LINES = samples.sentences(40)
MODELS: dict[str, dict[str, Any]] = {
    "additive attention": {"num_layers": 2, "context": "input"},
    "input feeding": {"cell": "lstm", "attention": "dot", "context": "feed", "bidirectional": True},
    "no attention": {"attention": "none"},
}


def _translated(made: bundle.Bundle, lines: list[str], device: str, method: str = "beam") -> list[tuple[str, float]]:
    decoding = inference_settings.DecodingConfig(beam_size=1 if method == "greedy" else 4, max_length=12)
    rows = translator.Translator(made, decoding, samples.FP32, device).translate(lines)
    return [(row.text, row.score_nats or 0.0) for row in rows]


@pytest.mark.parametrize("method", ["greedy", "beam"])
@pytest.mark.parametrize("name", MODELS)
def test_translations_are_those_of_the_cpu(name: str, method: str) -> None:
    expected = _translated(samples.seq2seq(**MODELS[name]), LINES, "cpu", method)
    rows = _translated(samples.seq2seq(**MODELS[name]), LINES, DEVICE, method)
    assert [text for text, _ in rows] == [text for text, _ in expected]
    assert [score for _, score in rows] == pytest.approx([score for _, score in expected], rel=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_a_translation_does_not_depend_on_its_batch(name: str) -> None:
    made = samples.seq2seq(**MODELS[name])
    together = _translated(made, LINES, DEVICE)
    alone = [row for line in LINES for row in _translated(made, [line], DEVICE)]
    assert [text for text, _ in together] == [text for text, _ in alone]
    assert [score for _, score in together] == pytest.approx([score for _, score in alone], rel=1e-4)


@pytest.mark.parametrize("kind", ["char", "word"])
def test_scores_are_those_of_the_cpu(kind: str) -> None:
    def scores(device: str) -> list[float]:
        made = samples.language_model("word" if kind == "word" else "char", text=" ".join(samples.WORDS))
        ready = scorer.Scorer(made, inference_settings.ScoringConfig(), samples.FP32, device)
        return [row.nll_nats or 0.0 for row in ready.score_lines(LINES)]

    assert scores(DEVICE) == pytest.approx(scores("cpu"), rel=1e-4)
