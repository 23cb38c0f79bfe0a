"""Norms and clipping worked by hand, and what reaches earlier states against the closed form."""

import math

import pytest
import torch
from torch import nn

from core.config import training_settings
from core.models import factory, language_model
from core.training import gradients
from tests.core.training import making


def _model() -> nn.Module:
    """Two layers with gradients of norm 5 and 13; that of both is the root of 194."""
    model = nn.ModuleDict({"low": nn.Linear(1, 2), "high": nn.Linear(1, 1, bias=False)})
    for parameter, values in zip(model.parameters(), ([[3.0], [0.0]], [4.0, 0.0], [[13.0]]), strict=True):
        parameter.grad = torch.tensor(values)
    return model


def _gradients(model: nn.Module) -> list[list[float]]:
    return [parameter.grad.flatten().tolist() for parameter in model.parameters() if parameter.grad is not None]


def test_norms_by_layer() -> None:
    assert gradients.norms(_model()) == pytest.approx({"low": 5.0, "high": 13.0})


def test_each_layer_is_clipped_on_its_own() -> None:
    model = _model()
    within = gradients.limits(training_settings.TrainingConfig(clip_norm=6.5, clip_by="layer"))
    assert gradients.clip_within(model, within).item() == pytest.approx(math.sqrt(194))
    assert _gradients(model) == [pytest.approx(values) for values in ([3.0, 0.0], [4.0, 0.0], [6.5])]


def test_each_entry_is_clipped_on_its_own() -> None:
    model = _model()
    next(model.parameters()).grad.mul_(-1)  # type: ignore[union-attr]
    within = gradients.limits(training_settings.TrainingConfig(clip_norm=None, clip_value=3.5))
    assert gradients.clip_within(model, within).item() == pytest.approx(math.sqrt(194))
    assert _gradients(model) == [[-3.0, -0.0], [3.5, 0.0], [3.5]]


def test_by_default_one_number_scales_all() -> None:
    model = _model()
    gradients.clip_within(model, gradients.limits(training_settings.TrainingConfig()))
    scale = 1 / math.sqrt(194)
    assert _gradients(model) == [
        pytest.approx([3 * scale, 0]),
        pytest.approx([4 * scale, 0]),
        pytest.approx([13 * scale]),
    ]


def _tiny(cell: str) -> language_model.LanguageModel:
    config = making.TEXT.model_copy(update={"cell": cell, "hidden_size": 2})
    torch.manual_seed(0)
    model = factory.build(config, {"text": 5}, None)
    assert isinstance(model, language_model.LanguageModel)
    return model.eval()


def _recurrent(model: nn.Module) -> nn.Parameter:
    return next(parameter for name, parameter in model.named_parameters() if "weight_hh" in name)


def test_spectral_radii_of_each_gate() -> None:
    """A rotation scaled by 2 has eigenvalues of size 2; a triangle has its diagonal."""
    model = _tiny("gru")
    blocks = [[[0.0, -2.0], [2.0, 0.0]], [[0.5, 9.0], [0.0, -0.7]], [[0.0, 0.0], [0.0, 0.0]]]
    with torch.no_grad():
        _recurrent(model).copy_(torch.tensor(blocks).flatten(0, 1))
    ((_, radii),) = gradients.spectral_radii(model).items()
    assert radii == pytest.approx([2.0, 0.7, 0.0])


def test_forget_gates_are_the_mean_of_the_formula() -> None:
    """With nothing but biases, ln 3 in both together, the gate is 3/4; else it is what a loop over steps finds."""
    model = _tiny("lstm")
    inputs_BT = torch.tensor([[0, 3, 1, 4], [2, 2, 0, 1]])
    weights = dict(model.named_parameters())
    (u,), (w,), (b,), (c,) = (
        [value for name, value in weights.items() if kind in name]
        for kind in ("weight_hh", "weight_ih", "bias_ih", "bias_hh")
    )
    gates = []
    x_BTE, ((h, memory),) = model.embed(inputs_BT), model.initial_state(2)
    for x in x_BTE.unbind(dim=1):
        i, f, g, o = (x @ w.T + b + h @ u.T + c).chunk(4, dim=1)
        gates.append(f.sigmoid())
        memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()
        h = o.sigmoid() * memory.tanh()
    ((_, found),) = gradients.forget_gates(model, inputs_BT).items()
    assert found == pytest.approx(torch.stack(gates).mean().item(), rel=1e-5)
    with torch.no_grad():
        for value in (u, w):
            value.zero_()
        b[2:4], c[2:4] = math.log(3), 0.0
    ((_, found),) = gradients.forget_gates(model, inputs_BT).items()
    assert found == pytest.approx(0.75)
    assert gradients.forget_gates(_tiny("gru"), inputs_BT) == {}


def test_what_reaches_a_state_is_a_power_of_the_recurrent_matrix() -> None:
    """A tanh network at rest has slope 1, so it is the linear network: ‖(W_hh^T)^(k+1) W_qh^T dl/do‖ at lag k."""
    model = _tiny("rnn")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias" in name or "embedding" in name:
                parameter.zero_()
        _recurrent(model).copy_(torch.tensor([[0.9, 0.4], [-0.3, 0.8]]))
    found = gradients.by_time_lag(model, torch.zeros((3, 6), dtype=torch.int64), torch.tensor([1, 1, 1]))
    error_V = torch.full((5,), 0.2) - torch.eye(5)[1]
    reaching_H = model.output_weight_VF.detach().T @ error_V
    expected = []
    for _ in range(6):
        reaching_H = _recurrent(model).detach().T @ reaching_H
        expected.append(reaching_H.norm().item())
    assert found == pytest.approx(expected, rel=1e-5)
