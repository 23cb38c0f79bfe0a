"""Laws of what changes a search: penalties, blocked repetitions, given beginnings."""

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


class Looking(test_beam_search.Table):
    """A table whose attention is drawn for each token: what has been paid differs between hypotheses."""

    def step(self, tokens_B: torch.Tensor, memory: test_beam_search.Lines, state: states.State) -> decoders.Predicted:
        attention_VS = torch.randn(self.size, 5, generator=torch.Generator().manual_seed(2)).mul(2).softmax(1)
        return super().step(tokens_B, memory, state)._replace(attention_RS=attention_VS[tokens_B])

    def paid(self, tokens: tuple[int, ...]) -> torch.Tensor:
        attention_VS = torch.randn(self.size, 5, generator=torch.Generator().manual_seed(2)).mul(2).softmax(1)
        return attention_VS[[SPECIAL.bos, *tokens[:-1]]].double().sum(0)


def _find(
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
def test_each_option_keeps_the_laws_of_the_search(options: dict[str, Any]) -> None:
    table = Looking(num_lines=12, vocabulary_size=9, spread=3.0)
    together = _find(table, LINES, num_best=4, **options)
    assert together == [_find(table, [line], num_best=4, **options)[0] for line in LINES]
    assert _find(table, LINES, num_best=1, **options) == [found[:1] for found in together]
    for line, found in enumerate(together):
        for hypothesis in found:
            assert hypothesis.score_nats == pytest.approx(table.forced(line, hypothesis.tokens), abs=1e-4)


def test_no_n_tokens_occur_twice() -> None:
    table = Looking(num_lines=12, vocabulary_size=7, spread=4.0)
    for n in (1, 2, 3):
        for found in _find(table, LINES, num_best=4, no_repeat_ngram=n):
            for tokens in (hypothesis.tokens for hypothesis in found):
                grams = [tokens[start : start + n] for start in range(len(tokens) - n + 1)]
                assert len(grams) == len(set(grams))
    plain = [found[0].tokens for found in _find(table, LINES)]
    assert plain != [found[0].tokens for found in _find(table, LINES, no_repeat_ngram=2)]


def test_coverage_ranks_by_the_formula() -> None:
    """Every hypothesis of a beam as wide as the tree, ranked as Wu et al. write it down."""
    table = Looking(num_lines=3, vocabulary_size=6)
    settings: dict[str, Any] = {
        "beam_size": 60,
        "num_best": 60,
        "max_length": 4,
        "length_penalty": 0.8,
        "coverage_penalty": 0.5,
    }
    for found in _find(table, [0, 1, 2], **settings):
        values = [
            one.score_nats / len(one.tokens) ** 0.8 + 0.5 * float(table.paid(one.tokens).clamp(max=1.0).log().sum())
            for one in found
        ]
        assert len(values) == 40  # 3^0 + … + 3^3
        assert values == sorted(values, reverse=True)


def test_repeated_tokens_count_for_more() -> None:
    """After a: a 0.6, b 0.4. With a penalty of 2 a second a competes with 0.36 and loses; scores are not changed."""
    table = test_beam_search.Table(num_lines=1, vocabulary_size=6)
    a, b = 4, 5
    table.logits[:] = -40.0
    table.logits[0, 0, SPECIAL.bos, a] = 0.0
    table.logits[0, :, a, [a, b]] = torch.tensor([0.6, 0.4]).log()
    table.logits[0, a, b, SPECIAL.eos] = 0.0
    table.logits[0, a, a, [a, b]] = torch.tensor([0.6, 0.4]).log()
    (found,) = _find(table, [0], beam_size=1, repetition_penalty=2.0, max_length=4)
    assert found[0].tokens == (a, b, SPECIAL.eos)
    assert found[0].score_nats == pytest.approx(math.log(0.4), abs=1e-5)
    assert _find(table, [0], beam_size=1, max_length=4)[0][0].tokens[:2] == (a, a)


@pytest.mark.parametrize("beam_size", [1, 4])
def test_a_translation_begins_as_it_is_told_and_its_score_is_forced(beam_size: int) -> None:
    table = test_beam_search.Table(num_lines=12, vocabulary_size=9)
    prefixes = [[4, 5, 4, 5], [], [8], [0, 7]] * 3
    found = _find(table, LINES, prefixes, beam_size=beam_size, num_best=beam_size, no_repeat_ngram=2)
    for line, (hypotheses, prefix) in enumerate(zip(found, prefixes, strict=True)):
        assert (
            hypotheses == _find(table, [line], [prefix], beam_size=beam_size, num_best=beam_size, no_repeat_ngram=2)[0]
        )
        for one in hypotheses:
            assert list(one.tokens[: len(prefix)]) == prefix
            assert one.score_nats == pytest.approx(table.forced(line, one.tokens), abs=1e-4)


def test_a_beginning_that_the_search_would_take_anyway_changes_nothing() -> None:
    table = test_beam_search.Table(num_lines=12, vocabulary_size=9)
    free = _find(table, LINES, beam_size=1)
    begun = _find(
        table, LINES, [list(found[0].tokens[:2]) if len(found[0].tokens) > 2 else [] for found in free], beam_size=1
    )
    assert begun == free


@pytest.mark.parametrize("size", [10, 4096, 5000, 10_001])
def test_the_likeliest_are_found_in_blocks_as_in_the_whole(size: int) -> None:
    values_RV = torch.randn(7, size, generator=torch.Generator().manual_seed(1))
    values_RV[3, size // 2 :] = -torch.inf
    values_RV[4, -3:] = torch.tensor([50.0, 60.0, 55.0])
    expected = values_RV.topk(5, 1)
    values_RK, ids_RK = beam_search.likeliest(values_RV, 5)
    assert torch.equal(values_RK, expected.values)
    assert torch.equal(ids_RK, expected.indices)


def test_rows_without_history_are_not_blocked() -> None:
    said = decoders.Predicted(torch.zeros(2, 6), torch.zeros(2, 1), (), None)
    settings = inference_settings.DecodingConfig(no_repeat_ngram=3)
    values_RV = constraints.apply(said, 1, None, torch.zeros(2, 0, dtype=torch.int64), settings, SPECIAL)
    assert values_RV.isfinite().sum(1).tolist() == [4, 4]
