"""Laws of drawing translations."""

import math

import numpy as np
import pytest
import torch

from core.config import inference_settings
from core.decoding.translation import sampled_search
from tests.core.decoding.translation import test_beam_search

SPECIAL = test_beam_search.SPECIAL


def _draw(
    table: test_beam_search.Table, lines: list[int], names: list[str], num_best: int = 3, **settings: object
) -> list[list[tuple[tuple[int, ...], float]]]:
    decoding = inference_settings.DecodingConfig.model_validate(
        {"max_length": 7, "beam_size": max(5, num_best), "num_best": num_best, "method": "sample", **settings}
        | ({"batch_rows": num_best} if num_best > 256 else {})
    )
    chances = np.array([[sampled_search.chances(3, name, draw, 7) for draw in range(num_best)] for name in names])
    found = sampled_search.draw(table, test_beam_search.Lines(torch.tensor(lines)), chances, decoding, SPECIAL)
    return [[(one.tokens, one.score_nats) for one in line] for line in found]


def test_draws_do_not_depend_on_the_batch_nor_on_how_many_are_asked_for() -> None:
    table = test_beam_search.Table(num_lines=8, vocabulary_size=9)
    names = [f"line {number}" for number in range(8)]
    together = _draw(table, list(range(8)), names)
    assert together == [_draw(table, [line], [names[line]])[0] for line in range(8)]
    assert _draw(table, list(range(8)), names, num_best=1) == [line[:1] for line in together]
    assert len({tokens for line in together for tokens, _ in line}) > 12


def test_scores_are_those_of_the_model_whatever_the_temperature() -> None:
    table = test_beam_search.Table(num_lines=8, vocabulary_size=9)
    for line, drawn in enumerate(_draw(table, list(range(8)), list("abcdefgh"), temperature=2.0, top_k=4)):
        for tokens, score in drawn:
            assert tokens[-1] == SPECIAL.eos
            assert score == pytest.approx(table.forced(line, tokens), abs=1e-4)


def test_first_tokens_follow_the_probabilities() -> None:
    table = test_beam_search.Table(num_lines=1, vocabulary_size=7)
    table.logits[0, 0, SPECIAL.bos] = torch.tensor([0.5, 0.0, 0.0, 0.2, 0.2, 0.1, 0.0]).log()
    (drawn,) = _draw(table, [0], ["x"], num_best=250)
    shares = np.bincount([tokens[0] for tokens, _ in drawn], minlength=7) / 250
    assert shares.tolist() == pytest.approx([0.5, 0, 0, 0.2, 0.2, 0.1, 0], abs=0.08)


def test_only_the_likeliest_left_is_greedy() -> None:
    table = test_beam_search.Table(num_lines=8, vocabulary_size=9)
    drawn = _draw(table, list(range(8)), list("abcdefgh"), num_best=1, top_k=1)
    greedy = test_beam_search._find(table, list(range(8)), beam_size=1, max_length=7)
    assert [line[0][0] for line in drawn] == [line[0].tokens for line in greedy]


def test_chances_are_a_function_of_seed_line_and_draw() -> None:
    assert sampled_search.chances(1, "a", 0, 4).tolist() == sampled_search.chances(1, "a", 0, 9)[:4].tolist()
    others = [sampled_search.chances(*what, 4).tolist() for what in ((1, "a", 1), (2, "a", 0), (1, "b", 0))]
    assert sampled_search.chances(1, "a", 0, 4).tolist() not in others


def test_numbers_that_are_not_finite_give_no_draw() -> None:
    table = test_beam_search.Table(num_lines=2, vocabulary_size=9)
    table.logits[0] = math.nan
    assert [len(line) for line in _draw(table, [0, 1], ["a", "b"])] == [0, 3]
