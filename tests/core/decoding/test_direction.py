"""Backward models: their results on a text are those of a forward model on the reversed text."""

import dataclasses
from typing import Any

import pytest

from core import errors
from core.config import inference_settings
from core.decoding.generation import generator
from core.decoding.lines import results
from core.decoding.scoring import scorer
from core.models import bundle as bundles
from tests.core.decoding import samples

LINES = ["the cat", "", "a dog sees a dog", "cat", "sees the xylophone", "t"]


def _backward(made: bundles.Bundle) -> bundles.Bundle:
    """Returns the same weights as a model that reads backward."""
    return dataclasses.replace(made, config=made.config.model_copy(update={"direction": "backward"}))


def _scorer(made: bundles.Bundle) -> scorer.Scorer:
    return scorer.Scorer(made, inference_settings.ScoringConfig(tokens=True), samples.FP32)


def _in_text_order(twin: results.Score) -> results.Score:
    return dataclasses.replace(twin, tokens=(twin.tokens or ())[::-1])


@pytest.mark.parametrize("line_end", ["eos", "none"])
def test_a_line_is_scored_as_its_reverse_by_a_forward_model(line_end: str) -> None:
    made = samples.language_model(line_end=line_end)
    scores = _scorer(_backward(made)).score_lines(LINES)
    twins = _scorer(made).score_lines([line[::-1] for line in LINES])
    assert scores == [_in_text_order(twin) for twin in twins]
    text = [token.text for token in scores[0].tokens or ()]
    assert text == (["<eos>", *"the cat"] if line_end == "eos" else [*"the ca"]), "in the order of the text"


@pytest.mark.parametrize("line_end", ["eos", "none", "space"])
@pytest.mark.parametrize("boundaries", [[], [1], [2, 2, 5]])
def test_a_stream_is_read_from_its_last_line_however_it_is_divided(line_end: str, boundaries: list[int]) -> None:
    made = samples.language_model(line_end=line_end)
    ready, twin = _scorer(_backward(made)), _scorer(made)
    scores: list[results.Score] = []
    state = ready.initial_stream_state()
    for start, stop in reversed(list(zip([0, *boundaries], [*boundaries, len(LINES)], strict=True))):
        rows, state = ready.score_stream(LINES[start:stop], state)
        scores = rows + scores
    separator = " " if line_end == "space" else ""
    plain = dataclasses.replace(made, line_end="none") if separator else made
    expected, _ = _scorer(plain).score_stream(
        [(line + separator)[::-1] for line in LINES[::-1]], twin.initial_stream_state()
    )
    close = [pytest.approx(row.nll_nats, abs=1e-4) for row in expected[::-1]]
    assert [row.nll_nats for row in scores] == close
    assert [row.num_tokens for row in scores] == [row.num_tokens for row in expected[::-1]]


def _generator(made: bundles.Bundle, **settings: Any) -> generator.Generator:
    generation = inference_settings.GenerationConfig(**{"method": "greedy", "num_tokens": 12, **settings})
    return generator.Generator(made, generation, samples.FP32, 1)


@pytest.mark.parametrize("line_end", ["eos", "none"])
@pytest.mark.parametrize("method", ["greedy", "sample"])
def test_backward_generation_is_forward_generation_of_the_reversed_text(line_end: str, method: Any) -> None:
    made = samples.language_model(line_end=line_end)
    text = _generator(_backward(made), method=method).generate("a dog")
    assert text == _generator(made, method=method).generate("god a")[::-1].replace(">knu<", "<unk>")
    assert text.endswith("a dog")
    assert len(text.replace("<unk>", "?")) == len("a dog") + 12


def test_backward_generation_returns_words_in_text_order() -> None:
    made = samples.silence(samples.language_model("word", "eos"))
    samples.output(made).bias.data[made.codecs["text"].tokenizer.encode("dog")[0]] = 9.0
    assert _generator(_backward(made)).generate("the zebra") == "dog " * 12 + "the zebra"


def test_an_empty_ending_is_refused_with_the_name_of_the_option() -> None:
    with pytest.raises(errors.UsageError, match="--ending"):
        _generator(_backward(samples.language_model(line_end="none"))).generate("")
