"""Truncated BPTT: gradients are unbiased with random cuts, and complete without cuts."""

import itertools
import math
import statistics
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch import Tensor

from core.config import model_settings, training_settings, truncation_settings
from core.data.batching import lanes
from core.models import factory, seq2seq
from core.training import batches, losses, truncation
from tests.core.training import builders

RANDOM = training_settings.TrainingConfig(truncation=truncation_settings.RandomConfig(cut_every=3, cut_probability=0.4))


def test_lengths_of_variable_windows_follow_the_recipe() -> None:
    """Around 70, or in one of twenty around 35, with a deviation of 5, rounded down; all places differ."""
    lengths = [truncation.variable_window(70, seed=1, epoch=0, start=start) for start in range(4000)]
    halved = [length for length in lengths if length < 53]
    whole = [length for length in lengths if length >= 53]
    assert len(halved) / len(lengths) == pytest.approx(0.05, abs=0.01)
    assert statistics.mean(halved) == pytest.approx(34.5, abs=1.0)
    assert statistics.mean(whole) == pytest.approx(69.5, abs=0.3)
    assert statistics.stdev(whole) == pytest.approx(5.0, abs=0.2)
    assert lengths == [truncation.variable_window(70, seed=1, epoch=0, start=start) for start in range(4000)]
    assert lengths != [truncation.variable_window(70, seed=1, epoch=1, start=start) for start in range(4000)]


def test_lengths_of_variable_windows_are_bounded() -> None:
    assert {truncation.variable_window(2, 1, 0, start) >= 5 for start in range(500)} == {True}
    assert max(truncation.variable_window(20, 1, 0, start) for start in range(50_000)) == 40


@pytest.mark.parametrize("world_size", [1, 3])
def test_joined_variable_windows_are_the_stream_and_the_rate_follows_their_lengths(world_size: int) -> None:
    config = training_settings.TrainingConfig(
        truncation=truncation_settings.WindowConfig(kind="variable"), window=12, num_lanes=3
    )
    stream = np.arange(700) % 251
    for rank in range(world_size):
        batch_stream = batches.SequentialLanes(stream, config, 1, rank, world_size)
        window_batches = list(batch_stream.read_epoch(2, 0))
        served = torch.cat([batch.content.inputs_BT for batch in window_batches], dim=1)
        offset, length = lanes.epoch_offset(1, 2, 12), served.shape[1]
        own = lanes.lanes_of_rank(rank, world_size, 3)
        assert served.tolist() == [stream[offset + lane * length :][:length].tolist() for lane in own]
        sizes = [batch.content.inputs_BT.shape[1] for batch in window_batches]
        assert len(set(sizes)) > 3
        assert [batch.rate_scale for batch in window_batches[:-1]] == [size / 12 for size in sizes[:-1]]


def test_cut_weights_are_one_on_average_and_only_at_possible_cuts() -> None:
    draws = [truncation.cut_weights(RANDOM, 1, 0, start, 8) for start in range(3000)]
    for position, weights in enumerate(zip(*draws, strict=True)):
        if position in (3, 6):
            assert set(weights) == {0.0, 1 / 0.6}
            assert statistics.mean(weights) == pytest.approx(1.0, abs=0.05)
        else:
            assert set(weights) == {1.0}
    both = [(weights[3], weights[6]) for weights in draws]
    assert sum(pair == (0.0, 0.0) for pair in both) / len(both) == pytest.approx(0.16, abs=0.03)
    assert truncation.cut_weights(training_settings.TrainingConfig(), 1, 0, 0, 8) == ()


def test_segments_lie_between_weights_other_than_one() -> None:
    assert list(truncation.segments([1, 1, 0, 1, 2.5, 1], 6)) == [(0, 2, 1.0), (2, 4, 0), (4, 6, 2.5)]
    assert list(truncation.segments([9.0, 1.0], 2)) == [(0, 2, 1.0)]


def _every_draw(size: int) -> list[tuple[float, list[float]]]:
    """All that `RANDOM` can draw for a window, each with its probability."""
    positions = range(3, size, 3)
    draws = []
    for cuts in itertools.product([True, False], repeat=len(positions)):
        weights = [1.0] * size
        for position, is_cut in zip(positions, cuts, strict=True):
            weights[position] = 0.0 if is_cut else 1 / 0.6
        draws.append((math.prod(0.4 if is_cut else 0.6 for is_cut in cuts), weights))
    return draws


def sum_(parts: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(parts)).sum(dim=0)


class _Linear:
    """The linear recurrent network without biases of D2L (2021), section 8.7.2, with half the squared error."""

    def __init__(self, num_steps: int) -> None:
        chance = torch.Generator().manual_seed(3)
        self.W_hx = torch.randn(3, 2, generator=chance, dtype=torch.float64).requires_grad_()
        self.W_hh = torch.randn(3, 3, generator=chance, dtype=torch.float64).mul(0.5).requires_grad_()
        self.W_qh = torch.randn(2, 3, generator=chance, dtype=torch.float64).requires_grad_()
        self.x_Td = torch.randn(num_steps, 2, generator=chance, dtype=torch.float64)
        self.y_Tq = torch.randn(num_steps, 2, generator=chance, dtype=torch.float64)

    def gradient(self, weights_T: list[float]) -> list[Tensor]:
        """By automatic differentiation, the state weighted as training does it."""
        h, loss, length = torch.zeros(3, dtype=torch.float64), torch.zeros((), dtype=torch.float64), len(self.x_Td)
        for begin, end, weight in truncation.segments(weights_T, length):
            (((h,),),) = (truncation.scale_gradient(((h,),), weight),)
            for t in range(begin, end):
                h = self.W_hx @ self.x_Td[t] + self.W_hh @ h
                loss = loss + (self.W_qh @ h - self.y_Tq[t]).square().sum() / 2 / length
        return list(torch.autograd.grad(loss, (self.W_hx, self.W_hh, self.W_qh)))

    @torch.no_grad()
    def closed_form(self, window: int | None = None) -> list[Tensor]:
        """Equation (8.7.16): dL/dh_t = Σ_{s=t}^{T} (W_hh^T)^(s-t) W_qh^T dL/do_s; cut, T is the end of t's window.

        D2L counts by i = T + t - s.
        """
        length = len(self.x_Td)
        h = [torch.zeros(3, dtype=torch.float64)]
        for x in self.x_Td:
            h.append(self.W_hx @ x + self.W_hh @ h[-1])
        do = [torch.zeros(2), *((self.W_qh @ h[t] - self.y_Tq[t - 1]) / length for t in range(1, length + 1))]
        power = torch.linalg.matrix_power
        dW_hx, dW_hh = torch.zeros_like(self.W_hx), torch.zeros_like(self.W_hh)
        for t in range(1, length + 1):
            end = length if window is None else min(length, -(-t // window) * window)
            dh = sum_(power(self.W_hh.T, s - t) @ self.W_qh.T @ do[s] for s in range(t, end + 1))
            dW_hx += torch.outer(dh, self.x_Td[t - 1])
            dW_hh += torch.outer(dh, h[t - 1])
        return [dW_hx, dW_hh, sum_(torch.outer(do[t], h[t]) for t in range(1, length + 1))]


def test_without_a_cut_the_gradient_is_the_closed_form_of_the_linear_network() -> None:
    problem = _Linear(8)
    torch.testing.assert_close(problem.gradient([1.0] * 8), problem.closed_form())


def test_with_cuts_the_sums_of_the_closed_form_end_at_them() -> None:
    problem = _Linear(8)
    torch.testing.assert_close(
        problem.gradient([0.0 if t in (3, 6) else 1.0 for t in range(8)]), problem.closed_form(3)
    )


def test_the_mean_over_all_random_cuts_is_the_closed_form_of_the_linear_network() -> None:
    problem = _Linear(10)
    mean = [torch.zeros_like(part) for part in problem.closed_form()]
    for probability, weights in _every_draw(10):
        for part, own in zip(mean, problem.gradient(weights), strict=True):
            part += probability * own
    torch.testing.assert_close(mean, problem.closed_form())
    fixed = problem.gradient([0.0 if position in (3, 6, 9) else 1.0 for position in range(10)])
    assert (
        fixed[1] - problem.closed_form()[1]
    ).norm() > 0.01  # without weights that make up for the cuts, the gradient is biased


LOCKED = {
    "locked_dropout": True, "word_dropout": 0.2, "embedding_dropout": 0.3, "dropout": 0.3, "weight_dropout": 0.4,
    "output_dropout": 0.3,
}  # fmt: skip


@pytest.mark.parametrize("regularized", [{}, LOCKED])
def test_the_mean_over_all_random_cuts_is_the_gradient_of_the_whole_window(regularized: dict[str, object]) -> None:
    """With locked dropout too: a cut draws no new masks."""
    model = builders.TEXT.model_copy(update={"num_layers": 2, **regularized})
    torch.manual_seed(0)
    learned = losses.Objective(factory.build(model, {"text": 9}, None), temporal_activation_regularization=0.5).double()
    inputs_BT = torch.arange(2 * 8).remainder(7).view(2, 8)
    targets_N = (inputs_BT.flatten() + 1) % 9

    def gradient(weights: list[float]) -> Tensor:
        torch.manual_seed(5)  # dropout masks
        loss = learned(batches.TextContent(inputs_BT, targets_N, weights), None).loss
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(learned.parameters()))])

    whole = gradient([])
    mean = sum(probability * gradient(weights) for probability, weights in _every_draw(8))
    assert isinstance(mean, Tensor)
    torch.testing.assert_close(mean, whole)
    assert (
        gradient([0.0 if position in (3, 6) else 1.0 for position in range(8)]) - whole
    ).norm() > 0.01 * whole.norm()


CONTENT = batches.PairsContent(
    torch.tensor([[4, 5, 3], [6, 3, 1]]),
    torch.tensor([3, 2]),
    torch.tensor([[2, 7, 8, 5, 6], [2, 4, 1, 1, 1]]),
    torch.tensor([0, 1, 2, 3, 4, 5, 6]),
    torch.tensor([7, 8, 5, 6, 3, 4, 3]),
)


def _pairs_gradient(window: int | None, **settings: object) -> tuple[Tensor, dict[str, Tensor]]:
    config = model_settings.Seq2SeqConfig.model_validate({**builders.PAIRS.model_dump(), **settings})
    torch.manual_seed(0)
    learned = losses.Objective(factory.build(config, {"source": 9, "target": 9}, 1), target_window=window).double()
    torch.manual_seed(5)  # dropout masks
    loss = learned(CONTENT, None).loss
    loss.backward()
    return loss, {name: weight.grad for name, weight in learned.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("context", ["input", "output"])
@pytest.mark.parametrize("attention", ["none", "additive"])
def test_windows_as_long_as_the_target_cut_nothing(attention: str, context: str) -> None:
    settings = {"attention": attention, "context": context, "dropout": 0.3, "num_layers": 2}
    whole, windowed = (_pairs_gradient(window, **settings) for window in (None, 5))
    assert torch.equal(whole[0], windowed[0])
    assert all(torch.equal(whole[1][name], windowed[1][name]) for name in whole[1])


def test_gradients_of_all_windows_of_a_target_reach_the_encoder() -> None:
    """With the decoder's history cut by hand, and nothing computed again, the gradients are the same."""
    (whole, full), (loss, gradients) = (_pairs_gradient(window) for window in (None, 2))
    torch.testing.assert_close(loss, whole)
    torch.manual_seed(0)
    model = factory.build(builders.PAIRS, {"source": 9, "target": 9}, 1).double()
    assert isinstance(model, seq2seq.Seq2Seq)
    memory = model.encode(CONTENT.source_BS, CONTENT.source_lengths_B)
    state, features = memory.state, []
    for start in (0, 2, 4):
        piece_BTF, state = model.decode(CONTENT.inputs_BT[:, start : start + 2], memory, state)
        state = tuple(tuple(part.detach() for part in layer) for layer in state)
        features.append(piece_BTF)
    logits = model.logits(torch.cat(features, dim=1)).flatten(0, 1)[CONTENT.valid_N]
    torch.autograd.backward(torch.nn.functional.cross_entropy(logits, CONTENT.targets_N, reduction="sum"))
    for name, weight in model.named_parameters():
        torch.testing.assert_close(gradients[f"model.{name}"], weight.grad)
    cut = gradients["model.source_embedding.weight"] - full["model.source_embedding.weight"]
    assert 0 < cut.norm() < 0.5 * full["model.source_embedding.weight"].norm()


def test_the_windows_of_a_target_share_its_coverage() -> None:
    config = model_settings.Seq2SeqConfig.model_validate({**builders.PAIRS.model_dump(), "coverage_attention": True})
    window_losses = []
    for window, weight in ((None, 2.0), (2, 2.0), (None, 0.0)):
        torch.manual_seed(0)
        model = factory.build(config, {"source": 9, "target": 9}, 1).double()
        assert isinstance(model, seq2seq.Seq2Seq)
        torch.nn.init.constant_(model.attention.coverage_Q, weight)
        torch.nn.init.constant_(model.attention.score.weight, 2.0)
        window_losses.append(losses.Objective(model, target_window=window)(CONTENT, None).loss)
    torch.testing.assert_close(window_losses[1], window_losses[0])
    assert abs(window_losses[2] - window_losses[0]) > 1e-4 * window_losses[0]


def test_a_windowed_target_keeps_fewer_activations() -> None:
    kept = {}
    for window in (None, 4):
        torch.manual_seed(0)
        learned = losses.Objective(factory.build(builders.PAIRS, {"source": 9, "target": 9}, 1), target_window=window)
        inputs_BT = torch.full((2, 64), 4)
        content = CONTENT._replace(inputs_BT=inputs_BT, valid_N=torch.arange(128), targets_N=inputs_BT.flatten())
        sizes: list[int] = []

        def note(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            learned(content, None)
        kept[window] = sum(sizes)
    assert kept[4] < kept[None] / 2
