"""Constraints of beam search: penalties, n-gram blocking, forced prefixes."""

import math
from typing import Any

import pytest
import torch

from core.config import inference_settings
from core.decoding.translation import beam_search, constraints, decoders
from core.models import state as states
from tests.core.decoding.translation import test_beam_search

SPECIAL = test_beam_search.SPECIAL
LINES = list(range(12))


class AttendingTable(test_beam_search.Table):
    """Table with random attention for each token, so that coverage differs between hypotheses."""

    def step(self, tokens_B: torch.Tensor, memory: test_beam_search.Lines, state: states.State) -> decoders.Predictions:
        attention_VS = torch.randn(self.size, 5, generator=torch.Generator().manual_seed(2)).mul(2).softmax(1)
        return super().step(tokens_B, memory, state)._replace(attention_RS=attention_VS[tokens_B])

    def coverage(self, tokens: tuple[int, ...]) -> torch.Tensor:
        attention_VS = torch.randn(self.size, 5, generator=torch.Generator().manual_seed(2)).mul(2).softmax(1)
        return attention_VS[[SPECIAL.bos, *tokens[:-1]]].double().sum(0)


def _search(
    table: test_beam_search.Table, lines: list[int], prefixes: list[list[int]] | None = None, **settings: object
) -> list[list[beam_search.Hypothesis]]:
    decoding = inference_settings.DecodingConfig.model_validate({"max_length": 9, "beam_size": 4, **settings})
    mask_NS = torch.ones(len(lines), 5, dtype=torch.bool)
    return beam_search.beam_search(
        table, test_beam_search.Lines(torch.tensor(lines)), mask_NS, decoding, SPECIAL, prefixes
    )


OPTIONS: list[dict[str, Any]] = [
    {"coverage_penalty": 0.6},
    {"no_repeat_ngram": 2},
    {"repetition_penalty": 1.7},
    {"coverage_penalty": 0.3, "no_repeat_ngram": 1, "repetition_penalty": 1.2, "min_length": 2},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_penalties_keep_scores_and_batch_independence(options: dict[str, Any]) -> None:
    table = AttendingTable(num_lines=12, vocabulary_size=9, spread=3.0)
    together = _search(table, LINES, num_best=4, **options)
    assert together == [_search(table, [line], num_best=4, **options)[0] for line in LINES]
    assert _search(table, LINES, num_best=1, **options) == [hypotheses[:1] for hypotheses in together]
    for line, hypotheses in enumerate(together):
        for hypothesis in hypotheses:
            assert hypothesis.score_nats == pytest.approx(table.forced(line, hypothesis.tokens), abs=1e-4)


def test_no_repeat_ngram_blocks_repeated_ngrams() -> None:
    table = AttendingTable(num_lines=12, vocabulary_size=7, spread=4.0)
    for n in (1, 2, 3):
        for hypotheses in _search(table, LINES, num_best=4, no_repeat_ngram=n):
            for tokens in (hypothesis.tokens for hypothesis in hypotheses):
                grams = [tokens[start : start + n] for start in range(len(tokens) - n + 1)]
                assert len(grams) == len(set(grams))
    plain = [hypotheses[0].tokens for hypotheses in _search(table, LINES)]
    assert plain != [hypotheses[0].tokens for hypotheses in _search(table, LINES, no_repeat_ngram=2)]


def test_coverage_penalty_ranks_by_the_formula() -> None:
    """All hypotheses of an exhaustive beam are ranked by the formula of Wu et al. 2016, section 7."""
    table = AttendingTable(num_lines=3, vocabulary_size=6)
    settings: dict[str, Any] = {
        "beam_size": 60,
        "num_best": 60,
        "max_length": 4,
        "length_penalty": 0.8,
        "coverage_penalty": 0.5,
    }
    for hypotheses in _search(table, [0, 1, 2], **settings):
        values = [
            hypothesis.score_nats / len(hypothesis.tokens) ** 0.8
            + 0.5 * float(table.coverage(hypothesis.tokens).clamp(max=1.0).log().sum())
            for hypothesis in hypotheses
        ]
        assert len(values) == 40  # 3^0 + … + 3^3
        assert values == sorted(values, reverse=True)


def test_repetition_penalty_by_hand() -> None:
    """After a: a 0.6, b 0.4. With penalty 2 a second a competes with 0.6 squared and loses; the score is unchanged."""
    table = test_beam_search.Table(num_lines=1, vocabulary_size=6)
    a, b = 4, 5
    table.logits[:] = -40.0
    table.logits[0, 0, SPECIAL.bos, a] = 0.0
    table.logits[0, :, a, [a, b]] = torch.tensor([0.6, 0.4]).log()
    table.logits[0, a, b, SPECIAL.eos] = 0.0
    table.logits[0, a, a, [a, b]] = torch.tensor([0.6, 0.4]).log()
    (hypotheses,) = _search(table, [0], beam_size=1, repetition_penalty=2.0, max_length=4)
    assert hypotheses[0].tokens == (a, b, SPECIAL.eos)
    assert hypotheses[0].score_nats == pytest.approx(math.log(0.4), abs=1e-5)
    assert _search(table, [0], beam_size=1, max_length=4)[0][0].tokens[:2] == (a, a)


@pytest.mark.parametrize("beam_size", [1, 4])
def test_translations_begin_with_their_prefix_and_keep_forced_scores(beam_size: int) -> None:
    table = test_beam_search.Table(num_lines=12, vocabulary_size=9)
    prefixes = [[4, 5, 4, 5], [], [8], [0, 7]] * 3
    hypotheses_N = _search(table, LINES, prefixes, beam_size=beam_size, num_best=beam_size, no_repeat_ngram=2)
    for line, (hypotheses, prefix) in enumerate(zip(hypotheses_N, prefixes, strict=True)):
        assert (
            hypotheses
            == _search(table, [line], [prefix], beam_size=beam_size, num_best=beam_size, no_repeat_ngram=2)[0]
        )
        for hypothesis in hypotheses:
            assert list(hypothesis.tokens[: len(prefix)]) == prefix
            assert hypothesis.score_nats == pytest.approx(table.forced(line, hypothesis.tokens), abs=1e-4)


def test_a_prefix_of_the_greedy_translation_changes_nothing() -> None:
    table = test_beam_search.Table(num_lines=12, vocabulary_size=9)
    free = _search(table, LINES, beam_size=1)
    forced = _search(
        table,
        LINES,
        [list(hypotheses[0].tokens[:2]) if len(hypotheses[0].tokens) > 2 else [] for hypotheses in free],
        beam_size=1,
    )
    assert forced == free


@pytest.mark.parametrize("size", [10, 4096, 5000, 10_001])
def test_top_k_by_blocks_equals_torch_topk(size: int) -> None:
    values_RV = torch.randn(7, size, generator=torch.Generator().manual_seed(1))
    values_RV[3, size // 2 :] = -torch.inf
    values_RV[4, -3:] = torch.tensor([50.0, 60.0, 55.0])
    expected = values_RV.topk(5, 1)
    values_RK, ids_RK = beam_search.top_k(values_RV, 5)
    assert torch.equal(values_RK, expected.values)
    assert torch.equal(ids_RK, expected.indices)


def test_an_empty_history_blocks_nothing() -> None:
    predictions = decoders.Predictions(torch.zeros(2, 6), torch.zeros(2, 1), (), None)
    settings = inference_settings.DecodingConfig(no_repeat_ngram=3)
    values_RV = constraints.apply(predictions, 1, None, torch.zeros(2, 0, dtype=torch.int64), settings, SPECIAL)
    assert values_RV.isfinite().sum(1).tolist() == [4, 4]
