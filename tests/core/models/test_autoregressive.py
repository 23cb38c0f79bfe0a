"""Autoregressive models that forecast several steps, by one model or by a model for each step."""

from typing import Any

import numpy as np
import pydantic
import pytest
import torch

from core.config import autoregressive_settings, optimizer_settings, training_settings
from core.data.series import examples as series_examples
from core.models import autoregressive
from core.training import regression

LAGS, INPUTS, TARGETS, STEPS = 3, 2, 2, 4


def _model(by: str, network: str = "linear") -> autoregressive.Autoregressive:
    torch.manual_seed(1)
    settings: dict[str, Any] = {"network": network, "lags": LAGS, "horizon": STEPS, "horizon_by": by}
    config = autoregressive_settings.AutoregressiveConfig(kind="autoregressive", **settings)
    return autoregressive.Autoregressive(config, INPUTS, TARGETS)


def _examples(count: int = 40) -> series_examples.Examples:
    chance = np.random.default_rng(5)
    return series_examples.Examples(
        chance.normal(size=(count, LAGS, INPUTS)), chance.normal(size=(count, STEPS, TARGETS))
    )


def _fit(model: autoregressive.Autoregressive, clip_norm: float | None, examples: series_examples.Examples) -> None:
    training = training_settings.TrainingConfig(
        epochs=3,
        batch_lines=8,
        optimizer=optimizer_settings.SgdConfig(momentum=0.9),
        learning_rate=0.1,
        clip_norm=clip_norm,
    )
    regression.fit(model, examples, examples, np.ones(TARGETS), training, 1, lambda _: None, lambda: False)


def test_linear_models_by_step_equal_one_linear_model_with_several_outputs() -> None:
    together, apart = _model("outputs"), _model("models")
    rows = together.output.weight.view(STEPS, TARGETS, -1), together.output.bias.view(STEPS, TARGETS)
    for own, weight_OF, bias_O in zip(apart.models, *rows, strict=True):
        own.load_state_dict({"output.weight": weight_OF, "output.bias": bias_O})
    values_BLI = torch.randn(7, LAGS, INPUTS)
    for _ in range(2):
        assert apart(values_BLI).shape == (7, STEPS, TARGETS)
        torch.testing.assert_close(apart(values_BLI), together(values_BLI))
        _fit(together, None, _examples())
        _fit(apart, None, _examples())


@pytest.mark.parametrize("network", ["linear", "mlp", "gru"])
def test_models_by_step_do_not_influence_each_other(network: str) -> None:
    """The errors of the last step are made huge: clipping alone would let the other models see them."""
    examples = _examples()
    wild = series_examples.Examples(examples.features_NLI, examples.labels_NKO.copy())
    wild.labels_NKO[:, -1] *= 1000
    values_BLI = torch.randn(7, LAGS, INPUTS)
    forecasts = {}
    for by in ("models", "outputs"):
        for name, learnt in (("plain", examples), ("wild", wild)):
            model = _model(by, network)
            _fit(model, 0.1, learnt)
            forecasts[by, name] = model(values_BLI)[:, :-1]
    assert torch.equal(forecasts["models", "plain"], forecasts["models", "wild"])
    assert not torch.allclose(forecasts["outputs", "plain"], forecasts["outputs", "wild"], atol=1e-3)


def test_models_by_step_need_a_horizon_above_1() -> None:
    with pytest.raises(pydantic.ValidationError, match="horizon_by: models needs several steps"):
        autoregressive_settings.AutoregressiveConfig(kind="autoregressive", horizon_by="models")


def test_training_ends_at_max_steps_and_not_with_the_last_epoch() -> None:
    # 40 examples in batches of 8: five steps an epoch.
    training = training_settings.TrainingConfig(epochs=10, max_steps=7, batch_lines=8, learning_rate=0.01)
    fitted = regression.fit(
        _model("outputs"), _examples(), _examples(), np.ones(TARGETS), training, 1, lambda _: None, lambda: False
    )
    assert (fitted.steps, len(fitted.train_mse), len(fitted.valid_mse)) == (7, 2, 2)
