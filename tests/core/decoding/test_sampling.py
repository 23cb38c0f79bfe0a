"""Laws of dividing logits by a temperature."""

import pytest
import torch

from core.config import inference_settings
from core.decoding import sampling

LOGITS = torch.tensor([[1.0, 60.0, -3.0], [-0.5, -80.0, -90.0], [-40.0, -60.0, -torch.inf]])


def test_a_temperature_changes_no_bit_of_a_plain_division() -> None:
    for temperature in (0.3, 0.8, 1.0, 7.0):
        torch.testing.assert_close(
            sampling.divide_by_temperature(LOGITS, temperature), LOGITS / temperature, rtol=0, atol=0
        )


@pytest.mark.parametrize("temperature", [1e-30, 1e-37, inference_settings.SMALLEST_TEMPERATURE])
def test_the_smallest_temperatures_give_the_most_likely_token(temperature: float) -> None:
    probabilities = sampling.divide_by_temperature(LOGITS, temperature).softmax(dim=-1)
    assert probabilities.tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    settings = inference_settings.GenerationConfig(temperature=temperature)
    assert sampling.select_tokens(LOGITS, settings, torch.Generator().manual_seed(1)).tolist() == [1, 0, 0]


@pytest.mark.parametrize("temperature", [1e-38, 1e-40, 1e-300])
def test_a_temperature_that_a_float_does_not_carry_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match=r"temperature: .* is below what a 32-bit float carries.*beam_size: 1"):
        inference_settings.DecodingConfig(method="sample", temperature=temperature)
    with pytest.raises(ValueError, match="use method: greedy"):
        inference_settings.GenerationConfig(temperature=temperature)
