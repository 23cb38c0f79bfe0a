"""Each cell is its formula, in one call or step by step."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from core.models import cells
from core.models import state as states

CELLS = ("rnn", "gru", "lstm")
Array = npt.NDArray[np.float64]


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def numpy_step(layer: cells.Layer, x: Array, state: list[Array]) -> list[Array]:
    """One step from the formulas of the documents, each gate on its own."""
    weight_x, weight_h = layer.weight_ih.detach().numpy(), layer.weight_hh.detach().numpy()
    bias_x, bias_h = layer.bias_ih.detach().numpy(), layer.bias_hh.detach().numpy()
    size = layer.hidden_size

    def share(gate: int) -> tuple[Array, Array]:
        rows = slice(gate * size, (gate + 1) * size)
        return x @ weight_x[rows].T + bias_x[rows], state[0] @ weight_h[rows].T + bias_h[rows]

    if layer.cell == "rnn":
        return [np.tanh(sum(share(0)))]
    if layer.cell == "gru":
        reset, update = sigmoid(np.add(*share(0))), sigmoid(np.add(*share(1)))
        from_x, from_h = share(2)
        return [(1 - update) * np.tanh(from_x + reset * from_h) + update * state[0]]
    enter, forget, leave = (sigmoid(np.add(*share(gate))) for gate in (0, 1, 3))
    memory = forget * state[1] + enter * np.tanh(np.add(*share(2)))
    return [leave * np.tanh(memory), memory]


def example(cell: str) -> tuple[cells.Layer, Tensor, states.LayerState]:
    torch.manual_seed(3)
    layer = cells.build_layer(cell, 4, 5).double()
    x_BTE = torch.randn(3, 6, 4, dtype=torch.float64, requires_grad=True)
    zero = states.zeros(cell, (5,), 3, like=layer.weight_hh)[0]
    return layer, x_BTE, tuple(torch.randn_like(part).requires_grad_() for part in zero)


def in_steps(layer: cells.Layer, x_BTE: Tensor, state: states.LayerState) -> tuple[Tensor, states.LayerState]:
    outputs = []
    for gates_BG in layer.project(x_BTE).unbind(dim=1):
        state = layer.step(gates_BG, state)
        outputs.append(state[0])
    return torch.stack(outputs, dim=1), state


@pytest.mark.parametrize("cell", CELLS)
def test_a_layer_computes_the_formula_of_its_cell(cell: str) -> None:
    layer, x_BTE, state = example(cell)
    y_BTH, after = layer(x_BTE, state)
    expected = [part.detach().numpy() for part in state]
    for time in range(6):
        expected = numpy_step(layer, x_BTE[:, time].detach().numpy(), expected)
        np.testing.assert_allclose(y_BTH[:, time].detach().numpy(), expected[0], atol=1e-12)
    for part, wanted in zip(after, expected, strict=True):
        np.testing.assert_allclose(part.detach().numpy(), wanted, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_steps_are_the_sequence_with_the_same_gradients(cell: str) -> None:
    layer, x_BTE, state = example(cell)
    wanted = [*layer.parameters(), x_BTE, *state]
    weights_BTH = torch.randn(3, 6, 5, dtype=torch.float64)
    results = []
    for run in (layer, lambda x, s: in_steps(layer, x, s)):
        y_BTH, after = run(x_BTE, state)
        loss = (y_BTH * weights_BTH).sum() + sum(part.square().sum() for part in after)
        results.append([y_BTH, *after, *torch.autograd.grad(loss, wanted)])
    for fused, stepped in zip(*results, strict=True):
        torch.testing.assert_close(stepped, fused, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_are_the_slopes_of_the_function(cell: str) -> None:
    layer, x_BTE, state = example(cell)
    assert torch.autograd.gradcheck(lambda x, *s: layer(x, s)[0], (x_BTE, *state), atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_bf16_keeps_the_state_in_fp32(cell: str) -> None:
    layer = cells.build_layer(cell, 4, 5)
    zero = states.zeros(cell, (5,), 3, like=layer.weight_hh)[0]
    with torch.autocast("cpu", torch.bfloat16):
        _, after = layer(torch.randn(3, 6, 4), zero)
        stepped = layer.step(layer.project(torch.randn(3, 4)), zero)
    assert {part.dtype for part in (*after, *stepped)} == {torch.float32}


@pytest.mark.parametrize("cell", CELLS)
def test_a_batch_without_rows_has_zero_gradients(cell: str) -> None:
    layer = cells.build_layer(cell, 4, 5)
    y_BTH, _ = layer(torch.zeros(0, 6, 4), states.zeros(cell, (5,), 0, like=layer.weight_hh)[0])
    y_BTH.sum().backward()
    assert y_BTH.shape == (0, 6, 5)
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in layer.parameters())
