"""Scoring: correct values, independent of batches and of the division of a stream."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from core import errors
from core.config import inference_settings
from core.data.tokens import vocabulary
from core.decoding.scoring import scorer
from core.decoding.scoring import stream as streams
from core.models import bundle, language_model
from tests.core.decoding import samples
from tests.core.models import counted

LINES = ["the cat", "", "a dog sees a dog", "cat", "sees the xylophone", "t"]


def _scorer(made: Any = None, **settings: Any) -> scorer.Scorer:
    return scorer.Scorer(made or samples.language_model(), inference_settings.ScoringConfig(**settings), samples.FP32)


def _by_hand(made: Any, stream: list[int]) -> list[float]:
    """Returns the scores of all tokens but the first, with one forward call for each."""
    nlls, state = [], made.model.initial_state(1)
    with torch.inference_mode():
        for token, target in itertools.pairwise(stream):
            features_BTF, state = made.model(torch.tensor([[token]]), state)
            nlls.append(-float(made.model.logits(features_BTF)[0, 0].double().log_softmax(0)[target]))
    return nlls


@pytest.mark.parametrize("kind", ["char", "word"])
@pytest.mark.parametrize("line_end", ["eos", "none", "space"])
def test_the_perplexity_of_a_uniform_model_is_the_vocabulary_size(kind: Any, line_end: str) -> None:
    made = samples.silence(samples.language_model(kind, line_end))
    ready = _scorer(made)
    streamed, _ = ready.score_stream(LINES, ready.initial_stream_state())
    for rows in (ready.score_lines(LINES), streamed):
        nll, tokens = math.fsum(row.nll_nats or 0.0 for row in rows), sum(row.num_tokens for row in rows)
        assert tokens > 0
        assert math.exp(nll / tokens) == pytest.approx(made.codecs["text"].tokenizer.vocabulary_size, rel=1e-6)


def test_the_perplexity_of_a_uniform_seq2seq_is_the_vocabulary_size() -> None:
    made = samples.silence(samples.seq2seq())
    targets = ["tac eht", "god", "a"]
    rows = _scorer(made).score_pairs(["the cat", "dog", "a"], targets)
    assert [row.num_tokens for row in rows] == [3, 2, 2]
    vocabulary_size = made.codecs["target"].tokenizer.vocabulary_size
    assert [row.nll_nats for row in rows] == pytest.approx([n * math.log(vocabulary_size) for n in (3, 2, 2)], rel=1e-6)


@pytest.mark.parametrize("line_end", ["eos", "none"])
def test_each_line_is_scored_alone(line_end: str) -> None:
    made = samples.language_model(line_end=line_end)
    tokenizer = made.codecs["text"].tokenizer
    for row, line in zip(_scorer(made, tokens=True).score_lines(LINES), LINES, strict=True):
        ids = tokenizer.encode(line)
        stream = ids if tokenizer.eos_id is None else [tokenizer.eos_id, *ids, tokenizer.eos_id]
        expected = _by_hand(made, stream)
        assert row.num_tokens == len(expected)
        assert row.nll_nats == pytest.approx(sum(expected), abs=1e-4)
        assert [token.nll_nats for token in row.tokens or ()] == pytest.approx(expected, abs=1e-4)
        assert [token.text for token in row.tokens or ()] == [tokenizer.token(token_id) for token_id in stream[1:]]


@pytest.mark.parametrize("batch_tokens", [1, 7, 40, 4096])
def test_scores_do_not_depend_on_the_batch_size(batch_tokens: int) -> None:
    made = samples.language_model()
    expected = [row.nll_nats for row in _scorer(made).score_lines(LINES)]
    scores = _scorer(made, batch_tokens=batch_tokens).score_lines(LINES)
    assert [row.nll_nats for row in scores] == pytest.approx(expected, abs=1e-4)
    pairs = samples.seq2seq()
    lines, targets = samples.sentences(12), ["tac eht", "", "god a tac"] * 4
    expected = [row.nll_nats for row in _scorer(pairs).score_pairs(lines, targets)]
    scores = _scorer(pairs, batch_tokens=batch_tokens).score_pairs(lines, targets)
    assert [row.nll_nats for row in scores] == pytest.approx(expected, abs=1e-4)


def test_batch_tokens_count_padding() -> None:
    sizes = [9, 5, 5, 1, 1, 1]
    assert [list(batch) for batch in scorer._batches(range(6), sizes, max_tokens=10)] == [[0], [1, 2], [3, 4, 5]]


@pytest.mark.parametrize("model", [{}, samples.FEEDFORWARD])
@pytest.mark.parametrize("line_end", ["eos", "none", "space"])
@pytest.mark.parametrize("boundaries", [[], [1], [2, 2, 5]])
def test_stream_scores_do_not_depend_on_the_division_into_parts(
    line_end: str, boundaries: list[int], model: dict[str, Any]
) -> None:
    made = samples.language_model(line_end=line_end, **model)
    ready = _scorer(made, batch_tokens=5)
    tokenizer = made.codecs["text"].tokenizer
    eos = tokenizer.eos_id or 0
    end = {"eos": [eos], "none": [], "space": tokenizer.encode(" ")}[line_end]
    stream = [token for line in LINES for token in [*tokenizer.encode(line), *end]]
    expected = _by_hand(made, [eos, *stream] if line_end == "eos" else stream)
    rows, state = [], ready.initial_stream_state()
    for start, stop in zip([0, *boundaries], [*boundaries, len(LINES)], strict=True):
        part_rows, state = ready.score_stream(LINES[start:stop], state)
        state = streams.StreamState.from_bytes(state.to_bytes(), "here")
        rows += part_rows
    assert len(rows) == len(LINES)
    assert sum(row.num_tokens for row in rows) == len(expected)
    assert math.fsum(row.nll_nats or 0.0 for row in rows) == pytest.approx(sum(expected), abs=1e-4)
    if line_end == "eos":
        bounds = np.cumsum([0, *(len(tokenizer.encode(line)) + 1 for line in LINES)])
        by_line = [sum(expected[a:b]) for a, b in itertools.pairwise(bounds)]
        assert [row.nll_nats for row in rows] == pytest.approx(by_line, abs=1e-4)


def test_tokens_ranked_first_are_counted() -> None:
    made = samples.language_model()
    assert isinstance(made.model, language_model.LanguageModel)
    tokenizer = made.codecs["text"].tokenizer
    for row, line in zip(_scorer(made).score_lines(LINES), LINES, strict=True):
        stream = [tokenizer.eos_id or 0, *tokenizer.encode(line), tokenizer.eos_id or 0]
        with torch.inference_mode():
            features_BTF, _ = made.model(torch.tensor([stream[:-1]]), made.model.initial_state(1))
            predicted = made.model.logits(features_BTF)[0].argmax(1).tolist()
        assert row.num_correct == sum(first == token for first, token in zip(predicted, stream[1:], strict=True))


def test_adaptive_softmax_scores_are_exact() -> None:
    made = samples.language_model(adaptive_cutoffs=(4, 8))
    tokenizer = made.codecs["text"].tokenizer
    for row, line in zip(_scorer(made).score_lines(LINES), LINES, strict=True):
        expected = _by_hand(made, [tokenizer.eos_id or 0, *tokenizer.encode(line), tokenizer.eos_id or 0])
        assert row.nll_nats == pytest.approx(sum(expected), abs=1e-4)


def test_ngram_scores_by_hand_and_lines_with_impossible_tokens_are_infinite() -> None:
    """From `a b`, `a c`, `a b`: P(b | a) = 2/3, P(c | a) = 1/3; bigrams that were not seen have probability 0."""
    codec = samples.codec("word", "a b c", vocabulary.reserved_for("text", "eos"))
    eos, size = codec.tokenizer.eos_id or 0, codec.tokenizer.vocabulary_size
    stream = [eos, *(token for line in ("a b", "a c", "a b") for token in [*codec.tokenizer.encode(line), eos])]
    model = counted.estimate(stream, size, 2, "laplace", epsilons=(0.0,)).model
    made = bundle.Bundle(model, model.config, {"text": codec}, "eos", "fp32")
    rows = _scorer(made, tokens=True).score_lines(["a b", "a c", "b a", "a zebra"])
    assert [row.nll_nats for row in rows] == pytest.approx([math.log(1.5), math.log(3), math.inf, math.inf])
    assert [row.num_infinite for row in rows] == [0, 0, 3, 1]
    assert [row.num_unk for row in rows] == [0, 0, 0, 1]
    assert [row.num_correct for row in rows[:2]] == [3, 2], "b is ranked first after a, and everything else is certain"
    assert [token.nll_nats for token in rows[1].tokens or ()] == pytest.approx([0, math.log(3), 0])


@pytest.mark.parametrize("at_once", [1, 3, 1 << 18])
@pytest.mark.parametrize("unit", ["stream", "line"])
def test_ngram_scores_depend_neither_on_parts_nor_on_slices(
    unit: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = samples.codec("word", "a b c", vocabulary.reserved_for("text", "eos"))
    eos, size = codec.tokenizer.eos_id or 0, codec.tokenizer.vocabulary_size
    lines = ["a b c", "", "b", "c c b a zebra", "a b c a"]
    rows = codec.encode_lines(lines)
    if unit == "line":
        model = counted.estimate_lines(rows, size, 4, "kneser_ney", eos).model
    else:
        model = counted.estimate([token for row in rows for token in (*row, eos)], size, 4, "kneser_ney").model
    made = bundle.Bundle(model, model.config, {"text": codec}, "eos", "fp32")
    by_hand = [counted.nlls(model, [eos, *row, eos]) for row in rows]
    stream = counted.nlls(model, [eos, *(token for row in rows for token in (*row, eos))])
    monkeypatch.setattr(streams, "_TOKENS_AT_ONCE", at_once)
    scored = _scorer(made).score_lines(lines)
    assert [row.nll_nats for row in scored] == pytest.approx([float(nlls.sum()) for nlls in by_hand])
    scored, state = [], _scorer(made).initial_stream_state()
    for part in (lines[:1], lines[1:2], lines[2:]):
        part_scores, state = _scorer(made).score_stream(part, streams.StreamState.from_bytes(state.to_bytes(), "here"))
        scored += part_scores
    ends = np.cumsum([len(row) + 1 for row in rows])
    assert np.cumsum([row.nll_nats for row in scored]) == pytest.approx(stream.cumsum(0)[ends - 1].numpy())


def test_unknown_tokens_are_counted_and_scored() -> None:
    row = _scorer().score_lines(["the xy dog"])[0]
    assert (row.num_unk, row.num_tokens) == (2, 11)


@pytest.mark.parametrize(
    ("kind", "line_end", "direction", "alone", "stream"),
    [
        ("char", "eos", "forward", [8, 5, 1], [8, 5, 1]),
        ("char", "none", "forward", [6, 3, 0], [6, 4, 0]),
        ("word", "eos", "forward", [8, 5, 1], [8, 5, 1]),
        ("word", "none", "forward", [4, 0, 0], [4, 4, 0]),
        ("word", "none", "backward", [4, 0, 0], [7, 0, 0]),
        ("word", "space", "forward", [4, 0, 0], [5, 5, 0]),
    ],
)
def test_num_characters_counts_scored_characters(
    kind: Any, line_end: str, direction: Any, alone: list[int], stream: list[int]
) -> None:
    """An `<eos>` counts as one character; without `<eos>` the first token is not scored."""
    ready = _scorer(samples.language_model(kind, line_end, direction=direction))
    lines = ["the dog", "kiwi", ""]
    assert [row.num_characters for row in ready.score_lines(lines)] == alone
    assert [row.num_characters for row in ready.score_stream(lines, ready.initial_stream_state())[0]] == stream


def test_the_wrong_kind_of_model_is_refused() -> None:
    with pytest.raises(errors.UsageError, match="--targets"):
        _scorer(samples.seq2seq()).score_lines(["a"])
    with pytest.raises(errors.UsageError, match="need a seq2seq"):
        _scorer().score_pairs(["a"], ["b"])


def test_bytes_that_are_no_stream_state_are_refused() -> None:
    with pytest.raises(errors.IntegrityError):
        streams.StreamState.from_bytes(b"no stream state", "here")
