"""Laws of stacks and encoders: padding is never seen, directions and layers are what torch's own are."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from core.models import cells, layers

CELLS = ("rnn", "gru", "lstm")
LENGTHS = (5, 2, 7, 1)
TORCH: dict[str, type[nn.RNN] | type[nn.GRU] | type[nn.LSTM]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


def encoder_of(cell: str, bidirectional: bool, num_layers: int = 2) -> layers.Encoder:
    torch.manual_seed(5)
    return layers.Encoder(cell, 3, 4, num_layers, 0.0, bidirectional).double()


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(6)
    return torch.randn(4, 7, 3, dtype=torch.float64), torch.tensor(LENGTHS)


def torch_twin(encoder: layers.Encoder) -> nn.RNN | nn.GRU | nn.LSTM:
    """Torch's own module with the same weights, to be run over rows without padding."""
    num_layers = len(encoder.forward_layers)
    twin = TORCH[encoder.cell](3, 4, num_layers, batch_first=True, bidirectional=encoder.bidirectional).double()
    directions = {"": encoder.forward_layers}
    if encoder.bidirectional:
        directions["_reverse"] = encoder.backward_layers
    with torch.no_grad():
        for (ending, found), index in itertools.product(directions.items(), range(num_layers)):
            layer = found[index]
            assert isinstance(layer, cells.Layer)
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                twin.get_parameter(f"{name}_l{index}{ending}").copy_(getattr(layer, name))
    return twin


@pytest.mark.parametrize(("cell", "bidirectional"), list(itertools.product(CELLS, (False, True))))
def test_an_encoder_is_a_loop_over_rows_without_padding(cell: str, bidirectional: bool) -> None:
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
def test_what_stands_in_the_padding_changes_nothing(cell: str, exact_state: bool) -> None:
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


def test_packing_an_lstm_changes_no_output() -> None:
    encoder, (x_BSE, lengths_B) = encoder_of("lstm", bidirectional=True), batch()
    packed, padded = encoder(x_BSE, lengths_B, exact_state=True), encoder(x_BSE, lengths_B, exact_state=False)
    torch.testing.assert_close(padded.outputs_BSC, packed.outputs_BSC)
    torch.testing.assert_close(padded.state[1][0], packed.state[1][0])


@pytest.mark.parametrize("cell", CELLS)
def test_an_encoder_takes_a_batch_without_rows(cell: str) -> None:
    encoder = encoder_of(cell, bidirectional=True)
    encoded = encoder(torch.zeros(0, 7, 3, dtype=torch.float64), torch.zeros(0, dtype=torch.int64), exact_state=True)
    encoded.outputs_BSC.sum().backward()
    assert encoded.outputs_BSC.shape == (0, 7, 8)
    assert all(parameter.grad is not None for parameter in encoder.parameters())


@pytest.mark.parametrize("cell", CELLS)
def test_a_stack_is_torchs_and_its_steps_are_its_sequence(cell: str) -> None:
    torch.manual_seed(7)
    stack = layers.Stack(cell, 3, 4, num_layers=3, dropout=0.0)
    x_BTE = torch.randn(2, 5, 3)
    y_BTH, after = stack(x_BTE, stack.initial_state(2))
    twin = TORCH[cell](3, 4, 3, batch_first=True)
    for mine, theirs in zip(stack.parameters(), twin.parameters(), strict=True):
        theirs.data.copy_(mine.data)
    torch.testing.assert_close(y_BTH, twin(x_BTE)[0])
    state = stack.initial_state(2)
    for time in range(5):
        state = stack.step(stack.layer(0).project(x_BTE[:, time]), state)
        torch.testing.assert_close(state[-1][0], y_BTH[:, time])
    for layer, wanted in zip(state, after, strict=True):
        for part, wanted_part in zip(layer, wanted, strict=True):
            torch.testing.assert_close(part, wanted_part)


def test_dropout_is_between_layers_only_and_repeats_with_the_seed() -> None:
    x_BTE = torch.randn(2, 5, 3)
    outputs: dict[int, list[Tensor]] = {}
    for num_layers in (1, 2):
        stack = layers.Stack("gru", 3, 64, num_layers, dropout=0.5)
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            outputs.setdefault(num_layers, []).append(stack(x_BTE, stack.initial_state(2))[0])
    assert all(torch.equal(outputs[1][0], other) for other in outputs[1])
    assert torch.equal(outputs[2][0], outputs[2][1])
    assert not torch.equal(outputs[2][0], outputs[2][2])
