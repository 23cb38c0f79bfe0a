"""Recurrent cells against their formulas, in one call and step by step."""

from collections.abc import Callable, Sequence
from typing import get_args

import pytest
import torch
from torch import Tensor

from core.config import model_settings
from core.models import cells, recurrent_layer
from core.models import state as states

CELLS = tuple(cells.CELLS)
Gate = Callable[[int, Tensor | None], Tensor]


def reference_step(layer: recurrent_layer.Layer, x: Tensor, state: Sequence[Tensor]) -> list[Tensor]:
    """Returns the state after one step by the formulas, each gate on its own; gates in the order of the weights."""
    size, h = layer.hidden_size, state[0]
    weights = layer.weights
    assert weights.bias_G is not None
    bias_G = weights.bias_G

    def of_x(gate: int) -> Tensor:
        rows = slice(gate * size, (gate + 1) * size)
        return x @ layer.weight_ih[rows].T + layer.bias_ih[rows]

    def of_h(gate: int, h: Tensor) -> Tensor:
        rows = slice(gate * size, (gate + 1) * size)
        return h @ weights.recurrent_GH[rows].T + bias_G[rows]

    def both(gate: int) -> Tensor:
        return of_x(gate) + of_h(gate, h)

    def open_(gate: int) -> Tensor:
        return 1 / (1 + torch.exp(-both(gate)))

    match layer.cell:
        case "rnn":
            return [torch.tanh(both(0))]
        case "rnn_relu":
            return [both(0) * (both(0) > 0)]
        case "rnn_sigmoid":
            return [open_(0)]
        case "rnn_identity":
            return [both(0)]
        case "gru":
            new = torch.tanh(of_x(2) + open_(0) * of_h(2, h))
            return [(1 - open_(1)) * new + open_(1) * h]
        case "gru_before":
            new = torch.tanh(of_x(2) + of_h(2, open_(0) * h))
            return [(1 - open_(1)) * new + open_(1) * h]
        case "gru_coupled":
            new = torch.tanh(of_x(1) + of_h(1, open_(0) * h))
            return [(1 - open_(0)) * new + open_(0) * h]
        case "mgu":
            new = torch.tanh(of_x(1) + of_h(1, open_(0) * h))
            return [(1 - open_(0)) * h + open_(0) * new]
        case "lstm":
            c = open_(1) * state[1] + open_(0) * torch.tanh(both(2))
            return [open_(3) * torch.tanh(c), c]
        case "lstm_peephole":
            assert weights.peephole_PH is not None
            enter, keep, leave = (
                torch.sigmoid(both(gate) + state[1] * seen)
                for gate, seen in zip((0, 1, 3), weights.peephole_PH, strict=True)
            )
            c = keep * state[1] + enter * torch.tanh(both(2))
            return [leave * torch.tanh(c), c]
        case "lstm_coupled":
            c = open_(0) * state[1] + (1 - open_(0)) * torch.tanh(both(1))
            return [open_(2) * torch.tanh(c), c]
        case "lstm_no_output":
            return [open_(1) * h + open_(0) * torch.tanh(both(2))]
    raise AssertionError(layer.cell)


def example(cell: str) -> tuple[recurrent_layer.Layer, Tensor, states.LayerState]:
    torch.manual_seed(3)
    layer = recurrent_layer.build_layer(cell, 4, 5).double()
    x_BTE = torch.randn(3, 6, 4, dtype=torch.float64, requires_grad=True)
    return layer, x_BTE, tuple(torch.randn_like(part).requires_grad_() for part in layer.initial_state(3))


def in_steps(layer: recurrent_layer.Layer, x_BTE: Tensor, state: states.LayerState) -> tuple[Tensor, states.LayerState]:
    outputs = []
    for gates_BG in layer.project(x_BTE).unbind(dim=1):
        state = layer.step(gates_BG, state)
        outputs.append(state[0])
    return torch.stack(outputs, dim=1), state


def from_formula(
    layer: recurrent_layer.Layer, x_BTE: Tensor, state: Sequence[Tensor]
) -> tuple[Tensor, Sequence[Tensor]]:
    outputs = []
    for x_BE in x_BTE.unbind(dim=1):
        state = reference_step(layer, x_BE, state)
        outputs.append(state[0])
    return torch.stack(outputs, dim=1), state


@pytest.mark.parametrize("cell", CELLS)
def test_sequence_and_steps_equal_the_formula_with_gradients(cell: str) -> None:
    layer, x_BTE, state = example(cell)
    inputs = [*layer.parameters(), x_BTE, *state]
    weights_BTH = torch.randn(3, 6, 5, dtype=torch.float64)
    results = []
    for run in (from_formula, in_steps, lambda own, x, s: own(x, s)):
        y_BTH, after = run(layer, x_BTE, state)
        loss = (y_BTH * weights_BTH).sum() + sum(part.square().sum() for part in after)
        results.append([y_BTH, *after, *torch.autograd.grad(loss, inputs)])
    for formula, stepped, whole in zip(*results, strict=True):
        torch.testing.assert_close(stepped, formula, atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(whole, formula, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("cell", ["gru", "gru_before", "lstm", "lstm_peephole"])
def test_cell_gradients_pass_gradcheck(cell: str) -> None:
    layer, x_BTE, state = example(cell)
    assert torch.autograd.gradcheck(lambda x, *s: layer(x, s)[0], (x_BTE, *state), atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_bf16_keeps_the_state_in_fp32(cell: str) -> None:
    layer = recurrent_layer.build_layer(cell, 4, 5)
    zero = layer.initial_state(3)
    with torch.autocast("cpu", torch.bfloat16):
        _, after = layer(torch.randn(3, 6, 4), zero)
        stepped = layer.step(layer.project(torch.randn(3, 4)), zero)
    assert {part.dtype for part in (*after, *stepped)} == {torch.float32}


@pytest.mark.parametrize("cell", CELLS)
def test_a_batch_without_rows_has_zero_gradients(cell: str) -> None:
    layer = recurrent_layer.build_layer(cell, 4, 5)
    y_BTH, _ = layer(torch.zeros(0, 6, 4), layer.initial_state(0))
    y_BTH.sum().backward()
    assert y_BTH.shape == (0, 6, 5)
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in layer.parameters())


@pytest.mark.parametrize("cell", CELLS)
def test_one_bias_equals_two_with_the_second_zero(cell: str) -> None:
    torch.manual_seed(2)
    one_bias, two_biases = (recurrent_layer.build_layer(cell, 4, 5, num_biases=number) for number in (1, 2))
    num_one, num_two = (sum(part.numel() for part in layer.parameters()) for layer in (one_bias, two_biases))
    assert num_two - num_one == len(one_bias.bias_ih)
    two_biases.load_state_dict(one_bias.state_dict(), strict=False)
    assert two_biases.weights.bias_G is not None
    torch.nn.init.zeros_(two_biases.weights.bias_G)
    x_BTE = torch.randn(3, 6, 4)
    for run in (in_steps, lambda layer, x, s: layer(x, s)):
        torch.testing.assert_close(
            run(one_bias, x_BTE, one_bias.initial_state(3)), run(two_biases, x_BTE, two_biases.initial_state(3))
        )


@pytest.mark.parametrize("cell", CELLS)
def test_dropconnect_cuts_the_same_connections_in_all_steps(cell: str) -> None:
    layer, x_BTE, state = example(cell)
    torch.manual_seed(1)
    dropped = cells.drop_connect(layer.weights, 0.5)
    twin = recurrent_layer.build_layer(cell, 4, 5).double()
    twin.load_state_dict(layer.state_dict())
    with torch.no_grad():
        twin.weight_hh.copy_(dropped.recurrent_GH)
    y_BTH, _ = layer(x_BTE, state, dropped)
    torch.testing.assert_close(y_BTH, twin(x_BTE, state)[0])
    y_BTH.sum().backward()
    cut = dropped.recurrent_GH == 0
    assert (cut != (cells.drop_connect(layer.weights, 0.5).recurrent_GH == 0)).any(), "others in the next window"
    assert 0.3 < cut.double().mean() < 0.7
    torch.testing.assert_close(dropped.recurrent_GH[~cut], 2 * layer.weight_hh[~cut])
    assert layer.weight_hh.grad is not None
    assert not layer.weight_hh.grad[cut].any()
    assert cell == "rnn_relu" or layer.weight_hh.grad[~cut].all()


def test_concatenated_weights_equal_the_sum_of_two_products() -> None:
    layer, x_BTE, state = example("rnn")
    both = torch.cat((x_BTE[:, 0], state[0]), dim=1) @ torch.cat((layer.weight_ih, layer.weight_hh), dim=1).T
    assert layer.weights.bias_G is not None
    after = torch.tanh(both + layer.bias_ih + layer.weights.bias_G)
    torch.testing.assert_close(layer.step(layer.project(x_BTE[:, 0]), state)[0], after)


def test_settings_and_cells_have_the_same_names() -> None:
    names = set(get_args(model_settings.RecurrentConfig.model_fields["cell"].annotation))
    names.remove("feedforward")  # a layer without a state of its own: core/models/feedforward.py
    named = {model_settings.RecurrentConfig(cell=name).cell_name for name in names}
    named |= {
        model_settings.RecurrentConfig(cell="rnn", nonlinearity=shape).cell_name
        for shape in get_args(model_settings.RecurrentConfig.model_fields["nonlinearity"].annotation)
    }
    named.add(model_settings.RecurrentConfig(cell="gru", gru_reset="before").cell_name)
    assert named == set(CELLS)
