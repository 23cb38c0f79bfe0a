"""Dynamic quantization: exactness, error bounds, and the layers that it applies to."""

from typing import Literal

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from core.models import quantization


def test_integers_up_to_127_are_exact() -> None:
    x_RK = torch.randint(-127, 128, (5, 16), generator=torch.Generator().manual_seed(1)).float()
    weight_NK = torch.randint(-127, 128, (6, 16), generator=torch.Generator().manual_seed(2)).float()
    x_RK[:, 0], weight_NK[:, 0] = 127.0, -127.0
    actual = quantization.int8_linear(x_RK, quantization.quantize_weight(weight_NK), torch.arange(6.0))
    assert torch.equal(actual, F.linear(x_RK, weight_NK, torch.arange(6.0)))


def test_quantized_rows_do_not_depend_on_the_batch() -> None:
    x_RK, packed = (
        torch.randn(33, 40) * torch.logspace(-3, 3, 33)[:, None],
        quantization.quantize_weight(torch.randn(50, 40)),
    )
    together = quantization.int8_linear(x_RK, packed, None)
    assert all(torch.equal(together[row], quantization.int8_linear(x_RK[row], packed, None)) for row in range(33))


def test_quantization_error_is_within_half_a_step_of_each_factor() -> None:
    x_RK, weight_NK = torch.randn(20, 64), torch.randn(30, 64)
    actual = quantization.int8_linear(x_RK, quantization.quantize_weight(weight_NK), None)
    x_step_R1, weight_step_N = x_RK.abs().amax(1, keepdim=True) / 127, weight_NK.abs().amax(1) / 127
    bound_RN = (
        x_step_R1 / 2 * weight_NK.abs().sum(1)
        + weight_step_N / 2 * x_RK.abs().sum(1, keepdim=True)
        + 64 * x_step_R1 * weight_step_N / 4
    )
    assert bool(((actual - x_RK @ weight_NK.T).abs() <= bound_RN + 1e-4).all())


def test_zeros_stay_zero_and_nan_propagates() -> None:
    packed = quantization.quantize_weight(torch.zeros(3, 4))
    assert quantization.int8_linear(torch.zeros(2, 4), packed, None).tolist() == [[0.0] * 3] * 2
    assert bool(quantization.int8_linear(torch.tensor([[1.0, torch.nan, 0, 0]]), packed, None).isnan().all())


def test_only_linear_layers_of_the_model_are_quantized() -> None:
    own, recurrent_layer, other = nn.Linear(8, 8), nn.GRU(8, 4), nn.Linear(8, 8)
    model = nn.Sequential(own, recurrent_layer)
    x_RK = torch.randn(3, 8)
    with torch.inference_mode(), quantization.DynamicQuantization("int8", model):
        inside, elsewhere, recurrent = own(x_RK), other(x_RK), recurrent_layer(x_RK)[0]
    assert torch.equal(
        inside, quantization.int8_linear(x_RK, quantization.quantize_weight(own.weight.detach()), own.bias)
    )
    assert torch.equal(elsewhere, other(x_RK))
    assert torch.equal(recurrent, recurrent_layer(x_RK)[0])
    assert inside.tolist() == [pytest.approx(row, abs=0.1) for row in own(x_RK).tolist()]


def test_bf16_copies_equal_autocast() -> None:
    model, x_RK = nn.Linear(8, 8), torch.randn(3, 8)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected = model(x_RK)
        with quantization.DynamicQuantization("bf16", model):
            actual = model(x_RK)
    assert actual.dtype == torch.bfloat16
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_changed_weights_are_quantized_again(precision: Literal["bf16", "int8"]) -> None:
    model, x_RK = nn.Linear(8, 8), torch.randn(3, 8)
    with quantization.DynamicQuantization(precision, model), torch.no_grad():
        before = model(x_RK)
        model.weight.mul_(-1.0)
        model.bias.mul_(-1.0)
        assert torch.equal(model(x_RK), -before)


def test_fast_tanh_equals_tanh() -> None:
    x = torch.linspace(-20, 20, 4001)
    with quantization.DynamicQuantization("int8", nn.Linear(1, 1)):
        actual = x.clone().tanh_()
    torch.testing.assert_close(actual, x.tanh(), rtol=0, atol=3e-7)


def test_a_linear_layer_in_bf16_is_that_of_autocast_for_any_shape_and_bias() -> None:
    """The bias of the layer is a column of its copy; one that the model does not own is added."""
    model = nn.Linear(13, 70)
    for bias_N in (model.bias, None, torch.arange(70.0)):
        for x in (torch.randn(2, 65, 13), torch.randn(1, 13), torch.randn(13)):
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                expected = F.linear(x, model.weight, bias_N)
                with quantization.DynamicQuantization("bf16", model):
                    actual = F.linear(x, model.weight, bias_N)
            torch.testing.assert_close(actual, expected, atol=0.02, rtol=0.02)


def test_a_layer_is_copied_once_and_again_when_its_bias_has_changed() -> None:
    layer, x_RK = nn.Linear(4, 6), torch.zeros(2, 4)
    with torch.no_grad(), quantization.DynamicQuantization("bf16", layer):
        assert layer(x_RK).tolist() == [layer.bias.bfloat16().tolist()] * 2
        layer.bias.fill_(3.0)
        assert layer(x_RK).tolist() == [[3.0] * 6] * 2
