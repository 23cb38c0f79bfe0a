"""Initialization of models by their settings."""

import math
from typing import Any

import pydantic
import pytest
import torch
from torch import Tensor

from core import errors
from core.config import model_settings
from core.models import factory, recurrent_layer, recurrent_stack, seq2seq
from core.models import language_model as language_models

SIZES = {"text": 40, "source": 40, "target": 30}


def language_model(initialization: str, **settings: Any) -> language_models.LanguageModel:
    torch.manual_seed(1)
    sizes = {"hidden_size": 200, "embedding_size": 100} | settings
    config = model_settings.LanguageModelConfig(kind="language_model", **{"initialization": initialization, **sizes})
    model = factory.build(config, SIZES, None)
    assert isinstance(model, language_models.LanguageModel)
    return model


def stack(model: language_models.LanguageModel) -> recurrent_stack.Stack:
    assert isinstance(model.stack, recurrent_stack.Stack)
    return model.stack


def test_normal_initialization_has_std_001_and_zero_biases() -> None:
    for parameter in language_model("normal").parameters():
        if parameter.dim() < 2:
            assert not parameter.any()
        else:
            assert parameter.std().item() == pytest.approx(0.01, rel=0.05)


def test_xavier_initialization_fills_its_bounds_with_zero_biases() -> None:
    for name, parameter in language_model("xavier").named_parameters():
        if name == "embedding.weight":
            assert parameter.std().item() == pytest.approx(1, rel=0.05)
        elif parameter.dim() < 2:
            assert not parameter.any()
        else:
            bound = math.sqrt(6 / sum(parameter.shape))
            assert bound * 0.99 < parameter.abs().max().item() <= bound


def test_scaled_embeddings_have_about_length_1_and_zero_padding() -> None:
    torch.manual_seed(1)
    model = factory.build(
        model_settings.Seq2SeqConfig(kind="seq2seq", embedding_initialization="scaled"), SIZES, pad_id=1
    )
    assert isinstance(model, seq2seq.Seq2Seq)
    for embedding in (model.source_embedding, model.target_embedding):
        lengths_V = embedding.weight.norm(dim=1)
        assert lengths_V[2:].tolist() == pytest.approx([1.0] * (len(lengths_V) - 2), abs=0.2)
        assert lengths_V[1] == 0


@pytest.mark.parametrize(
    ("initialization", "chosen", "std"),
    [
        ("torch", None, 1.0),
        ("torch", "scaled", 0.1),
        ("xavier", None, 1.0),
        ("xavier", "scaled", 0.1),
        ("normal", None, 0.01),
    ],
)
def test_initialization_of_embeddings_is_a_choice_of_its_own(
    initialization: str, chosen: str | None, std: float
) -> None:
    model = language_model(initialization, embedding_initialization=chosen)
    other = language_model(initialization, embedding_initialization="normal")
    embedding = model.get_parameter("embedding.weight")
    assert embedding.std().item() == pytest.approx(std, rel=0.05)
    # Nothing else differs.
    for name, parameter in model.named_parameters():
        assert name == "embedding.weight" or torch.equal(parameter, other.get_parameter(name))


def test_tied_embeddings_keep_the_initialization_of_the_output_layer() -> None:
    scaled, normal = (
        language_model("torch", embedding_initialization=chosen, tie_embeddings=True, embedding_size=200)
        for chosen in ("scaled", "normal")
    )
    assert torch.equal(scaled.get_parameter("output.weight"), normal.get_parameter("output.weight"))
    assert scaled.get_parameter("output.weight").std().item() == pytest.approx(200**-0.5, rel=0.05)


def test_equal_seeds_give_equal_weights_and_equal_names() -> None:
    first, second = (language_model("torch").state_dict() for _ in range(2))
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert "stack.layers.0.fused.weight_ih_l0" in first


def test_tying_all_needs_one_vocabulary() -> None:
    config = model_settings.Seq2SeqConfig(kind="seq2seq", tie_embeddings="all")
    with pytest.raises(errors.UsageError, match=r"40 entries .* 30; use tokenizer.shared: true"):
        factory.build(config, SIZES, 1)


def test_tied_embedding_has_unit_inputs_and_small_logits() -> None:
    torch.manual_seed(1)
    config = model_settings.LanguageModelConfig(
        kind="language_model", hidden_size=64, embedding_size=64, tie_embeddings=True, cell="gru"
    )
    model = factory.build(config, {"text": 500}, None)
    assert not isinstance(model, seq2seq.Seq2Seq)
    tokens_BT = torch.arange(500).view(10, 50)
    assert model.embed(tokens_BT).std().item() == pytest.approx(1.0, abs=0.05)
    features_BTF, _ = model(tokens_BT, model.initial_state(10))
    nll = torch.nn.functional.cross_entropy(model.logits(features_BTF).flatten(0, 1), tokens_BT.flatten()).item()
    assert nll == pytest.approx(math.log(500), abs=0.2)


def gates(layer: recurrent_layer.Layer) -> list[Tensor]:
    return [block.detach() for block in torch.split(layer.weight_hh, layer.hidden_size)]


@pytest.mark.parametrize("cell", ["lstm", "mgu"])
def test_orthogonal_and_identity_initialization_by_gate(cell: str) -> None:
    orthogonal = stack(language_model("orthogonal", cell=cell)).layer(0)
    same = stack(language_model("torch", cell=cell, recurrent_initialization="identity")).layer(0)
    for turned, kept in zip(gates(orthogonal), gates(same), strict=True):
        torch.testing.assert_close(turned @ turned.T, torch.eye(200), atol=1e-5, rtol=0)
        assert not torch.equal(turned, torch.eye(200))
        assert torch.equal(kept, torch.eye(200))
    assert not orthogonal.bias_ih.any()
    input_weights = same.weight_ih.detach()
    assert input_weights.abs().max() <= 200**-0.5


def test_he_initialization_has_variance_2_over_fan_in() -> None:
    weight = language_model("he").output.weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / 200), rel=0.05)


@pytest.mark.parametrize(
    ("cell", "biases", "gate"),
    [("lstm", "two", 1), ("lstm", "one", 1), ("lstm_coupled", "two", 0), ("lstm_no_output", "one", 1)],
)
def test_forget_bias_is_the_sum_of_the_forget_gates_biases(cell: str, biases: str, gate: int) -> None:
    layer = stack(language_model("xavier", cell=cell, biases=biases, forget_bias=1.5)).layer(0)
    second_G = layer.weights.bias_G
    total_G = layer.bias_ih if second_G is None else layer.bias_ih + second_G
    blocks = torch.split(total_G.detach(), 200)
    assert [bool((block == 1.5).all()) for block in blocks] == [index == gate for index in range(len(blocks))]


def test_initialization_leaves_layer_norm_and_initial_states() -> None:
    model = language_model("normal", layer_norm=True, initial_state="learned")
    assert not stack(model).layer(0).start.any()
    weights = dict(stack(model).joints.named_parameters())
    assert torch.equal(weights["norms.0.weight"], torch.ones(200))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"cell": "gru", "forget_bias": 1.0}, "no forget gate"),
        ({"cell": "lstm", "nonlinearity": "relu"}, "cell: rnn"),
        ({"cell": "mgu", "gru_reset": "before"}, "cell: gru"),
        ({"num_layers": 3, "hidden_size": (4, 2)}, "2 sizes for 3 layers"),
        ({"num_layers": 2, "hidden_size": (4, 2), "connections": "residual"}, "equal width"),
        ({"adaptive_cutoffs": (5, 5)}, "must increase"),
        ({"connections": "direct"}, "connections: direct belongs to cell: feedforward"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=complaint):
        model_settings.LanguageModelConfig(kind="language_model", **settings)
