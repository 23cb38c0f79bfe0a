"""Recurrent language models."""

from typing import Any

import pydantic
import pytest
import torch
from torch.nn import functional as F

from core.config import model_settings
from core.models import factory, language_model


def build(vocabulary_size: int = 11, **settings: Any) -> language_model.LanguageModel:
    torch.manual_seed(2)
    config = model_settings.LanguageModelConfig(
        kind="language_model", **{"hidden_size": 6, "embedding_size": 5} | settings
    )
    model = factory.build(config, {"text": vocabulary_size}, pad_id=None)
    assert isinstance(model, language_model.LanguageModel)
    return model


COUNTS = [
    ("rnn", "one", 291_356),
    ("rnn", "two", 291_868),
    ("gru", "one", 845_340),
    ("gru", "two", 846_876),
    ("lstm", "one", 1_122_332),
    ("lstm", "two", 1_124_380),
]


@pytest.mark.parametrize(("cell", "biases", "expected"), COUNTS)
def test_parameter_counts_of_character_models(cell: str, biases: str, expected: int) -> None:
    model = build(28, cell=cell, biases=biases, hidden_size=512, input="one_hot")
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_one_hot_input_equals_an_identity_embedding() -> None:
    one_hot = build(input="one_hot", cell="gru")
    embedding = build(embedding_size=11, cell="gru")
    embedding.load_state_dict(one_hot.state_dict() | {"embedding.weight": torch.eye(11)})
    tokens_BT = torch.randint(0, 11, (3, 7))
    first, second = (model(tokens_BT, model.initial_state(3))[0] for model in (one_hot, embedding))
    torch.testing.assert_close(first, second)


WAYS: list[dict[str, Any]] = [
    {},
    {"num_layers": 2, "cell": "gru"},
    {"tie_embeddings": True},
    {"num_layers": 2, "cell": "lstm_coupled", "hidden_size": (6, 3), "connections": "dense", "layer_norm": True},
    {"num_layers": 3, "cell": "gru", "gru_reset": "before", "connections": "residual", "initial_state": "learned"},
    {"cell": "feedforward", "context": 1},
    {"cell": "feedforward", "context": 4, "connections": "direct"},
    {"cell": "feedforward", "context": 7, "tie_embeddings": True},  # longer than a window
]


@pytest.mark.parametrize("settings", WAYS)
def test_windows_and_steps_equal_the_whole_text(settings: dict[str, Any]) -> None:
    model = build(**settings)
    tokens_BT = torch.randint(0, 11, (3, 8))
    whole_BTF, _ = model(tokens_BT, model.initial_state(3))
    first_BTF, state = model(tokens_BT[:, :5], model.initial_state(3))
    second_BTF, _ = model(tokens_BT[:, 5:], state)
    torch.testing.assert_close(torch.cat((first_BTF, second_BTF), dim=1), whole_BTF)
    state = model.initial_state(3)
    for time in range(8):
        features_BF, state = model.step(tokens_BT[:, time], state)
        torch.testing.assert_close(features_BF, whole_BTF[:, time])


@pytest.mark.parametrize("tied", [False, True])
def test_loss_from_features_equals_loss_from_logits(tied: bool) -> None:
    model = build(tie_embeddings=tied)
    tokens_BT, targets_BT = torch.randint(0, 11, (3, 8)), torch.randint(0, 11, (3, 8))
    features_BTF, _ = model(tokens_BT, model.initial_state(3))
    logits_BTV = model.logits(features_BTF)
    assert logits_BTV.shape == (3, 8, 11)
    loss = F.linear_cross_entropy(
        features_BTF.flatten(0, 1),
        model.output_weight_VF,
        targets_BT.flatten(),
        linear_bias=model.output_bias_V,
        reduction="sum",
    )
    torch.testing.assert_close(loss, F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction="sum"))


@pytest.mark.parametrize(("cutoffs", "size"), [((), 4), ((3,), 4)])
def test_tied_embeddings_are_scaled_by_the_square_root_of_their_size(cutoffs: tuple[int, ...], size: int) -> None:
    tokens = torch.tensor([0, 2, 4])
    ways: dict[str, Any] = {"tie_embeddings": True, "embedding_size": size, "adaptive_cutoffs": cutoffs}
    scaled, plain = build(**ways), build(**ways, scale_tied=False)
    plain.load_state_dict(scaled.state_dict())
    torch.testing.assert_close(scaled.embed(tokens), 2 * plain.embed(tokens))
    if not cutoffs:
        torch.testing.assert_close(plain.embed(tokens), plain.output_weight_VF[tokens])


def test_tied_model_shares_embedding_and_output_weights() -> None:
    tied, untied = build(tie_embeddings=True, hidden_size=5), build(hidden_size=5)
    assert tied.output_weight_VF is tied.embedding.weight
    sizes = [sum(parameter.numel() for parameter in model.parameters()) for model in (tied, untied)]
    assert sizes[1] - sizes[0] == 11 * 5


def test_language_model_is_causal() -> None:
    model = build(num_layers=2)
    tokens_BT = torch.randint(0, 11, (1, 8))
    changed_BT = tokens_BT.clone()
    changed_BT[0, 5] = (tokens_BT[0, 5] + 1) % 11
    before, after = (model(tokens, model.initial_state(1))[0] for tokens in (tokens_BT, changed_BT))
    differs_T = (before != after).any(dim=-1).squeeze(0)
    assert differs_T.tolist() == [False] * 5 + [True] * 3


def test_raw_outputs_are_before_output_dropout() -> None:
    model = build(output_dropout=0.5, hidden_size=40).train()
    outputs = model.outputs(torch.randint(0, 11, (3, 8)), model.initial_state(3))
    kept = outputs.features_BTF != 0
    assert 0.3 < kept.float().mean() < 0.7
    torch.testing.assert_close(outputs.features_BTF[kept], 2 * outputs.raw_BTH[kept])
    torch.testing.assert_close(outputs.raw_BTH[:, -1], outputs.state[-1][0])


def test_locked_dropout_of_features_is_the_same_at_all_steps() -> None:
    model = build(output_dropout=0.5, embedding_dropout=0.5, locked_dropout=True, hidden_size=40).train()
    outputs = model.outputs(torch.randint(0, 11, (3, 8)), model.initial_state(3))
    dropped_BTF = outputs.features_BTF == 0
    assert (dropped_BTF == dropped_BTF[:, :1]).all()
    assert 0.3 < dropped_BTF.float().mean() < 0.7


def test_bidirectional_language_model_is_refused() -> None:
    with pytest.raises(pydantic.ValidationError, match="must not see the tokens"):
        build(bidirectional=True)
