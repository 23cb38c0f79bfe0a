"""First weights are what the settings say."""

import math
from typing import Literal

import pytest
import torch
from torch import nn

from core import errors
from core.config import model_settings
from core.models import factory, seq2seq

SIZES = {"text": 40, "source": 40, "target": 30}


def language_model(initialization: Literal["torch", "xavier", "normal"]) -> nn.Module:
    torch.manual_seed(1)
    config = model_settings.LanguageModelConfig(
        kind="language_model", hidden_size=200, embedding_size=100, initialization=initialization
    )
    return factory.build(config, SIZES, None)


def test_normal_weights_have_a_deviation_of_a_hundredth_and_biases_none() -> None:
    for parameter in language_model("normal").parameters():
        if parameter.dim() < 2:
            assert not parameter.any()
        else:
            assert parameter.std().item() == pytest.approx(0.01, rel=0.05)


def test_xavier_weights_fill_their_bounds_and_biases_are_none() -> None:
    for name, parameter in language_model("xavier").named_parameters():
        if name == "embedding.weight":
            assert parameter.std().item() == pytest.approx(1, rel=0.05)
        elif parameter.dim() < 2:
            assert not parameter.any()
        else:
            bound = math.sqrt(6 / sum(parameter.shape))
            assert bound * 0.99 < parameter.abs().max().item() <= bound


def test_equal_seeds_give_equal_weights_and_equal_names() -> None:
    first, second = (language_model("torch").state_dict() for _ in range(2))
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert "stack.layers.0.fused.weight_ih_l0" in first


def test_tying_all_needs_one_vocabulary() -> None:
    config = model_settings.Seq2SeqConfig(kind="seq2seq", tie_embeddings="all")
    with pytest.raises(errors.UsageError, match=r"40 entries .* 30; use tokenizer.shared: true"):
        factory.build(config, SIZES, 1)


def test_a_tied_embedding_enters_with_size_1_and_leaves_small() -> None:
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
