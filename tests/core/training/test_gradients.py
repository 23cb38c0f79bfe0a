"""Gradient norms and clipping worked by hand, and gradient diagnostics against closed forms."""

import math

import pytest
import torch
from torch import nn

from core.config import training_settings
from core.models import factory, language_model
from core.training import gradients
from tests.core.training import builders


def _model() -> nn.Module:
    """Two layers with gradients of norm 5 and 13; that of both is the root of 194."""
    model = nn.ModuleDict({"low": nn.Linear(1, 2), "high": nn.Linear(1, 1, bias=False)})
    for parameter, values in zip(model.parameters(), ([[3.0], [0.0]], [4.0, 0.0], [[13.0]]), strict=True):
        parameter.grad = torch.tensor(values)
    return model


def _gradients(model: nn.Module) -> list[list[float]]:
    return [parameter.grad.flatten().tolist() for parameter in model.parameters() if parameter.grad is not None]


def test_gradient_norms_by_layer() -> None:
    assert gradients.layer_norms(_model()) == pytest.approx({"low": 5.0, "high": 13.0})


def test_clipping_by_layer_scales_each_layer_on_its_own() -> None:
    model = _model()
    within = gradients.limits(training_settings.TrainingConfig(clip_norm=6.5, clip_by="layer"))
    assert gradients.clip_to_limits(model, within).item() == pytest.approx(math.sqrt(194))
    assert _gradients(model) == [pytest.approx(values) for values in ([3.0, 0.0], [4.0, 0.0], [6.5])]


def test_clipping_by_value_clips_each_entry() -> None:
    model = _model()
    next(model.parameters()).grad.mul_(-1)  # type: ignore[union-attr]
    within = gradients.limits(training_settings.TrainingConfig(clip_norm=None, clip_value=3.5))
    assert gradients.clip_to_limits(model, within).item() == pytest.approx(math.sqrt(194))
    assert _gradients(model) == [[-3.0, -0.0], [3.5, 0.0], [3.5]]


def test_clipping_by_the_global_norm_is_the_default() -> None:
    model = _model()
    gradients.clip_to_limits(model, gradients.limits(training_settings.TrainingConfig()))
    scale = 1 / math.sqrt(194)
    assert _gradients(model) == [
        pytest.approx([3 * scale, 0]),
        pytest.approx([4 * scale, 0]),
        pytest.approx([13 * scale]),
    ]


def _tiny(cell: str) -> language_model.LanguageModel:
    config = builders.TEXT.model_copy(update={"cell": cell, "hidden_size": 2})
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


def _kept(model: language_model.LanguageModel, cell: str, inputs_BT: torch.Tensor) -> float:
    """The mean gate of the formulas: forget of an LSTM (looking at c through a peephole), update z of a GRU."""
    own = {name.rpartition(".")[2]: value.detach() for name, value in model.named_parameters() if "stack" in name}
    w, u, b, d = (
        next(value for name, value in own.items() if kind in name)
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    gates, h, c = [], torch.zeros(2, 2), torch.zeros(2, 2)
    for x in model.embed(inputs_BT).detach().unbind(dim=1):
        inputs, recurrent = x @ w.T + b, h @ u.T + d
        if cell == "gru":
            z = (inputs + recurrent)[:, 2:4].sigmoid()
            r = (inputs + recurrent)[:, :2].sigmoid()
            h = (1 - z) * (inputs[:, 4:] + r * recurrent[:, 4:]).tanh() + z * h
            gates.append(z)
            continue
        i, f, g, o = (inputs + recurrent).chunk(4, dim=1)
        see_i, see_f, see_o = own["weight_peephole"] if cell == "lstm_peephole" else torch.zeros(3, 2)
        gates.append((f + see_f * c).sigmoid())
        i, o = (i + see_i * c).sigmoid(), (o + see_o * c).sigmoid()
        c = gates[-1] * c + i * g.tanh()
        h = o * c.tanh()
    return torch.stack(gates).mean().item()


@pytest.mark.parametrize("cell", ["lstm", "lstm_peephole", "gru"])
def test_forget_gates_match_the_formulas_of_lstm_and_gru(cell: str) -> None:
    model, inputs_BT = _tiny(cell), torch.tensor([[0, 3, 1, 4], [2, 2, 0, 1]])
    ((_, mean),) = gradients.forget_gates(model, inputs_BT).items()
    assert mean == pytest.approx(_kept(model, cell, inputs_BT), rel=1e-5)


@pytest.mark.parametrize(
    ("cell", "gate", "kept"),
    [
        ("lstm", 1, 0.75),
        ("lstm_peephole", 1, 0.75),
        ("lstm_coupled", 0, 0.75),
        ("lstm_no_output", 1, 0.75),
        ("gru", 1, 0.75),
        ("gru_before", 1, 0.75),
        ("gru_coupled", 0, 0.75),
        ("mgu", 0, 0.25),  # h' = (1 - f) h + f n
    ],
)
def test_forget_gates_of_three_quarters_for_each_cell(cell: str, gate: int, kept: float) -> None:
    """With nothing but a bias of ln 3 the gate is 3/4 in every step."""
    model = _tiny(cell)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "stack" in name:
                parameter.zero_()
                if "bias_ih" in name:
                    parameter[2 * gate : 2 * gate + 2] = math.log(3)
    ((_, mean),) = gradients.forget_gates(model, torch.zeros((2, 3), dtype=torch.int64)).items()
    assert mean == pytest.approx(kept)
    assert gradients.forget_gates(_tiny("rnn"), torch.zeros((2, 3), dtype=torch.int64)) == {}


def test_gradient_norms_by_lag_are_powers_of_the_recurrent_matrix() -> None:
    """A tanh network at rest has slope 1, so it is the linear network: ‖(W_hh^T)^(k+1) W_qh^T dl/do‖ at lag k."""
    model = _tiny("rnn")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias" in name or "embedding" in name:
                parameter.zero_()
        _recurrent(model).copy_(torch.tensor([[0.9, 0.4], [-0.3, 0.8]]))
    norms = gradients.norms_by_lag(model, torch.zeros((3, 6), dtype=torch.int64), torch.tensor([1, 1, 1]))
    error_V = torch.full((5,), 0.2) - torch.eye(5)[1]
    reaching_H = model.output_weight_VF.detach().T @ error_V
    expected = []
    for _ in range(6):
        reaching_H = _recurrent(model).detach().T @ reaching_H
        expected.append(reaching_H.norm().item())
    assert norms == pytest.approx(expected, rel=1e-5)
