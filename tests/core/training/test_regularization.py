"""AR, TAR and scheduled sampling, against their formulas."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from core.config import training_settings
from core.models import factory, language_model
from core.training import batches, losses, scheduled_sampling
from tests.core.training import builders


def test_ar_and_tar_worked_by_hand() -> None:
    """Two rows of three steps and two units: the mean square is 28 / 12; of the differences it is 10 / 8."""
    steps_BTH = torch.tensor([[[1.0, 2.0], [3.0, 2.0], [3.0, 1.0]], [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])
    assert losses.activation_penalty(steps_BTH).item() / 6 == pytest.approx((1 + 4 + 9 + 4 + 9 + 1) / 12)
    assert losses.temporal_penalty(steps_BTH).item() / 6 == pytest.approx((4 + 0 + 0 + 1) / 8)
    assert losses.temporal_penalty(steps_BTH[:, :1]).item() == 0.0


def test_the_objective_is_cross_entropy_plus_ar_and_tar() -> None:
    """As in the paper: AR on the inputs of the output layer, after dropout; TAR on the outputs of the top layer."""
    model = builders.TEXT.model_copy(update={"output_dropout": 0.4})
    torch.manual_seed(0)
    learned = losses.Objective(
        factory.build(model, {"text": 9}, None), activation_regularization=2.0, temporal_activation_regularization=1.0
    )
    inputs_BT, targets_N = torch.arange(12).remainder(7).view(2, 6), torch.arange(12).remainder(5)
    torch.manual_seed(1)
    sums = learned(batches.TextContent(inputs_BT, targets_N), None)
    torch.manual_seed(1)
    assert isinstance(learned.model, language_model.LanguageModel)
    outputs = learned.model.outputs(inputs_BT, learned.model.initial_state(2))
    assert (outputs.features_BTF == 0).any()
    assert (outputs.raw_BTH != 0).all()
    cross_entropy = F.cross_entropy(learned.model.logits(outputs.features_BTF).flatten(0, 1), targets_N)
    changes = outputs.raw_BTH[:, 1:] - outputs.raw_BTH[:, :-1]
    expected = cross_entropy + 2.0 * outputs.features_BTF.pow(2).mean() + 1.0 * changes.pow(2).mean()
    assert (sums.loss / 12).item() == pytest.approx(expected.item(), rel=1e-5)
    assert (sums.nll / 12).item() == pytest.approx(cross_entropy.item(), rel=1e-5)


def test_the_loss_of_an_adaptive_softmax_matches_its_logits() -> None:
    model = builders.TEXT.model_copy(update={"adaptive_cutoffs": (3,)})
    torch.manual_seed(0)
    learned = losses.Objective(factory.build(model, {"text": 9}, None))
    content = batches.TextContent(torch.arange(12).remainder(7).view(2, 6), torch.arange(12).remainder(9))
    sums, scores = learned(content, None), learned.score(content, None)
    assert isinstance(learned.model, language_model.LanguageModel)
    logits = learned.model.logits(learned.model(content.inputs_BT, learned.model.initial_state(2))[0])
    assert sums.loss.item() == pytest.approx(F.cross_entropy(logits.flatten(0, 1), content.targets_N).item() * 12)
    assert scores.nll.item() == pytest.approx(sums.nll.item())


@pytest.mark.parametrize(("step", "expected"), [(0, 0.1), (50, 0.3), (100, 0.5), (900, 0.5)])
def test_the_sampling_probability_is_linear_in_the_step(step: int, expected: float) -> None:
    settings = training_settings.ScheduledSamplingConfig(start=0.1, end=0.5, over_steps=100)
    assert scheduled_sampling.sampling_probability(settings, step) == pytest.approx(expected)
    assert scheduled_sampling.sampling_probability(None, step) == 0.0


def _certain() -> Any:
    """A model that always predicts token 5, so that its sampled inputs are known."""
    torch.manual_seed(0)
    model = factory.build(builders.PAIRS, {"source": 9, "target": 9}, 1)
    with torch.no_grad():
        model.output_bias_V[5] += 100.0
    return model


@pytest.mark.parametrize("own_share", [0.0, 0.3, 1.0])
def test_scheduled_sampling_replaces_inputs_with_its_probability(own_share: float) -> None:
    model, inputs_BT = _certain(), torch.full((40, 20), 7)
    inputs_BT[:, 0] = 2
    memory = model.encode(torch.full((40, 3), 4), torch.full((40,), 3))
    fed_BT = scheduled_sampling.mix_inputs(model, memory, inputs_BT, own_share)
    assert (fed_BT[:, 0] == 2).all()
    assert set(fed_BT[:, 1:].flatten().tolist()) <= {5, 7}
    assert (fed_BT[:, 1:] == 5).float().mean().item() == pytest.approx(own_share, abs=0.05)


def test_the_loss_of_scheduled_sampling_is_that_of_the_mixed_inputs() -> None:
    model = _certain()
    content = batches.PairsContent(
        torch.tensor([[4, 3]]), torch.tensor([2]), torch.tensor([[2, 7, 8]]), torch.arange(3), torch.tensor([7, 8, 3])
    )
    fed = content._replace(inputs_BT=torch.tensor([[2, 5, 5]]))
    learned = losses.Objective(model)
    torch.testing.assert_close(learned(content, None, 1.0).loss, learned(fed, None).loss)
    assert learned(content, None, 1.0).loss != learned(content, None).loss
