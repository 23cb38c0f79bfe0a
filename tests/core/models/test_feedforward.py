"""The feed-forward language model against its formula, and the reach of its context."""

from typing import Any

import pydantic
import pytest
import torch
from torch import Tensor

from core import errors
from core.config import loading, model_settings
from core.models import factory, feedforward, language_model, sizes
from core.models import state as states


def build(vocabulary_size: int = 11, **settings: Any) -> language_model.LanguageModel:
    torch.manual_seed(2)
    given = {"cell": "feedforward", "context": 3, "hidden_size": 6, "embedding_size": 5, **settings}
    config = model_settings.LanguageModelConfig(kind="language_model", **given)
    model = factory.build(config, {"text": vocabulary_size}, None)
    assert isinstance(model, language_model.LanguageModel)
    return model.double()


def tokens(*shape: int) -> Tensor:
    return torch.randint(0, 11, shape, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("connections", ["none", "direct"])
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_logits_and_gradients_equal_the_formula_of_bengio_et_al(connections: str, nonlinearity: str) -> None:
    """Logits are b + W x + U tanh(d + H x), x zero before the text; without direct connections W is 0."""
    model = build(connections=connections, nonlinearity=nonlinearity)
    tokens_BT = tokens(2, 7)
    assert isinstance(model.stack, feedforward.FeedForward)
    table, H, d = model.get_parameter("embedding.weight"), model.stack.hidden.weight, model.stack.hidden.bias
    U, W = model.output.weight[:, :6], model.output.weight[:, 6:]
    expected = []
    for row in tokens_BT:
        for t in range(7):
            context = [table[row[s]] if s >= 0 else torch.zeros(5).double() for s in range(t - 2, t + 1)]
            x = torch.cat(context)
            hidden = torch.tanh(d + H @ x) if nonlinearity == "tanh" else (d + H @ x).clamp(min=0)
            y = model.output.bias + U @ hidden
            expected.append(y + W @ x if connections == "direct" else y)
    expected_BTV = torch.stack(expected).view(2, 7, 11)
    logits_BTV = model.logits(model(tokens_BT, model.initial_state(2))[0])
    torch.testing.assert_close(logits_BTV, expected_BTV)
    weights_BTV = torch.randn(2, 7, 11, dtype=torch.float64)
    parameters = list(model.parameters())
    by_formula, ours = (torch.autograd.grad((weights_BTV * y).sum(), parameters) for y in (expected_BTV, logits_BTV))
    torch.testing.assert_close(ours, by_formula)


@pytest.mark.parametrize("context", [1, 3])
def test_a_token_influences_as_many_predictions_as_the_context_has_tokens(context: int) -> None:
    model = build(context=context)
    first_BT = tokens(1, 9)
    second_BT = first_BT.clone()
    second_BT[0, 2] = (first_BT[0, 2] + 1) % 11
    differs_T = (
        (model(first_BT, model.initial_state(1))[0] != model(second_BT, model.initial_state(1))[0]).any(-1).squeeze(0)
    )
    assert differs_T.tolist() == [2 <= t < 2 + context for t in range(9)]


def test_no_gradient_reaches_tokens_before_a_window_and_all_of_a_context_inside_it() -> None:
    model = build()
    before_BT, window_BT = torch.tensor([[0, 1, 2]]), torch.tensor([[3, 4, 5, 6]])
    _, state = model(before_BT, model.initial_state(1))
    features_BTF, _ = model(window_BT, states.detach(state))
    table = model.get_parameter("embedding.weight")
    (gradient_VE,) = torch.autograd.grad(features_BTF[0, 2].sum(), table, retain_graph=True)
    assert gradient_VE.any(dim=1).nonzero().flatten().tolist() == [3, 4, 5], "the context of the third prediction"
    (gradient_VE,) = torch.autograd.grad(features_BTF[0, 0].sum(), table)
    assert gradient_VE.any(dim=1).nonzero().flatten().tolist() == [3], (
        "1 and 2 are in its context, and before the window"
    )


def test_a_batch_without_rows_has_zero_gradients() -> None:
    model = build()
    features_BTF, state = model(torch.zeros(0, 4, dtype=torch.int64), model.initial_state(0))
    model.logits(features_BTF).sum().backward()  # type: ignore[no-untyped-call]
    assert states.to_named(state)["0.h"].shape == (0, 10)
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())


def test_parameters_by_part_worked_by_hand() -> None:
    assert sizes.parameters_by_part(build(connections="direct")) == {
        "embedding": 11 * 5,
        "feed-forward layer": 6 * 3 * 5 + 6,
        "output": 11 * (6 + 3 * 5) + 11,
    }


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"context": None}, "context: cell: feedforward sees a fixed number of tokens; set it"),
        ({"cell": "lstm"}, "context: has no effect with cell: lstm"),
        ({"num_layers": 2}, "num_layers: has no effect with cell: feedforward"),
        ({"dropout": 0.1}, "dropout: has no effect with cell: feedforward"),
        ({"weight_dropout": 0.1}, "weight_dropout: has no effect with cell: feedforward"),
        ({"layer_norm": True}, "layer_norm: has no effect with cell: feedforward"),
        ({"biases": "one"}, "biases: has no effect with cell: feedforward"),
        ({"initial_state": "learned"}, "initial_state: has no effect with cell: feedforward"),
        ({"recurrent_initialization": "identity"}, "recurrent_initialization: has no effect with cell: feedforward"),
        ({"connections": "highway"}, "connections: highway is for several layers"),
        ({"input": "one_hot"}, "input: cell: feedforward has embeddings"),
        ({"gru_reset": "before"}, "gru_reset: has no effect with cell: feedforward"),
        ({"forget_bias": 1.0}, "forget_bias: cell: feedforward has no forget gate"),
        ({"bidirectional": True}, "bidirectional"),
    ],
)
def test_settings_without_a_meaning_for_a_fixed_context_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=complaint):
        build(**settings)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("training.truncation=none", "training.truncation: none is of recurrences"),
        ("training.truncation=variable", "training.truncation: variable is of recurrences"),
        ("training.truncation=random", "training.truncation: random is of recurrences"),
        ("training.temporal_activation_regularization=1", "temporal_activation_regularization: is of recurrences"),
        ("model.context=4.5", "model.context"),
    ],
)
def test_settings_of_training_of_a_recurrence_are_refused(override: str, complaint: str) -> None:
    text = (
        "name: x\nroot: y\ncorpus: {kind: text, train: {text: [a.txt]}}\n"
        "model: {kind: language_model, cell: feedforward, context: 4}\n"
    )
    assert loading.parse(text, "run.yaml", []).model.kind == "language_model"
    with pytest.raises(errors.UsageError, match=complaint):
        loading.parse(text, "run.yaml", [override])


def test_an_encoder_decoder_cannot_be_feedforward() -> None:
    with pytest.raises(pydantic.ValidationError, match="cell: feedforward is for language models"):
        model_settings.Seq2SeqConfig(kind="seq2seq", cell="feedforward")
