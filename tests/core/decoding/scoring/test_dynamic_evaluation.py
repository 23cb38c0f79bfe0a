"""Dynamic evaluation: its update rules, and that scores come before updates."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from core import errors
from core.config import inference_settings, schema
from core.decoding.scoring import dynamic_evaluation, scorer
from core.decoding.scoring import stream as streams
from core.models import language_model, weights
from tests.core.decoding import samples
from tests.core.decoding.scoring import stream_scores

TEXT = np.random.default_rng(0).integers(3, 12, size=200)


def _config(**settings: Any) -> inference_settings.DynamicConfig:
    return inference_settings.DynamicConfig(**settings)


def _model(**settings: Any) -> language_model.LanguageModel:
    model = samples.language_model(**settings).model
    assert isinstance(model, language_model.LanguageModel)
    return model


def _loss(model: language_model.LanguageModel) -> Tensor:
    """Returns the mean loss of a window of two tokens."""
    features_BTF, _ = model(torch.tensor([[3, 4]]), model.initial_state(1))
    return F.cross_entropy(model.logits(features_BTF[0]), torch.tensor([4, 5]))


def test_the_sgd_rule_follows_its_formula() -> None:
    model = _model()
    evaluator = dynamic_evaluation.DynamicEvaluator(model, _config(rule="sgd", learning_rate=0.5, decay=0.25), None)
    trained = evaluator.weights()
    for _ in range(2):
        before = evaluator.weights()
        gradients = torch.autograd.grad(_loss(model), list(weights.unique_parameters(model).values()))
        evaluator.update(_loss(model))
        for (name, after), gradient in zip(evaluator.weights().items(), gradients, strict=True):
            expected = before[name] - 0.5 * gradient + 0.25 * (trained[name] - before[name])
            torch.testing.assert_close(after, expected)
    evaluator.load_weights(trained)
    assert all(torch.equal(part, trained[name]) for name, part in evaluator.weights().items())


def test_the_rms_rule_scales_steps_and_decay_by_gradient_rms() -> None:
    model = _model(cell="rnn", num_layers=1)
    names = list(weights.unique_parameters(model))
    rms = {name: torch.zeros_like(part) for name, part in weights.unique_parameters(model).items()}
    bias = "output.bias"
    rms[bias] += 2.0
    mean = 2.0 / len(rms)  # the mean over tensors of their means: every tensor counts alike, however large
    evaluator = dynamic_evaluation.DynamicEvaluator(model, _config(learning_rate=0.3, decay=0.01, epsilon=0.5), rms)
    trained = evaluator.weights()
    moved = {name: part + 1.0 for name, part in trained.items()}
    evaluator.load_weights(moved)
    gradients = dict(
        zip(names, torch.autograd.grad(_loss(model), list(weights.unique_parameters(model).values())), strict=True)
    )
    evaluator.update(_loss(model))
    decay = min(1.0, 0.01 * 2.0 / mean)
    torch.testing.assert_close(evaluator.weights()[bias], moved[bias] - 0.3 * gradients[bias] / 2.5 - decay)
    # A weight whose gradient was always zero has no decay, and learns at the full rate.
    other = "output.weight"
    torch.testing.assert_close(evaluator.weights()[other], moved[other] - 0.3 * gradients[other] / 0.5)


def test_decay_never_overshoots_the_trained_weights() -> None:
    model = _model(cell="rnn", num_layers=1)
    rms = {name: torch.zeros_like(part) for name, part in weights.unique_parameters(model).items()}
    rms["output.bias"][0] = 1.0
    evaluator = dynamic_evaluation.DynamicEvaluator(model, _config(learning_rate=0.0, decay=0.5), rms)
    trained = evaluator.weights()["output.bias"]
    evaluator.load_weights({name: part + 1.0 for name, part in evaluator.weights().items()})
    evaluator.update(_loss(model))
    assert float(evaluator.weights()["output.bias"][0]) == pytest.approx(float(trained[0]))


def test_gradient_rms_of_one_window_is_the_absolute_gradient() -> None:
    model = _model()
    rms = dynamic_evaluation.gradient_rms(model, TEXT[:11], _config(window=5), "cpu")
    parameters = weights.unique_parameters(model)
    lanes_2T = torch.from_numpy(np.stack([TEXT[0:6], TEXT[5:11]]))
    features_BTF, _ = model(lanes_2T[:, :-1], model.initial_state(2))
    loss = F.cross_entropy(model.logits(features_BTF).flatten(0, 1), lanes_2T[:, 1:].flatten())
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    for name, gradient in zip(parameters, gradients, strict=True):
        torch.testing.assert_close(rms[name], gradient.abs(), rtol=1e-4, atol=1e-7)


def test_gradients_are_averaged_over_the_lanes_of_a_window_and_their_squares_over_all_windows() -> None:
    """Two windows of three lanes are two samples; one window, the first alone."""
    model = _model(cell="rnn", num_layers=1)
    parameters = weights.unique_parameters(model)
    state = model.initial_state(3)
    squares = []
    for start in (0, 4):
        rows_3T = torch.from_numpy(np.stack([TEXT[lane + start : lane + start + 5] for lane in (0, 8, 16)]))
        features_BTF, state = model(rows_3T[:, :-1], tuple(tuple(part.detach() for part in layer) for layer in state))
        loss = F.cross_entropy(model.logits(features_BTF).flatten(0, 1), rows_3T[:, 1:].flatten())
        squares.append([gradient**2 for gradient in torch.autograd.grad(loss, list(parameters.values()))])
    for windows, expected in ((None, [sum(pair) / 2 for pair in zip(*squares, strict=True)]), (1, squares[0])):
        config = _config(window=4, statistics_lanes=3, statistics_windows=windows)
        rms = dynamic_evaluation.gradient_rms(model, TEXT[:25], config, "cpu")
        for name, square in zip(parameters, expected, strict=True):
            torch.testing.assert_close(rms[name], square.sqrt(), rtol=1e-4, atol=1e-7)


def test_the_defaults_are_those_of_the_authors() -> None:
    """η, λ, ε, the window, and all of the training text in 100 lanes."""
    config = _config()
    assert (config.learning_rate, config.decay, config.epsilon, config.window) == (5e-5, 0.002, 2e-5, 5)
    assert (config.statistics_lanes, config.statistics_windows) == (100, None)


@pytest.mark.parametrize("settings", [{"rule": "sgd"}, {"rule": "rms"}])
def test_learning_rate_0_changes_nothing(settings: dict[str, Any]) -> None:
    plain, _ = stream_scores.score()
    unchanged, _ = stream_scores.score(training_text=TEXT, dynamic={**settings, "learning_rate": 0.0, "window": 4})
    assert stream_scores.nats(unchanged) == pytest.approx(stream_scores.nats(plain), abs=1e-4)


def test_a_window_is_scored_before_the_weights_learn_from_it() -> None:
    lines = ["the dog sees a cat"] * 12
    plain, _ = stream_scores.score(lines)
    learning, _ = stream_scores.score(lines, dynamic={"rule": "sgd", "learning_rate": 0.2, "decay": 0.0, "window": 19})
    assert learning[0].nll_nats == pytest.approx(plain[0].nll_nats, abs=1e-4)
    assert stream_scores.nats(learning[-1:]) < 0.7 * stream_scores.nats(plain[-1:])


@pytest.mark.parametrize(("rule", "model"), [("sgd", {}), ("rms", {}), ("rms", samples.FEEDFORWARD)])
def test_a_restart_between_parts_changes_nothing(rule: str, model: dict[str, Any]) -> None:
    """With a model of its own in each call, as in another process."""
    settings: dict[str, Any] = {"training_text": TEXT, "dynamic": {"rule": rule, "learning_rate": 0.01, "window": 4}}
    settings["model"] = model
    _, state = stream_scores.score(stream_scores.LINES[:3], **settings)
    uninterrupted, end = stream_scores.score(stream_scores.LINES[3:], state, **settings)
    restored = streams.StreamState.from_bytes(state.to_bytes(), "here")
    restarted, other_end = stream_scores.score(stream_scores.LINES[3:], restored, **settings)
    assert restarted == uninterrupted
    assert end.to_bytes() == other_end.to_bytes()


@pytest.mark.parametrize("initial_state", ["zero", "learned"])
def test_streams_of_one_scorer_are_independent(initial_state: str) -> None:
    settings = inference_settings.ScoringConfig(unit="stream", dynamic=_config(rule="sgd", learning_rate=0.1, window=4))
    made = samples.language_model(initial_state=initial_state, cell="mgu")
    for name, parameter in made.model.named_parameters():
        if "start" in name:
            torch.nn.init.normal_(parameter)
    ready = scorer.Scorer(made, settings, samples.FP32)
    alone, _ = ready.score_stream(stream_scores.LINES, ready.initial_stream_state())
    ready.score_stream(["something else entirely"] * 3, ready.initial_stream_state())
    again, _ = ready.score_stream(stream_scores.LINES, ready.initial_stream_state())
    assert again == alone


def test_bf16_updates_fp32_weights() -> None:
    settings = inference_settings.ScoringConfig(unit="stream", dynamic=_config(rule="sgd", learning_rate=0.0, window=4))
    ready = scorer.Scorer(samples.language_model(), settings, schema.ComputeConfig(precision="bf16", matmul="default"))
    rows, state = ready.score_stream(stream_scores.LINES, ready.initial_stream_state())
    assert state.weights is not None
    assert all(part.dtype is torch.float32 for part in state.weights.values())
    plain, _ = stream_scores.score()
    assert stream_scores.nats(rows) == pytest.approx(stream_scores.nats(plain), rel=0.02)


def test_divergence_names_the_learning_rate() -> None:
    with pytest.raises(errors.DivergedError, match="smaller rate"):
        stream_scores.score(["the cat sees a dog"] * 9, dynamic={"rule": "sgd", "learning_rate": 1e39, "window": 4})


def test_dynamic_evaluation_in_int8_is_refused() -> None:
    settings = inference_settings.ScoringConfig(unit="stream", dynamic=_config(rule="sgd"))
    with pytest.raises(errors.UsageError, match="fp32"):
        scorer.Scorer(samples.language_model(), settings, schema.ComputeConfig(precision="int8", matmul="default"))


def test_a_stream_state_with_an_incomplete_cache_is_refused() -> None:
    _, state = stream_scores.score(cache={"size": 3})
    assert state.cache is not None
    damaged = state.to_bytes().replace(b"cache.followers_N", b"cache.followers_M")
    with pytest.raises(errors.IntegrityError):
        streams.StreamState.from_bytes(damaged, "here")
