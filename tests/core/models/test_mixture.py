"""Laws of mixtures of language models, and a comparison with sums written out."""

from typing import Any

import pytest
import torch

from core.config import mixture_settings
from core.models import language_model, mixture
from core.models.ngram import ngram_model
from tests.core.decoding import samples
from tests.core.models import counted

SETTINGS: dict[str, Any] = {
    "linear": mixture_settings.LinearConfig,
    "log_linear": mixture_settings.LogLinearConfig,
}
STREAM = [0, 3, 1, 4, 1, 5, 2, 6, 5, 3, 5, 0]


def lstm(seed: int = 7, cell: str = "lstm") -> language_model.LanguageModel:
    made = samples.language_model(cell=cell)
    model = samples.build(made.config, made.codecs, seed=seed).model  # type: ignore[arg-type]
    assert isinstance(model, language_model.LanguageModel)
    return model


def trigram() -> ngram_model.Ngram:
    return counted.estimate(STREAM * 3, lstm().vocabulary_size, 3, "kneser_ney").model


def distributions(model: Any, tokens: list[int]) -> torch.Tensor:
    """Returns the log-probabilities (T, V) after each token."""
    with torch.inference_mode():
        features_BTF, _ = model(torch.tensor([tokens]), model.initial_state(1))
        if isinstance(model, mixture.Mixture):
            return model.log_probs(features_BTF[0]).double()
        logits_TV: torch.Tensor = model.logits(features_BTF[0]).double()
        return logits_TV if isinstance(model, ngram_model.Ngram) else logits_TV.log_softmax(1)


@pytest.mark.parametrize("kind", ["linear", "log_linear"])
def test_a_mixture_of_a_model_with_itself_is_the_model(kind: str) -> None:
    for model in (lstm(), trigram()):
        mixed = mixture.Mixture([model, model], SETTINGS[kind](weights=(0.3, 0.7)))
        torch.testing.assert_close(distributions(mixed, STREAM), distributions(model, STREAM), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "log_linear"])
def test_a_weight_of_zero_leaves_a_model_out(kind: str) -> None:
    # Of the relative frequencies most tokens are impossible: 0 times their logarithm must not be NaN.
    counts = counted.estimate(STREAM, lstm().vocabulary_size, 2, "laplace", epsilons=(0.0,)).model
    mixed = mixture.Mixture([lstm(), counts], SETTINGS[kind](weights=(1.0, 0.0)))
    torch.testing.assert_close(distributions(mixed, STREAM), distributions(lstm(), STREAM), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", ["linear", "log_linear"])
@pytest.mark.parametrize("weights", [(), (0.9, 0.1)])
def test_the_probabilities_of_a_mixture_sum_to_one(kind: str, weights: tuple[float, ...]) -> None:
    for others in ([trigram()], [lstm(8, "gru")]):
        mixed = mixture.Mixture([lstm(), *others], SETTINGS[kind](weights=weights))
        sums_T = distributions(mixed, STREAM).exp().sum(1)
        torch.testing.assert_close(sums_T, torch.ones_like(sums_T), atol=1e-6, rtol=0)


def test_an_lstm_and_a_trigram_model_are_mixed_as_the_sums_say() -> None:
    first, second = lstm(), trigram()
    one_TV, other_TV = (distributions(model, STREAM) for model in (first, second))
    linear = mixture.Mixture([first, second], mixture_settings.LinearConfig(weights=(0.75, 0.25)))
    expected_TV = 0.75 * one_TV.exp() + 0.25 * other_TV.exp()
    torch.testing.assert_close(distributions(linear, STREAM).exp(), expected_TV, atol=1e-6, rtol=1e-5)
    log_linear = mixture.Mixture([first, second], mixture_settings.LogLinearConfig(weights=(0.5, 2.0)))
    product_TV = one_TV.exp() ** 0.5 * other_TV.exp() ** 2
    expected_TV = product_TV / product_TV.sum(1, keepdim=True)
    torch.testing.assert_close(distributions(log_linear, STREAM).exp(), expected_TV, atol=1e-6, rtol=1e-5)


def test_a_log_linear_mixture_of_models_that_exclude_each_other_holds_nothing_possible() -> None:
    size = lstm().vocabulary_size
    first, second = (
        counted.estimate(stream, size, 1, "laplace", epsilons=(0.0,)).model for stream in ([0, 1, 0, 1], [2, 3, 2, 3])
    )
    mixed = mixture.Mixture([first, second], mixture_settings.LogLinearConfig())
    assert distributions(mixed, [0]).isneginf().all()


def test_the_state_of_a_mixture_is_carried_from_window_to_window() -> None:
    mixed = mixture.Mixture([lstm(), trigram(), lstm(9, "gru")], mixture_settings.LinearConfig())
    with torch.inference_mode():
        whole_BTF, after = mixed(torch.tensor([STREAM]), mixed.initial_state(1))
        state, windows = mixed.initial_state(1), []
        for start in range(0, len(STREAM), 5):
            features_BTF, state = mixed(torch.tensor([STREAM[start : start + 5]]), state)
            windows.append(features_BTF)
    torch.testing.assert_close(torch.cat(windows, 1), whole_BTF)
    assert [len(layer) for layer in state] == [2, 2, 1, 1, 1]  # two layers of h and c, the last tokens, two of h
    assert state[2][0].tolist() == after[2][0].tolist() == [STREAM[-2:]]
