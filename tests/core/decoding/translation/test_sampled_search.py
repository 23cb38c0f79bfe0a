"""Sampled search."""

import math

import numpy as np
import pytest
import torch

from core.config import inference_settings
from core.decoding.translation import sampled_search
from tests.core.decoding.translation import test_beam_search

SPECIAL = test_beam_search.SPECIAL


def _sample(
    table: test_beam_search.Table, lines: list[int], names: list[str], num_best: int = 3, **settings: object
) -> list[list[tuple[tuple[int, ...], float]]]:
    decoding = inference_settings.DecodingConfig.model_validate(
        {"max_length": 7, "beam_size": max(5, num_best), "num_best": num_best, "method": "sample", **settings}
        | ({"batch_rows": num_best} if num_best > 256 else {})
    )
    uniform_NDT = np.array(
        [[sampled_search.uniform_numbers(3, name, sample, 7) for sample in range(num_best)] for name in names]
    )
    hypotheses = sampled_search.sample(
        table, test_beam_search.Lines(torch.tensor(lines)), uniform_NDT, decoding, SPECIAL
    )
    return [[(hypothesis.tokens, hypothesis.score_nats) for hypothesis in line] for line in hypotheses]


def test_samples_depend_neither_on_the_batch_nor_on_num_best() -> None:
    table = test_beam_search.Table(num_lines=8, vocabulary_size=9)
    names = [f"line {number}" for number in range(8)]
    together = _sample(table, list(range(8)), names)
    assert together == [_sample(table, [line], [names[line]])[0] for line in range(8)]
    assert _sample(table, list(range(8)), names, num_best=1) == [line[:1] for line in together]
    assert len({tokens for line in together for tokens, _ in line}) > 12


def test_scores_are_log_probabilities_at_temperature_1() -> None:
    table = test_beam_search.Table(num_lines=8, vocabulary_size=9)
    for line, samples in enumerate(_sample(table, list(range(8)), list("abcdefgh"), temperature=2.0, top_k=4)):
        for tokens, score in samples:
            assert tokens[-1] == SPECIAL.eos
            assert score == pytest.approx(table.forced(line, tokens), abs=1e-4)


def test_first_tokens_follow_the_model_distribution() -> None:
    table = test_beam_search.Table(num_lines=1, vocabulary_size=7)
    table.logits[0, 0, SPECIAL.bos] = torch.tensor([0.5, 0.0, 0.0, 0.2, 0.2, 0.1, 0.0]).log()
    (samples,) = _sample(table, [0], ["x"], num_best=250)
    shares = np.bincount([tokens[0] for tokens, _ in samples], minlength=7) / 250
    assert shares.tolist() == pytest.approx([0.5, 0, 0, 0.2, 0.2, 0.1, 0], abs=0.08)


def test_sampling_with_top_k_1_is_greedy() -> None:
    table = test_beam_search.Table(num_lines=8, vocabulary_size=9)
    samples = _sample(table, list(range(8)), list("abcdefgh"), num_best=1, top_k=1)
    greedy = test_beam_search._search(table, list(range(8)), beam_size=1, max_length=7)
    assert [line[0][0] for line in samples] == [line[0].tokens for line in greedy]


def test_uniform_numbers_depend_on_seed_line_and_sample() -> None:
    assert (
        sampled_search.uniform_numbers(1, "a", 0, 4).tolist()
        == sampled_search.uniform_numbers(1, "a", 0, 9)[:4].tolist()
    )
    others = [
        sampled_search.uniform_numbers(*arguments, 4).tolist() for arguments in ((1, "a", 1), (2, "a", 0), (1, "b", 0))
    ]
    assert sampled_search.uniform_numbers(1, "a", 0, 4).tolist() not in others


def test_a_line_with_nan_scores_has_no_samples() -> None:
    table = test_beam_search.Table(num_lines=2, vocabulary_size=9)
    table.logits[0] = math.nan
    assert [len(line) for line in _sample(table, [0, 1], ["a", "b"])] == [0, 3]
