"""Stacks and encoders against torch's modules, with padding, connections and dropout."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.models import cells, compute, recurrent_layer, recurrent_stack

FUSED = ("rnn", "gru", "lstm")
CELLS = tuple(cells.CELLS)
LENGTHS = (5, 2, 7, 1)
TORCH: dict[str, type[nn.RNN] | type[nn.GRU] | type[nn.LSTM]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


def stack_config(cell: str, num_layers: int, **settings: Any) -> recurrent_stack.StackConfig:
    return recurrent_stack.StackConfig(cell, (4,) * num_layers, **settings)


def encoder_of(cell: str, bidirectional: bool, num_layers: int = 2) -> recurrent_stack.Encoder:
    torch.manual_seed(5)
    return recurrent_stack.Encoder(stack_config(cell, num_layers), 3, num_layers if bidirectional else 0).double()


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(6)
    return torch.randn(4, 7, 3, dtype=torch.float64), torch.tensor(LENGTHS)


def torch_twin(encoder: recurrent_stack.Encoder) -> nn.RNN | nn.GRU | nn.LSTM:
    """Torch's own module with the same weights, to be run over rows without padding."""
    num_layers = len(encoder.forward_layers)
    both = encoder.num_bidirectional > 0
    twin = TORCH[encoder.config.cell](3, 4, num_layers, batch_first=True, bidirectional=both).double()
    directions = {"": encoder.forward_layers}
    if both:
        directions["_reverse"] = encoder.backward_layers
    with torch.no_grad():
        for (ending, layers), index in itertools.product(directions.items(), range(num_layers)):
            layer = layers[index]
            assert isinstance(layer, recurrent_layer.FusedLayer)
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                twin.get_parameter(f"{name}_l{index}{ending}").copy_(getattr(layer, name))
    return twin


@pytest.mark.parametrize(("cell", "bidirectional"), list(itertools.product(FUSED, (False, True))))
def test_encoder_equals_torch_on_rows_without_padding(cell: str, bidirectional: bool) -> None:
    encoder, (x_BSE, lengths_B) = encoder_of(cell, bidirectional), batch()
    encoded = encoder(x_BSE, lengths_B, exact_state=True)
    twin = torch_twin(encoder)
    for row, length in enumerate(LENGTHS):
        y_SC, final = twin(x_BSE[row, :length])
        torch.testing.assert_close(encoded.outputs_BSC[row, :length], y_SC)
        assert not encoded.outputs_BSC[row, length:].any()
        finals = final if isinstance(final, tuple) else (final,)
        # Torch's order of states: first layer forward, first layer backward, second layer forward …
        for part, whole in enumerate(finals):
            for index in range(2):
                directions = whole[2 * index : 2 * index + 2] if bidirectional else whole[index : index + 1]
                torch.testing.assert_close(encoded.state[index][part][row], directions.flatten())


@pytest.mark.parametrize(("cell", "exact_state"), list(itertools.product(CELLS, (False, True))))
def test_padding_does_not_influence_the_encoder(cell: str, exact_state: bool) -> None:
    encoder, (x_BSE, lengths_B) = encoder_of(cell, bidirectional=True), batch()
    x_BSE.requires_grad_()
    padding_BS = torch.arange(7) >= lengths_B[:, None]
    loud_BSE = x_BSE.masked_fill(padding_BS.unsqueeze(-1), 1e6)
    quiet, loud = encoder(x_BSE, lengths_B, exact_state), encoder(loud_BSE, lengths_B, exact_state)
    torch.testing.assert_close(loud.outputs_BSC, quiet.outputs_BSC, atol=0, rtol=0)
    torch.testing.assert_close(loud.state[1][0], quiet.state[1][0], atol=0, rtol=0)
    (quiet.outputs_BSC.sum() + quiet.state[1][0].sum()).backward()
    assert x_BSE.grad is not None
    assert not x_BSE.grad[padding_BS].any()
    assert x_BSE.grad[~padding_BS].abs().min() > 0


def test_packed_lstm_equals_padded_lstm() -> None:
    encoder, (x_BSE, lengths_B) = encoder_of("lstm", bidirectional=True), batch()
    packed, padded = encoder(x_BSE, lengths_B, exact_state=True), encoder(x_BSE, lengths_B, exact_state=False)
    torch.testing.assert_close(padded.outputs_BSC, packed.outputs_BSC)
    torch.testing.assert_close(padded.state[1][0], packed.state[1][0])


@pytest.mark.parametrize(("precision", "width"), [("fp32", 6), ("bf16", 8)])
def test_an_lstm_that_is_held_at_padding_has_inputs_that_its_kernel_likes(
    precision: compute.Precision, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One column holds it; in bf16 the next multiple of eight is up to four times as fast, and holds it as well."""
    widths, kernel = set(), recurrent_layer._KERNELS["LSTM"]

    def recorded(x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        widths.add(x.shape[-1])
        return kernel(x, *arguments)

    monkeypatch.setitem(recurrent_layer._KERNELS, "LSTM", recorded)
    encoder = recurrent_stack.Encoder(stack_config("lstm", 1), 5)
    x_BSE, lengths_B = torch.randn(3, 7, 5), torch.tensor([7, 2, 5])
    with compute.autocast("cpu", precision):
        encoded = encoder(x_BSE, lengths_B, exact_state=True)
    assert widths == {width}
    for row, length in enumerate(lengths_B.tolist()):
        alone = encoder(x_BSE[row : row + 1, :length], lengths_B[row : row + 1], exact_state=True)
        for part, expected in zip(encoded.state[0], alone.state[0], strict=True):
            torch.testing.assert_close(part[row], expected[0], atol=0.02, rtol=0.02)


@pytest.mark.parametrize("cell", CELLS)
def test_encoder_accepts_an_empty_batch(cell: str) -> None:
    encoder = encoder_of(cell, bidirectional=True)
    encoded = encoder(torch.zeros(0, 7, 3, dtype=torch.float64), torch.zeros(0, dtype=torch.int64), exact_state=True)
    encoded.outputs_BSC.sum().backward()
    assert encoded.outputs_BSC.shape == (0, 7, 8)
    assert all(parameter.grad is not None for parameter in encoder.parameters())


@pytest.mark.parametrize("cell", FUSED)
def test_stack_and_its_steps_equal_torchs_module(cell: str) -> None:
    torch.manual_seed(7)
    stack = recurrent_stack.Stack(stack_config(cell, 3), 3)
    x_BTE = torch.randn(2, 5, 3)
    y_BTH, after = stack(x_BTE, stack.initial_state(2))
    twin = TORCH[cell](3, 4, 3, batch_first=True)
    for mine, theirs in zip(stack.parameters(), twin.parameters(), strict=True):
        theirs.data.copy_(mine.data)
    torch.testing.assert_close(y_BTH, twin(x_BTE)[0])
    state = stack.initial_state(2)
    for time in range(5):
        y_BH, state = stack.step(stack.layer(0).project(x_BTE[:, time]), state)
        torch.testing.assert_close(y_BH, y_BTH[:, time])
    for layer, expected in zip(state, after, strict=True):
        for part, expected_part in zip(layer, expected, strict=True):
            torch.testing.assert_close(part, expected_part)


def test_dropout_is_between_layers_only_and_seeded() -> None:
    x_BTE = torch.randn(2, 5, 3)
    outputs: dict[int, list[Tensor]] = {}
    for num_layers in (1, 2):
        stack = recurrent_stack.Stack(recurrent_stack.StackConfig("gru", (64,) * num_layers, dropout=0.5), 3)
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            outputs.setdefault(num_layers, []).append(stack(x_BTE, stack.initial_state(2))[0])
    assert all(torch.equal(outputs[1][0], other) for other in outputs[1])
    assert torch.equal(outputs[2][0], outputs[2][1])
    assert not torch.equal(outputs[2][0], outputs[2][2])


OPTIONS: dict[str, dict[str, Any]] = {
    "residual": {"connections": "residual"},
    "highway": {"connections": "highway", "layer_norm": True},
    "dense": {"connections": "dense", "sizes": (4, 5, 6)},
    "norm": {"layer_norm": True, "sizes": (6, 5, 4), "num_biases": 1},
    "learned": {"learned_initial_state": True},
}


@pytest.mark.parametrize(("cell", "option"), [*((cell, "residual") for cell in CELLS), *(("lstm", o) for o in OPTIONS)])
def test_steps_equal_the_sequence_with_any_connections(cell: str, option: str) -> None:
    torch.manual_seed(7)
    stack = recurrent_stack.Stack(
        recurrent_stack.StackConfig(**({"cell": cell, "sizes": (4, 4, 4)} | OPTIONS[option])), 3
    ).double()
    x_BTE = torch.randn(2, 5, 3, dtype=torch.float64)
    for parameter in stack.parameters():
        torch.nn.init.normal_(parameter)
    state = stack.initial_state(2)
    y_BTH, after = stack(x_BTE, state)
    assert y_BTH.shape == (2, 5, stack.output_size)
    for time in range(5):
        y_BH, state = stack.step(stack.layer(0).project(x_BTE[:, time]), state)
        torch.testing.assert_close(y_BH, y_BTH[:, time])
    for layer, expected in zip(state, after, strict=True):
        torch.testing.assert_close(layer, expected)


@pytest.mark.parametrize("option", OPTIONS)
def test_stack_gradients_pass_gradcheck(option: str) -> None:
    torch.manual_seed(7)
    stack = recurrent_stack.Stack(
        recurrent_stack.StackConfig(**({"cell": "mgu", "sizes": (4, 4, 4)} | OPTIONS[option])), 3
    ).double()
    x_BTE = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: stack(x, stack.initial_state(2))[0], (x_BTE,), atol=1e-5)


def layer_by_layer(stack: recurrent_stack.Stack, x_BTE: Tensor) -> list[Tensor]:
    """Returns the outputs of all layers of a residual, highway or dense stack, by the formulas."""
    outputs: list[Tensor] = []
    for index, state in enumerate(stack.initial_state(x_BTE.shape[0])):
        entering = x_BTE
        if index > 0:
            entering = torch.cat(outputs, dim=-1) if stack.config.connections == "dense" else outputs[-1]
        y_BTH, _ = stack.layer(index)(entering, state)
        if index > 0 and stack.config.connections == "residual":
            y_BTH = y_BTH + entering
        if index > 0 and stack.config.connections == "highway":
            gate = torch.sigmoid(stack.joints.gates[index](entering))
            y_BTH = gate * y_BTH + (1 - gate) * entering
        outputs.append(y_BTH)
    return outputs


@pytest.mark.parametrize("connections", ["residual", "highway", "dense"])
def test_residual_highway_and_dense_equal_their_formulas(connections: str) -> None:
    torch.manual_seed(7)
    stack = recurrent_stack.Stack(stack_config("gru", 3, connections=connections), 3)
    x_BTE = torch.randn(2, 5, 3)
    torch.testing.assert_close(stack(x_BTE, stack.initial_state(2))[0], layer_by_layer(stack, x_BTE)[-1])


def test_layer_norm_outputs_have_mean_0_and_variance_1() -> None:
    stack = recurrent_stack.Stack(recurrent_stack.StackConfig("lstm", (64, 64), layer_norm=True), 3)
    y_BTH, _ = stack(torch.randn(2, 5, 3), stack.initial_state(2))
    torch.testing.assert_close(y_BTH.mean(-1), torch.zeros(2, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(y_BTH.var(-1, unbiased=False), torch.ones(2, 5), atol=2e-2, rtol=0)


def test_locked_dropout_mask_is_constant_in_a_window() -> None:
    stack = recurrent_stack.Stack(
        recurrent_stack.StackConfig("rnn_identity", (50, 50), dropout=0.5, locked_dropout=True), 3
    )
    layer_inputs: list[Tensor] = []
    stack.layer(1).register_forward_pre_hook(lambda _, given: layer_inputs.append(given[0]))
    x_BTE = torch.randn(4, 6, 3)
    for _ in range(2):
        stack(x_BTE, stack.initial_state(4))
    first, second = (x_BTE == 0 for x_BTE in layer_inputs)
    assert 0.3 < first.double().mean() < 0.7
    assert (first == first[:, :1]).all()
    assert (first[0] != first[1]).any()
    assert (first != second).any()
    stack.eval()(x_BTE, stack.initial_state(4))
    assert layer_inputs[2].all()


@pytest.mark.parametrize("cell", ["lstm", "gru_before"])
def test_steps_with_the_windows_dropout_equal_the_sequence(cell: str) -> None:
    stack = recurrent_stack.Stack(
        recurrent_stack.StackConfig(cell, (8, 8, 8), 0.5, weight_dropout=0.5, locked_dropout=True), 3
    )
    x_BTE = torch.randn(2, 5, 3)
    torch.manual_seed(1)
    y_BTH, _ = stack(x_BTE, stack.initial_state(2))
    torch.manual_seed(1)
    dropout, state = stack.draw_dropout(2), stack.initial_state(2)
    for time in range(5):
        y_BH, state = stack.step(stack.layer(0).project(x_BTE[:, time]), state, dropout)
        torch.testing.assert_close(y_BH, y_BTH[:, time])
    assert not torch.equal(stack.eval()(x_BTE, stack.initial_state(2))[0], y_BTH)


def test_word_dropout_drops_a_word_everywhere_and_scales_the_others() -> None:
    torch.manual_seed(1)
    tokens_BT = torch.arange(200).repeat(2, 2)
    x_BTE = recurrent_stack.drop_words(torch.ones(2, 400, 3), tokens_BT, 200, 0.25, is_training=True)
    assert sorted(set(x_BTE.flatten().tolist())) == pytest.approx([0, 4 / 3])
    assert torch.equal(x_BTE[:, :200], x_BTE[:, 200:])
    assert torch.equal(x_BTE[0], x_BTE[1])
    assert 0.1 < (x_BTE[0] == 0).double().mean() < 0.4
    assert not torch.equal(
        x_BTE, recurrent_stack.drop_words(torch.ones(2, 400, 3), tokens_BT, 200, 0.25, is_training=True)
    )


def test_locked_dropout_has_one_mask_for_each_row_and_call() -> None:
    torch.manual_seed(1)
    first, second = (
        recurrent_stack.drop(torch.ones(2, 9, 400), 0.25, is_training=True, is_locked=True) for _ in range(2)
    )
    assert sorted(set(first.flatten().tolist())) == pytest.approx([0, 4 / 3])
    assert (first == first[:, :1]).all()
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, second)


def test_bidirectional_lowest_layer_with_narrower_backward_direction() -> None:
    torch.manual_seed(5)
    encoder = recurrent_stack.Encoder(
        stack_config("lstm", 3, connections="residual"), 3, 1, backward_sizes=(2, 2, 2)
    ).double()
    x_BSE, lengths_B = batch()
    encoded = encoder(x_BSE, lengths_B, exact_state=True)
    assert encoder.sizes == (6, 4, 4)
    assert [[part.shape for part in layer] for layer in encoded.state] == [[(4, size)] * 2 for size in (6, 4, 4)]
    lowest, back = encoder.forward_layers[0], encoder.backward_layers[0]
    assert isinstance(lowest, recurrent_layer.Layer)
    assert isinstance(back, recurrent_layer.Layer)
    row_1SE = x_BSE[1:2, : LENGTHS[1]]
    there, (there_h, _) = lowest(row_1SE, lowest.initial_state(1))
    again, (again_h, _) = back(row_1SE.flip(1), back.initial_state(1))
    torch.testing.assert_close(encoded.state[0][0][1:2], torch.cat((there_h, again_h), dim=-1))
    y_1SC = torch.cat((there, again.flip(1)), dim=-1)
    for index, way_around in ((1, False), (2, True)):
        layer = encoder.forward_layers[index]
        assert isinstance(layer, recurrent_layer.Layer)
        above, _ = layer(y_1SC, layer.initial_state(1))
        y_1SC = above + y_1SC if way_around else above
    torch.testing.assert_close(encoded.outputs_BSC[1:2, : LENGTHS[1]], y_1SC)


@pytest.mark.parametrize(("num_bidirectional", "expected"), [(0, 80_156), (1, 160_284)])
def test_parameter_counts_of_a_bidirectional_network(num_bidirectional: int, expected: int) -> None:
    encoder = recurrent_stack.Encoder(recurrent_stack.StackConfig("rnn", (256,), num_biases=1), 28, num_bidirectional)
    output = nn.Linear(encoder.output_size, 28)
    assert sum(part.numel() for module in (encoder, output) for part in module.parameters()) == expected


def test_learned_initial_state_has_a_gradient_in_every_window() -> None:
    stack = recurrent_stack.Stack(stack_config("lstm", 2, learned_initial_state=True), 3)
    x_BTE = torch.randn(2, 5, 3)
    y_BTH, after = stack(x_BTE, stack.initial_state(2))
    y_BTH.sum().backward()
    start = stack.layer(0).start
    assert start.grad is not None
    assert start.grad.all()
    start.grad = None
    stack(x_BTE, tuple(tuple(part.detach() for part in layer) for layer in after))[0].sum().backward()
    assert start.grad is not None
    assert not torch.as_tensor(start.grad).any()
