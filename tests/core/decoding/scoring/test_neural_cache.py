"""Neural cache: cached positions, the interpolation, and normalized probabilities."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from core import errors
from core.config import inference_settings, loading
from core.decoding.scoring import neural_cache
from core.decoding.scoring import stream as streams
from tests.core.decoding.scoring import stream_scores

SETTING = {"cache": "size=10", "dynamic": "rule=sgd"}


def _settings(size: int = 100, theta: float = 1.0, weight: float = 0.25) -> inference_settings.CacheConfig:
    return inference_settings.CacheConfig(size=size, theta=theta, weight=weight)


def _random(num_steps: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    features_TF = torch.randn(num_steps, 4, generator=random)
    targets_T = torch.randint(0, 7, (num_steps,), generator=random)
    return features_TF, targets_T, torch.randn(num_steps, 7, generator=random).log_softmax(1)


def test_cache_probabilities_by_hand() -> None:
    # Features 1, 1, 2 are followed by the tokens 0, 1, 0; the model alone is uniform over three tokens.
    features_TF, targets_T = torch.tensor([[1.0], [1.0], [2.0]]), torch.tensor([0, 1, 0])
    uniform_TV = torch.full((3, 3), 1 / 3).log()
    mixed_TV, cache = neural_cache.interpolate(
        _settings(theta=math.log(2)), neural_cache.empty(1, "cpu"), features_TF, targets_T, uniform_TV
    )
    third = 0.75 / 3
    expected = [
        [1 / 3, 1 / 3, 1 / 3],  # the cache is empty
        [third + 0.25, third, third],  # only token 0 is in the cache
        [third + 0.125, third + 0.125, third],  # tokens 0 and 1 once each, after the same feature
    ]
    torch.testing.assert_close(mixed_TV.exp(), torch.tensor(expected))
    # Token 0 followed the features 1 and 2, token 1 the feature 1; at feature 1 their weights are 2^1 + 2^2 and 2^1.
    (next_V,), _ = neural_cache.interpolate(
        _settings(theta=math.log(2)), cache, torch.tensor([[1.0]]), torch.tensor([2]), uniform_TV[:1]
    )
    torch.testing.assert_close(next_V.exp(), torch.tensor([third + 0.25 * 6 / 8, third + 0.25 * 2 / 8, third]))


def test_interpolation_follows_the_formula() -> None:
    features_TF, targets_T, log_probs_TV = _random(30)
    settings = _settings(size=8, theta=0.7)
    mixed_TV, _ = neural_cache.interpolate(settings, neural_cache.empty(4, "cpu"), features_TF, targets_T, log_probs_TV)
    for now in range(30):
        weights = {i: math.exp(0.7 * float(features_TF[now] @ features_TF[i])) for i in range(max(0, now - 8), now)}
        for token in range(7):
            model = math.exp(float(log_probs_TV[now, token]))
            own = sum(weight for i, weight in weights.items() if targets_T[i] == token)
            expected = 0.75 * model + 0.25 * own / sum(weights.values()) if weights else model
            assert math.exp(float(mixed_TV[now, token])) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("lengths", [[30], [1, 1, 28], [7, 16, 7]])
def test_probabilities_sum_to_one_and_do_not_depend_on_the_division(lengths: list[int]) -> None:
    features_TF, targets_T, log_probs_TV = _random(30)
    whole_TV, _ = neural_cache.interpolate(
        _settings(size=5), neural_cache.empty(4, "cpu"), features_TF, targets_T, log_probs_TV
    )
    cache, parts = neural_cache.empty(4, "cpu"), []
    for stop, count in zip(itertools.accumulate(lengths), lengths, strict=True):
        rows = slice(stop - count, stop)
        mixed, cache = neural_cache.interpolate(
            _settings(size=5), cache, features_TF[rows], targets_T[rows], log_probs_TV[rows]
        )
        parts.append(mixed)
    torch.testing.assert_close(torch.cat(parts), whole_TV)
    torch.testing.assert_close(torch.cat(parts).exp().sum(1), torch.ones(30))
    assert cache.followers_N.tolist() == targets_T[-5:].tolist()


@pytest.mark.parametrize("name", ["cache", "dynamic"])
def test_cache_and_dynamic_evaluation_need_unit_stream(name: str) -> None:
    with pytest.raises(errors.UsageError, match=rf"scoring\.{name}: .*unit: stream"):
        loading.section_from(inference_settings.ScoringConfig(), [f"scoring.{name}.{SETTING[name]}"], "scoring")


def test_cache_weight_0_changes_nothing() -> None:
    plain, _ = stream_scores.score()
    cached, _ = stream_scores.score(cache={"weight": 0})
    assert stream_scores.nats(cached) == pytest.approx(stream_scores.nats(plain), abs=1e-5)


def test_repeated_text_becomes_more_likely() -> None:
    plain, _ = stream_scores.score(lines=["a dog"] * 20)
    cached, _ = stream_scores.score(lines=["a dog"] * 20, cache={"weight": 0.5})
    # With weight 0.5 the mixture keeps at least half of each model probability.
    assert stream_scores.nats(cached[:1]) <= stream_scores.nats(plain[:1]) + 5 * math.log(2) + 1e-4
    assert stream_scores.nats(cached[10:]) < 0.7 * stream_scores.nats(plain[10:])


@pytest.mark.parametrize("extra", [{}, {"dynamic": {"rule": "sgd", "learning_rate": 0.1, "window": 4}}])
def test_a_restart_between_parts_changes_nothing(extra: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"cache": {"size": 9}, **extra}
    first, state = stream_scores.score(lines=stream_scores.LINES[:3], **settings)
    uninterrupted, end = stream_scores.score(lines=stream_scores.LINES[3:], state=state, **settings)
    restored = streams.StreamState.from_bytes(state.to_bytes(), "here")
    restarted, other_end = stream_scores.score(lines=stream_scores.LINES[3:], state=restored, **settings)
    assert restarted == uninterrupted
    assert end.to_bytes() == other_end.to_bytes()
    assert len(first) == 3
