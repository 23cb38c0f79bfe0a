"""Encoder-decoder models, with every combination of attention and context."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.config import model_settings
from core.models import factory, seq2seq
from core.models import state as states

VARIANTS = [
    *itertools.product(("rnn", "gru", "lstm"), ("none", "additive", "dot"), ("input", "output")),
    ("lstm", "general", "feed"),
    ("gru", "scaled_dot", "feed"),
    ("lstm_peephole", "additive", "input"),
    ("lstm_coupled", "none", "output"),
    ("lstm_no_output", "dot", "feed"),
    ("gru_coupled", "none", "input"),
    ("mgu", "general", "output"),
]
LENGTHS = torch.tensor([7, 3, 5, 1])


def build(**settings: Any) -> seq2seq.Seq2Seq:
    torch.manual_seed(4)
    sizes: dict[str, Any] = {"cell": "gru", "num_layers": 2, "hidden_size": 16, "embedding_size": 8}
    config = model_settings.Seq2SeqConfig(kind="seq2seq", **(sizes | settings))
    model = factory.build(config, {"source": 10, "target": 10}, pad_id=1)
    assert isinstance(model, seq2seq.Seq2Seq)
    if model.has_coverage:
        nn.init.normal_(model.attention.coverage_Q)  # it is zero at first, which no law would notice
    return model.eval()


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(5)
    return torch.randint(0, 10, (4, 7)), torch.randint(0, 10, (4, 6))


def stepped(model: seq2seq.Seq2Seq, memory: seq2seq.Memory, inputs_BT: Tensor) -> tuple[Tensor, states.State]:
    state, features = model.initial_state(memory), []
    for tokens_B in inputs_BT.unbind(dim=1):
        features_BF, state, _ = model.step(tokens_B, memory, state)
        features.append(features_BF)
    return torch.stack(features, dim=1), state


def test_encoder_decoder_shapes() -> None:
    model, (source_BS, _) = build(), batch()
    memory = model.encode(source_BS, torch.full((4,), 7))
    assert memory.outputs_BSC.shape == (4, 7, 16)
    assert [layer[0].shape for layer in memory.state] == [(4, 16), (4, 16)]
    features_BTF, state = model.decode(source_BS, memory, model.initial_state(memory))
    assert model.logits(features_BTF).shape == (4, 7, 10)
    assert [layer[0].shape for layer in state] == [(4, 16), (4, 16)]


@pytest.mark.parametrize(("cell", "attention", "context"), VARIANTS)
def test_steps_and_segments_equal_the_whole_target(cell: str, attention: str, context: str) -> None:
    model, (source_BS, inputs_BT) = build(cell=cell, attention=attention, context=context), batch()
    memory = model.encode(source_BS, LENGTHS)
    whole_BTF, after = model.decode(inputs_BT, memory, model.initial_state(memory))
    steps_BTF, after_steps = stepped(model, memory, inputs_BT)
    torch.testing.assert_close(steps_BTF, whole_BTF)
    first_BTF, state = model.decode(inputs_BT[:, :2], memory, model.initial_state(memory))
    second_BTF, after_segments = model.decode(inputs_BT[:, 2:], memory, state)
    torch.testing.assert_close(torch.cat((first_BTF, second_BTF), dim=1), whole_BTF)
    for others in (after_steps, after_segments):
        for layer, expected in zip(others, after, strict=True):
            for part, expected_part in zip(layer, expected, strict=True):
                torch.testing.assert_close(part, expected_part)


@pytest.mark.parametrize(("cell", "attention", "context"), VARIANTS)
@pytest.mark.parametrize("bridge", ["final", "mean"])
def test_features_do_not_depend_on_the_batch(cell: str, attention: str, context: str, bridge: str) -> None:
    model = build(cell=cell, attention=attention, context=context, bridge=bridge, bidirectional=True)
    source_BS, inputs_BT = batch()
    together_BTF = model(source_BS, LENGTHS, inputs_BT)
    for row, length in enumerate(LENGTHS.tolist()):
        alone_BTF = model(source_BS[row : row + 1, :length], LENGTHS[row : row + 1], inputs_BT[row : row + 1])
        torch.testing.assert_close(together_BTF[row], alone_BTF[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("cell", "attention", "context"), VARIANTS)
def test_beam_hypotheses_share_the_memory_of_their_source(cell: str, attention: str, context: str) -> None:
    model, (source_BS, _) = build(cell=cell, attention=attention, context=context), batch()
    memory = model.encode(source_BS, LENGTHS)
    rows = torch.arange(4).repeat_interleave(3)
    copied, state = memory.select(rows), states.select(memory.state, rows)
    tokens = torch.randint(0, 10, (12,))
    shared_BF, _, shared_weights_BS = model.step(tokens, memory, state)
    copied_BF, _, copied_weights_BS = model.step(tokens, copied, state)
    torch.testing.assert_close(shared_BF, copied_BF)
    if attention == "none":
        assert shared_weights_BS is None
    else:
        assert shared_weights_BS is not None
        torch.testing.assert_close(shared_weights_BS, copied_weights_BS)
        torch.testing.assert_close(shared_weights_BS.sum(-1), torch.ones(12))
        assert not shared_weights_BS.masked_select(~copied.mask_BS).any()


@pytest.mark.parametrize(("cell", "attention", "context"), VARIANTS)
def test_all_parameters_have_gradients_which_are_zero_for_an_empty_batch(
    cell: str, attention: str, context: str
) -> None:
    model = build(cell=cell, attention=attention, context=context, bidirectional=True, decoder_hidden_size=12)
    source_BS, inputs_BT = batch()
    torch.autograd.backward(model.logits(model(source_BS, LENGTHS, inputs_BT)).square().sum())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    model.zero_grad()
    empty_BTF = model(source_BS[:0], LENGTHS[:0], inputs_BT[:0])
    assert empty_BTF.shape == (0, 6, 12)
    torch.autograd.backward(model.logits(empty_BTF).sum())
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_decoder_without_attention_equals_a_gru_with_constant_context() -> None:
    """In the plainest torch: a GRU over [embedding; the encoder's last state], started from the encoder's states."""
    model, (source_BS, inputs_BT) = build(context="input"), batch()
    whole = torch.full((4,), 7)
    encoder, decoder = nn.GRU(8, 16, 2, batch_first=True), nn.GRU(8 + 16, 16, 2, batch_first=True)
    for theirs, mine in ((encoder, model.encoder), (decoder, model.decoder)):
        for parameter, expected in zip(theirs.parameters(), mine.parameters(), strict=True):
            parameter.data.copy_(expected.data)
    _, state = encoder(model.source_embedding(source_BS))
    context_BTC = state[-1].unsqueeze(1).expand(-1, 6, -1)
    expected_BTF, _ = decoder(torch.cat((model.target_embedding(inputs_BT), context_BTC), dim=-1), state)
    torch.testing.assert_close(model(source_BS, whole, inputs_BT), expected_BTF)


def test_mean_bridge_maps_the_mean_over_tokens() -> None:
    model, (source_BS, _) = build(cell="lstm", bridge="mean", decoder_num_layers=1), batch()
    memory = model.encode(source_BS, LENGTHS)
    mean_C = memory.outputs_BSC[1, :3].mean(dim=0)
    assert [len(layer) for layer in memory.state] == [2]
    for part, linear in zip(memory.state[0], model.bridge.maps, strict=True):
        torch.testing.assert_close(part[1], torch.tanh(linear(mean_C)))


def test_final_bridge_maps_only_where_sizes_differ() -> None:
    source_BS, _ = batch()
    same, other = build(bidirectional=True), build(bidirectional=True, decoder_hidden_size=12)
    x_BSE = same.source_embedding(source_BS)
    encoded = same.encoder(x_BSE, LENGTHS, exact_state=True)
    assert not list(same.bridge.parameters())
    torch.testing.assert_close(same.encode(source_BS, LENGTHS).state[0][0], encoded.state[0][0])
    assert [layer[0].shape for layer in other.encode(source_BS, LENGTHS).state] == [(4, 12), (4, 12)]


def test_backward_hidden_size_narrows_bidirectional_layers_only() -> None:
    sizes: dict[str, Any] = {"bidirectional": True, "bidirectional_layers": 1, "backward_hidden_size": 4}
    model, (source_BS, _) = build(**sizes), batch()
    assert model.encoder.sizes == (16 + 4, 16)
    assert [layer[0].shape for layer in model.encode(source_BS, LENGTHS).state] == [(4, 16), (4, 16)]


@pytest.mark.parametrize("tie", ["target", "all"])
@pytest.mark.parametrize("context", ["input", "output"])
def test_tied_features_are_as_wide_as_the_embedding(tie: str, context: str) -> None:
    model, (source_BS, inputs_BT) = build(tie_embeddings=tie, attention="dot", context=context), batch()
    assert model(source_BS, LENGTHS, inputs_BT).shape == (4, 6, 8)
    assert model.output_weight_VF is model.target_embedding.weight
    assert (model.source_embedding.weight is model.output_weight_VF) == (tie == "all")


@pytest.mark.parametrize(("attention", "context"), [("additive", "input"), ("dot", "output"), ("none", "input")])
def test_bf16_stays_near_fp32(attention: str, context: str) -> None:
    model, (source_BS, inputs_BT) = build(cell="lstm", attention=attention, context=context, bridge="mean"), batch()
    exact_BTF = model(source_BS, LENGTHS, inputs_BT)
    with torch.autocast("cpu", torch.bfloat16):
        memory = model.encode(source_BS, LENGTHS)
        rough_BTF, state = model.decode(inputs_BT, memory, memory.state)
    assert {part.dtype for layer in (*memory.state, *state) for part in layer} == {torch.float32}
    torch.testing.assert_close(rough_BTF.float(), exact_BTF, atol=0.02, rtol=0.02)


def test_input_feeding_equals_a_plain_gru_cell() -> None:
    """In the plainest torch: a GRU cell over [embedding; what was read out last], attention after it."""
    model, (source_BS, inputs_BT) = build(attention="general", context="feed", num_layers=1), batch()
    memory = model.encode(source_BS, LENGTHS)
    lowest = model.decoder.layer(0)
    cell = nn.GRUCell(8 + 16, 16)
    for theirs, mine in zip(cell.parameters(), lowest.parameters(), strict=True):
        theirs.data.copy_(mine.data)
    h_BH, fed_BF = memory.state[0][0], torch.zeros(4, 16)
    features_BTF = model(source_BS, LENGTHS, inputs_BT)
    for time in range(6):
        h_BH = cell(torch.cat((model.target_embedding(inputs_BT[:, time]), fed_BF), dim=-1), h_BH)
        scores_BS = torch.einsum("bh,hc,bsc->bs", h_BH, model.attention.key.weight, memory.outputs_BSC)
        weights_BS = scores_BS.masked_fill(~memory.mask_BS, -torch.inf).softmax(-1)
        context_BC = torch.einsum("bs,bsc->bc", weights_BS, memory.outputs_BSC)
        fed_BF = torch.tanh(model.readout(torch.cat((h_BH, context_BC), dim=-1)))
        torch.testing.assert_close(features_BTF[:, time], fed_BF)


GNMT: dict[str, Any] = {
    "cell": "lstm",
    "num_layers": 8,
    "bidirectional": True,
    "bidirectional_layers": 1,
    "decoder_num_layers": 8,
    "connections": "residual",
    "attention": "additive",
    "dropout": 0.2,
}


def test_gnmt_with_8_residual_layers_learns_in_a_few_steps() -> None:
    model, (source_BS, inputs_BT) = build(**GNMT).train(), batch()
    assert model.encoder.sizes == (32, *(16,) * 7)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    losses = []
    for _ in range(8):
        logits_BTV = model.logits(model(source_BS, LENGTHS, inputs_BT))
        loss = nn.functional.cross_entropy(logits_BTV.flatten(0, 1), inputs_BT.flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


STRUCTURES: list[dict[str, Any]] = [
    GNMT | {"num_layers": 3, "decoder_num_layers": 3, "context": "feed"},
    {"cell": "lstm_coupled", "connections": "dense", "hidden_size": (8, 4), "decoder_hidden_size": (6, 5)},
    {"bidirectional": True, "backward_hidden_size": 4, "layer_norm": True, "connections": "highway", "biases": "one"},
    {"initial_state": "learned", "attention": "dot", "context": "input", "connections": "residual", "num_layers": 3},
]


@pytest.mark.parametrize("structure", STRUCTURES)
def test_steps_equal_the_target_and_all_parameters_learn_in_any_structure(structure: dict[str, Any]) -> None:
    model, (source_BS, inputs_BT) = build(**structure), batch()
    memory = model.encode(source_BS, LENGTHS)
    whole_BTF, _ = model.decode(inputs_BT, memory, model.initial_state(memory))
    torch.testing.assert_close(stepped(model, memory, inputs_BT)[0], whole_BTF)
    torch.autograd.backward(model.logits(whole_BTF).square().sum())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


COVERAGE_VARIANTS = list(itertools.product(("additive", "general"), ("input", "output", "feed")))


@pytest.mark.parametrize(("attention", "context"), COVERAGE_VARIANTS)
def test_decoder_state_holds_the_coverage(attention: str, context: str) -> None:
    """Step by step, in whole, and in pieces of a target, whose state goes from one into the next."""
    model = build(attention=attention, context=context, coverage_attention=True, cell="lstm", bidirectional=True)
    source_BS, inputs_BT = batch()
    memory = model.encode(source_BS, LENGTHS)
    state, features, coverage_BS = model.initial_state(memory), [], torch.zeros(4, 7)
    for tokens_B in inputs_BT.unbind(dim=1):
        torch.testing.assert_close(state[-1][0], coverage_BS)
        features_BF, state, weights_BS = model.step(tokens_B, memory, state)
        assert weights_BS is not None
        torch.testing.assert_close(weights_BS.sum(-1), torch.ones(4))
        assert not weights_BS.masked_select(~memory.mask_BS).any()
        coverage_BS = coverage_BS + weights_BS
        features.append(features_BF)
    whole_BTF, after = model.decode(inputs_BT, memory, model.initial_state(memory))
    first_BTF, between = model.decode(inputs_BT[:, :2], memory, model.initial_state(memory))
    second_BTF, after_segments = model.decode(inputs_BT[:, 2:], memory, between)
    for actual_BTF in (torch.stack(features, dim=1), torch.cat((first_BTF, second_BTF), dim=1)):
        torch.testing.assert_close(actual_BTF, whole_BTF)
    for state in (after, after_segments):
        torch.testing.assert_close(state[-1][0], coverage_BS)


@pytest.mark.parametrize(("attention", "context"), COVERAGE_VARIANTS)
def test_decoder_with_zero_coverage_weight_equals_plain_attention(attention: str, context: str) -> None:
    """To the bit, the first weights too; only general's scores of a whole target come from another product."""
    covering, plain = (build(attention=attention, context=context, coverage_attention=flag) for flag in (True, False))
    nn.init.zeros_(covering.attention.coverage_Q)
    assert all(torch.equal(covering.state_dict()[name], weight) for name, weight in plain.state_dict().items())
    source_BS, inputs_BT = batch()
    actual, expected = (model(source_BS, LENGTHS, inputs_BT) for model in (covering, plain))
    if (attention, context) == ("general", "output"):
        torch.testing.assert_close(actual, expected)
    else:
        assert torch.equal(actual, expected)


@pytest.mark.parametrize(("attention", "context"), COVERAGE_VARIANTS)
def test_each_hypothesis_of_a_source_has_its_own_coverage(attention: str, context: str) -> None:
    model, (source_BS, _) = build(attention=attention, context=context, coverage_attention=True), batch()
    memory = model.encode(source_BS, LENGTHS)
    copied = memory.select(torch.arange(4).repeat_interleave(3))
    state = (*copied.state[:-1], (torch.rand(12, 7) * 3 * copied.mask_BS,))
    tokens = torch.randint(0, 10, (12,))
    (shared_BF, after, _), (copied_BF, copied_after, _) = (
        model.step(tokens, sources, state) for sources in (memory, copied)
    )
    torch.testing.assert_close(shared_BF, copied_BF)
    torch.testing.assert_close(after[-1][0], copied_after[-1][0])


@pytest.mark.parametrize(("attention", "context"), COVERAGE_VARIANTS)
def test_coverage_learns_and_stays_fp32_under_autocast(attention: str, context: str) -> None:
    model = build(attention=attention, context=context, coverage_attention=True)
    source_BS, inputs_BT = batch()
    exact_BTF = model(source_BS, LENGTHS, inputs_BT)
    torch.autograd.backward(model.logits(exact_BTF).square().sum())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        memory = model.encode(source_BS, LENGTHS)
        rough_BTF, state = model.decode(inputs_BT, memory, memory.state)
    assert state[-1][0].dtype == torch.float32
    torch.testing.assert_close(rough_BTF.float(), exact_BTF, atol=0.05, rtol=0.05)
    model.zero_grad()
    torch.autograd.backward(model(source_BS[:0], LENGTHS[:0], inputs_BT[:0]).sum())
    assert all(p.grad is not None for name, p in model.named_parameters() if not name.startswith("output"))


@pytest.mark.parametrize("context", ["input", "output", "feed"])
def test_locked_dropout_and_dropconnect_train_in_every_decoder(context: str) -> None:
    regular = {"dropout": 0.3, "weight_dropout": 0.3, "word_dropout": 0.1, "embedding_dropout": 0.1}
    model = build(**regular, output_dropout=0.3, locked_dropout=True, attention="dot", context=context).train()
    source_BS, inputs_BT = batch()
    features_BTF = model(source_BS, LENGTHS, inputs_BT)
    dropped_BTF = features_BTF == 0
    assert (dropped_BTF == dropped_BTF[:, :1]).all()
    assert dropped_BTF.any()
    torch.autograd.backward(features_BTF.sum())
    assert all(p.grad is not None for name, p in model.named_parameters() if not name.startswith("output"))
