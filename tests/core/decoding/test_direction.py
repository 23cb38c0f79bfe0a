"""Laws of models that read backward: what they say of a text is what forward models say of the reversed text."""

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
    """The same weights, taken to read backward."""
    return dataclasses.replace(made, config=made.config.model_copy(update={"direction": "backward"}))


def _scorer(made: bundles.Bundle) -> scorer.Scorer:
    return scorer.Scorer(made, inference_settings.ScoringConfig(tokens=True), samples.FP32)


def _in_text_order(twin: results.Score) -> results.Score:
    return dataclasses.replace(twin, tokens=(twin.tokens or ())[::-1])


@pytest.mark.parametrize("line_end", ["eos", "none"])
def test_a_line_is_scored_as_its_reverse_by_a_forward_model(line_end: str) -> None:
    made = samples.language_model(line_end=line_end)
    found = _scorer(_backward(made)).score_lines(LINES)
    twins = _scorer(made).score_lines([line[::-1] for line in LINES])
    assert found == [_in_text_order(twin) for twin in twins]
    text = [token.text for token in found[0].tokens or ()]
    assert text == (["<eos>", *"the cat"] if line_end == "eos" else [*"the ca"]), "in the order of the text"


@pytest.mark.parametrize("line_end", ["eos", "none", "space"])
@pytest.mark.parametrize("cuts", [[], [1], [2, 2, 5]])
def test_a_stream_is_read_from_its_last_line_whatever_it_is_cut_into(line_end: str, cuts: list[int]) -> None:
    made = samples.language_model(line_end=line_end)
    ready, twin = _scorer(_backward(made)), _scorer(made)
    found: list[results.Score] = []
    carried = ready.stream_start()
    for start, stop in reversed(list(zip([0, *cuts], [*cuts, len(LINES)], strict=True))):
        rows, carried = ready.score_stream(LINES[start:stop], carried)
        found = rows + found
    joint = " " if line_end == "space" else ""
    plain = dataclasses.replace(made, line_end="none") if joint else made
    expected, _ = _scorer(plain).score_stream([(line + joint)[::-1] for line in LINES[::-1]], twin.stream_start())
    close = [pytest.approx(row.nll_nats, abs=1e-4) for row in expected[::-1]]
    assert [row.nll_nats for row in found] == close
    assert [row.num_tokens for row in found] == [row.num_tokens for row in expected[::-1]]


def _generator(made: bundles.Bundle, **settings: Any) -> generator.Generator:
    return generator.Generator(made, inference_settings.DecodingConfig(num_tokens=12, **settings), samples.FP32, 1)


@pytest.mark.parametrize("line_end", ["eos", "none"])
@pytest.mark.parametrize("method", ["greedy", "sample"])
def test_what_stands_before_an_ending_is_what_follows_its_reverse(line_end: str, method: Any) -> None:
    made = samples.language_model(line_end=line_end)
    found = _generator(_backward(made), method=method).generate("a dog")
    assert found == _generator(made, method=method).generate("god a")[::-1].replace(">knu<", "<unk>")
    assert found.endswith("a dog")
    assert len(found.replace("<unk>", "?")) == len("a dog") + 12


def test_words_before_an_ending_stand_in_reading_order() -> None:
    made = samples.silence(samples.language_model("word", "eos"))
    samples.output(made).bias.data[made.codecs["text"].tokenizer.encode("dog")[0]] = 9.0
    assert _generator(_backward(made)).generate("the zebra") == "dog " * 12 + "the zebra"


def test_nothing_to_end_with_is_refused_by_its_name() -> None:
    with pytest.raises(errors.UsageError, match="--ending"):
        _generator(_backward(samples.language_model(line_end="none"))).generate("")
