"""Settings of mixtures: the short form, and what is refused."""

import pytest

from core import errors
from core.config import inference_settings, loading, mixture_settings


def _scoring(*overrides: str) -> inference_settings.ScoringConfig:
    return loading.section_from(inference_settings.ScoringConfig(), overrides, "scoring")


def test_a_kind_alone_is_short_for_the_kind_with_its_defaults() -> None:
    assert _scoring("scoring.mixture=log_linear").mixture == mixture_settings.LogLinearConfig()
    assert _scoring("scoring.mixture.weights=[0.2, 0.8]").mixture == mixture_settings.LinearConfig(weights=(0.2, 0.8))
    ranking = _scoring("scoring.mixture={kind: ranking, weights: [1, 2]}").mixture
    assert ranking == mixture_settings.RankingConfig(weights=(1.0, 2.0))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["scoring.mixture.weights=[0.2, 0.7]"], "weights: sum to 0.9; give weights that sum to 1"),
        (["scoring.mixture.weights=[-0.5, 1.5]"], "weights: must not be negative"),
        (["scoring.mixture={kind: log_linear, weights: [0, 0]}"], "weights: must not be negative, nor all 0"),
        (["scoring.mixture={weights: [0.5, 0.5], fit_on: a.txt}"], "weights: exclude fit_on"),
        (["scoring.mixture={kind: log_linear, fit_on: a.txt}"], "fit_on: is not a setting of kind log_linear"),
        (["scoring.mixture=log-linear"], "'log-linear' is not one of .*; did you mean log_linear?"),
        (["scoring.mixture=ranking", "scoring.unit=stream"], "mixture.kind: ranking is of single lines"),
        (["scoring.mixture=ranking", "scoring.tokens=true"], "tokens: a ranking has scores of lines alone"),
    ],
)
def test_settings_that_do_not_fit_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(errors.UsageError, match=message):
        _scoring(*overrides)


def test_a_run_has_no_mixture_of_its_own() -> None:
    text = "name: a\nroot: a\ncorpus: {kind: text, train: {text: [a.txt]}}\nmodel: {kind: ngram}\n"
    with pytest.raises(errors.UsageError, match=r"scoring\.mixture: mixes several runs, which score alone has"):
        loading.parse(f"{text}scoring: {{mixture: log_linear}}\n", "a.yaml")
    loading.parse(f"{text}scoring: {{mixture: linear}}\n", "a.yaml")


@pytest.mark.parametrize(
    ("scoring", "num_runs", "message"),
    [
        ({"mixture": mixture_settings.LogLinearConfig()}, 1, "mixes several runs; repeat --run"),
        ({"mixture": mixture_settings.LinearConfig(weights=(0.5, 0.5))}, 3, "2 weights for 3 runs"),
        ({"unit": "stream", "cache": inference_settings.CacheConfig()}, 2, "cache: adapts a single model"),
        ({"unit": "stream", "dynamic": inference_settings.DynamicConfig()}, 2, "dynamic: adapts a single model"),
    ],
)
def test_settings_that_do_not_fit_the_number_of_runs_are_refused(
    scoring: dict[str, object], num_runs: int, message: str
) -> None:
    with pytest.raises(errors.UsageError, match=message):
        inference_settings.check_mixture(inference_settings.ScoringConfig(**scoring), num_runs)  # type: ignore[arg-type]


def test_equal_weights_are_the_default() -> None:
    assert mixture_settings.weights_of(mixture_settings.LogLinearConfig(), 4) == (0.25,) * 4
