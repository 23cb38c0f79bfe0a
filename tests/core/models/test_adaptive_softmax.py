"""Adaptive softmax: exact probabilities, from log_probs and from nll."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from core import errors
from core.config import model_settings
from core.models import adaptive_softmax, factory, language_model, token_loss


def output_of(cutoffs: tuple[int, ...] = (4, 10)) -> adaptive_softmax.AdaptiveSoftmax:
    torch.manual_seed(3)
    output = adaptive_softmax.AdaptiveSoftmax(16, 30, cutoffs).double()
    nn.init.normal_(output.bias_V)
    return output


def test_probabilities_sum_to_1_and_equal_torchs_adaptive_softmax() -> None:
    output, features_NF = output_of(), torch.randn(7, 16, dtype=torch.float64)
    log_probs_NV = output.log_probs(features_NF)
    torch.testing.assert_close(log_probs_NV.exp().sum(-1), torch.ones(7), check_dtype=False)
    theirs = nn.AdaptiveLogSoftmaxWithLoss(16, 30, [4, 10], div_value=4.0, head_bias=True).double()
    with torch.no_grad():
        theirs.head.weight.copy_(torch.cat((output.tables[0], output.bands.weight)))
        theirs.head.bias.copy_(torch.cat((output.bias_V[:4], output.bands.bias)))
        for index in range(2):
            narrow, rows = theirs.tail[index].parameters()
            narrow.copy_(output.projection(index + 1).weight)
            rows.copy_(output.tables[index + 1])
        output.bias_V[4:] = 0  # torch's own has none for rare tokens
    torch.testing.assert_close(output.log_probs(features_NF), theirs.log_prob(features_NF).float())


@pytest.mark.parametrize("num_targets", [0, 1, 50])
@pytest.mark.parametrize("at_once", [1 << 20, 0])
def test_nll_equals_log_probs_with_gradients_for_all_parameters(
    num_targets: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_loss, "FEW_LOGITS", at_once)
    output = output_of().float()
    plain = copy.deepcopy(output)
    features_NF, targets_N = torch.randn(num_targets, 16), torch.randint(0, 30, (num_targets,))
    nll = output.nll(features_NF, targets_N)
    expected = F.nll_loss(plain.log_probs(features_NF), targets_N, reduction="sum")
    torch.testing.assert_close(nll, expected)
    torch.autograd.backward((nll, expected))
    for mine, theirs in zip(output.parameters(), plain.parameters(), strict=True):
        assert mine.grad is not None
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-5)


def build(**settings: Any) -> language_model.LanguageModel:
    torch.manual_seed(2)
    sizes: dict[str, Any] = {"hidden_size": 6, "embedding_size": 16, "adaptive_cutoffs": (4, 10)}
    config = model_settings.LanguageModelConfig(kind="language_model", **(sizes | settings))
    model = factory.build(config, {"text": 30}, pad_id=None)
    assert isinstance(model, language_model.LanguageModel)
    return model


@pytest.mark.parametrize("tied", [False, True])
def test_logits_of_an_adaptive_model_are_log_probabilities(tied: bool) -> None:
    model = build(tie_embeddings=tied)
    tokens_BT = torch.arange(30).view(3, 10)
    features_BTF, _ = model(tokens_BT, model.initial_state(3))
    log_probs_BTV = model.logits(features_BTF)
    torch.testing.assert_close(log_probs_BTV, log_probs_BTV.log_softmax(-1))
    assert model.adaptive is not None
    nll = model.adaptive.nll(features_BTF.flatten(0, 1), tokens_BT.flatten())
    torch.testing.assert_close(nll, -log_probs_BTV.gather(-1, tokens_BT[..., None]).sum())
    with pytest.raises(AssertionError, match="logits"):
        _ = model.output_weight_VF


def test_tied_adaptive_embedding_is_the_projected_output_vectors() -> None:
    model = build(tie_embeddings=True)
    output = model.adaptive
    assert output is not None
    expected = [output.tables[0], *(output.tables[band] @ output.projection(band).weight for band in (1, 2))]
    tokens_BT = torch.randperm(30).view(5, 6)
    torch.testing.assert_close(model.embed(tokens_BT), 4 * torch.cat(expected)[tokens_BT])
    names = [name for name, _ in model.named_parameters() if "stack" not in name and "readout" not in name]
    assert all(name.startswith("adaptive.") for name in names)


def test_rare_words_have_fewer_parameters() -> None:
    sizes = [sum(part.numel() for part in build(adaptive_cutoffs=cutoffs).parameters()) for cutoffs in ((), (4, 10))]
    rows = 30 * 6 - (4 * 6 + 6 * 1 + 20 * 1)  # widths 6, 6 // 4 and the least, 1
    maps = 2 * 6 + (2 * 6 + 2)  # two projections, and the two entries of the head
    assert sizes[0] - sizes[1] == rows - maps


def test_cutoff_beyond_the_vocabulary_is_refused() -> None:
    with pytest.raises(errors.UsageError, match="30 entries"):
        build(adaptive_cutoffs=(4, 30))
