"""Laws of linear maps over rounded weights."""

from typing import Literal

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from core.models import quantization


def test_whole_numbers_up_to_127_are_exact() -> None:
    x_RK = torch.randint(-127, 128, (5, 16), generator=torch.Generator().manual_seed(1)).float()
    weight_NK = torch.randint(-127, 128, (6, 16), generator=torch.Generator().manual_seed(2)).float()
    x_RK[:, 0], weight_NK[:, 0] = 127.0, -127.0
    found = quantization.int8_linear(x_RK, quantization.quantize_weight(weight_NK), torch.arange(6.0))
    assert torch.equal(found, F.linear(x_RK, weight_NK, torch.arange(6.0)))


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    x_RK, packed = (
        torch.randn(33, 40) * torch.logspace(-3, 3, 33)[:, None],
        quantization.quantize_weight(torch.randn(50, 40)),
    )
    together = quantization.int8_linear(x_RK, packed, None)
    assert all(torch.equal(together[row], quantization.int8_linear(x_RK[row], packed, None)) for row in range(33))


def test_the_error_is_within_half_a_step_of_each_factor() -> None:
    x_RK, weight_NK = torch.randn(20, 64), torch.randn(30, 64)
    found = quantization.int8_linear(x_RK, quantization.quantize_weight(weight_NK), None)
    x_step_R1, weight_step_N = x_RK.abs().amax(1, keepdim=True) / 127, weight_NK.abs().amax(1) / 127
    bound_RN = (
        x_step_R1 / 2 * weight_NK.abs().sum(1)
        + weight_step_N / 2 * x_RK.abs().sum(1, keepdim=True)
        + 64 * x_step_R1 * weight_step_N / 4
    )
    assert bool(((found - x_RK @ weight_NK.T).abs() <= bound_RN + 1e-4).all())


def test_zeros_stay_and_what_is_not_finite_shows() -> None:
    packed = quantization.quantize_weight(torch.zeros(3, 4))
    assert quantization.int8_linear(torch.zeros(2, 4), packed, None).tolist() == [[0.0] * 3] * 2
    assert bool(quantization.int8_linear(torch.tensor([[1.0, torch.nan, 0, 0]]), packed, None).isnan().all())


def test_inside_the_context_only_the_models_own_linear_maps_change() -> None:
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


def test_bf16_is_what_autocast_computes() -> None:
    model, x_RK = nn.Linear(8, 8), torch.randn(3, 8)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected = model(x_RK)
        with quantization.DynamicQuantization("bf16", model):
            found = model(x_RK)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_weight_that_has_changed_is_rounded_anew(precision: Literal["bf16", "int8"]) -> None:
    model, x_RK = nn.Linear(8, 8), torch.randn(3, 8)
    with quantization.DynamicQuantization(precision, model), torch.no_grad():
        before = model(x_RK)
        model.weight.mul_(-1.0)
        model.bias.mul_(-1.0)
        assert torch.equal(model(x_RK), -before)


def test_tanh_is_tanh() -> None:
    x = torch.linspace(-20, 20, 4001)
    with quantization.DynamicQuantization("int8", nn.Linear(1, 1)):
        found = x.clone().tanh_()
    torch.testing.assert_close(found, x.tanh(), rtol=0, atol=3e-7)
