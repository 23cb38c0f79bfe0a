"""Attention and coverage: normalization, padding, and numbers worked by hand."""

import math

import pytest
import torch

from core.models import attention

MASK = torch.tensor([[True, True, True, True], [True, True, False, False], [True, False, False, False]])


@pytest.mark.parametrize("kind", ["additive", "dot", "scaled_dot", "general"])
@pytest.mark.parametrize("memory_size", [6, 10])
def test_attention_weights_sum_to_one_and_are_zero_on_padding(kind: str, memory_size: int) -> None:
    torch.manual_seed(1)
    attention_layer = attention.Attention(kind, 6, memory_size)
    values_BSC, queries_BTQ = torch.randn(3, 4, memory_size), torch.randn(3, 5, 6) * 10
    contexts_BTC, weights_BTS = attention_layer(queries_BTQ, attention_layer.keys(values_BSC), values_BSC, MASK)
    torch.testing.assert_close(weights_BTS.sum(-1), torch.ones(3, 5))
    assert not weights_BTS.masked_select(~MASK[:, None]).any()
    torch.testing.assert_close(contexts_BTC[2], values_BSC[2, :1].expand(5, -1))
    loud_BSC = values_BSC.masked_fill(~MASK[..., None], 1e4)
    torch.testing.assert_close(
        attention_layer(queries_BTQ, attention_layer.keys(loud_BSC), loud_BSC, MASK)[0], contexts_BTC
    )


def test_dot_attention_worked_by_hand() -> None:
    values_BSC = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    attention_layer = attention.Attention("dot", 2, 2)
    _, weights_BTS = attention_layer(
        torch.tensor([[[math.log(3.0), 0.0]]]), values_BSC, values_BSC, torch.ones(1, 2) > 0
    )
    torch.testing.assert_close(weights_BTS, torch.tensor([[[0.75, 0.25]]]))
    assert not list(attention_layer.parameters())


def test_scaled_attention_divides_by_the_square_root_of_the_size() -> None:
    values_BSC = torch.tensor([[[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]])
    attention_layer = attention.Attention("scaled_dot", 4, 4)
    queries_BTQ = torch.tensor([[[2 * math.log(3.0), 0.0, 0.0, 0.0]]])
    _, weights_BTS = attention_layer(queries_BTQ, attention_layer.keys(values_BSC), values_BSC, torch.ones(1, 2) > 0)
    torch.testing.assert_close(weights_BTS, torch.tensor([[[0.75, 0.25]]]))


def test_additive_attention_worked_by_hand() -> None:
    attention_layer = attention.Attention("additive", 1, 1)
    with torch.no_grad():
        for linear, weight in ((attention_layer.query, 2.0), (attention_layer.key, 0.5), (attention_layer.score, 3.0)):
            linear.weight.fill_(weight)
    values_BSC = torch.tensor([[[4.0], [-2.0]]])
    contexts_BTC, weights_BTS = attention_layer(
        torch.tensor([[[0.5]]]), attention_layer.keys(values_BSC), values_BSC, torch.ones(1, 2) > 0
    )
    scores = [3 * math.tanh(2 * 0.5 + 0.5 * value) for value in (4.0, -2.0)]
    first = 1 / (1 + math.exp(scores[1] - scores[0]))
    torch.testing.assert_close(weights_BTS.flatten(), torch.tensor([first, 1 - first]))
    torch.testing.assert_close(contexts_BTC.flatten(), torch.tensor([4.0 * first - 2.0 * (1 - first)]))


def covering(kind: str, query_size: int, memory_size: int) -> attention.Attention:
    torch.manual_seed(1)
    attention_layer = attention.Attention(kind, query_size, memory_size, has_coverage=True)
    torch.nn.init.normal_(attention_layer.coverage_Q, std=3.0)
    return attention_layer


def test_additive_attention_with_coverage_worked_by_hand() -> None:
    attention_layer = covering("additive", 1, 1)
    with torch.no_grad():
        attention_layer.coverage_Q.fill_(-1.5)
        for linear, weight in ((attention_layer.query, 2.0), (attention_layer.key, 0.5), (attention_layer.score, 3.0)):
            linear.weight.fill_(weight)
    values_BSC, coverage_BTS = torch.tensor([[[4.0], [-2.0]]]), torch.tensor([[[0.9, 0.1]]])
    _, weights_BTS = attention_layer(
        torch.tensor([[[0.5]]]), attention_layer.keys(values_BSC), values_BSC, torch.ones(1, 2) > 0, coverage_BTS
    )
    scores = [3 * math.tanh(2 * 0.5 + 0.5 * value - 1.5 * had) for value, had in ((4.0, 0.9), (-2.0, 0.1))]
    first = 1 / (1 + math.exp(scores[1] - scores[0]))
    torch.testing.assert_close(weights_BTS.flatten(), torch.tensor([first, 1 - first]))


def test_general_attention_with_coverage_equals_an_extra_encoder_feature() -> None:
    attention_layer = covering("general", 6, 10)
    wider = attention.Attention("general", 6, 11)
    with torch.no_grad():
        wider.key.weight.copy_(torch.cat((attention_layer.key.weight, attention_layer.coverage_Q[:, None]), dim=1))
    values_BSC, queries_BTQ, coverage_BTS = torch.randn(3, 4, 10), torch.randn(3, 1, 6), torch.rand(3, 1, 4)
    features_BSC = torch.cat((values_BSC, coverage_BTS.transpose(1, 2)), dim=-1)
    _, weights_BTS = attention_layer(queries_BTQ, attention_layer.keys(values_BSC), values_BSC, MASK, coverage_BTS)
    _, expected_BTS = wider(queries_BTQ, wider.keys(features_BSC), features_BSC, MASK)
    torch.testing.assert_close(weights_BTS, expected_BTS)


@pytest.mark.parametrize("kind", ["additive", "general"])
def test_coverage_is_the_sum_of_earlier_attention_weights(kind: str) -> None:
    attention_layer = covering(kind, 6, 10)
    values_BSC, queries_BTQ, coverage_BS = torch.randn(3, 4, 10), torch.randn(3, 5, 6) * 3, torch.zeros(3, 4)
    contexts_BTC, weights_BTS, after_BS = attention_layer.attend_stepwise(
        queries_BTQ, attention_layer.keys(values_BSC), values_BSC, MASK, coverage_BS
    )
    for time in range(5):
        expected_BTC, expected_BTS = attention_layer(
            queries_BTQ[:, time : time + 1],
            attention_layer.keys(values_BSC),
            values_BSC,
            MASK,
            coverage_BS.unsqueeze(1),
        )
        torch.testing.assert_close(weights_BTS[:, time], expected_BTS[:, 0])
        torch.testing.assert_close(contexts_BTC[:, time], expected_BTC[:, 0])
        coverage_BS = weights_BTS[:, : time + 1].sum(dim=1)
    torch.testing.assert_close(after_BS, coverage_BS)
    torch.testing.assert_close(weights_BTS.sum(-1), torch.ones(3, 5))
    assert not weights_BTS.masked_select(~MASK[:, None]).any()
    plain_BTS = attention_layer(queries_BTQ, attention_layer.keys(values_BSC), values_BSC, MASK)[1]
    assert (plain_BTS[:2, 1:] - weights_BTS[:2, 1:]).abs().max() > 0.05


@pytest.mark.parametrize("kind", ["additive", "general"])
def test_coverage_with_zero_weight_is_bit_identical_to_plain_attention(kind: str) -> None:
    attention_layer = attention.Attention(kind, 6, 10, has_coverage=True)
    values_BSC, queries_BTQ, coverage_BTS = torch.randn(3, 4, 10), torch.randn(3, 5, 6), torch.rand(3, 5, 4) * 9
    arguments = queries_BTQ, attention_layer.keys(values_BSC), values_BSC, MASK
    assert all(map(torch.equal, attention_layer(*arguments, coverage_BTS), attention_layer(*arguments)))


@pytest.mark.parametrize("kind", ["additive", "general"])
def test_gradients_flow_through_coverage_to_earlier_steps(kind: str) -> None:
    attention_layer = covering(kind, 2, 3).double()
    values_BSC, queries_BTQ = (
        torch.randn(2, size, width).double().requires_grad_() for size, width in ((3, 3), (4, 2))
    )
    mask_BS, start_BS = MASK[:2, :3], torch.rand(2, 3).double().requires_grad_()

    def run(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        queries, values, start, *_ = inputs
        results: tuple[torch.Tensor, ...] = attention_layer.attend_stepwise(
            queries, attention_layer.keys(values), values, mask_BS, start
        )
        return results

    assert torch.autograd.gradcheck(run, (queries_BTQ, values_BSC, start_BS, *attention_layer.parameters()))


@pytest.mark.parametrize("kind", ["additive", "dot"])
def test_weights_are_fp32_in_bf16(kind: str) -> None:
    attention_layer = attention.Attention(kind, 6, 10)
    values_BSC = torch.randn(3, 4, 10)
    with torch.autocast("cpu", torch.bfloat16):
        _, weights_BTS = attention_layer(torch.randn(3, 5, 6), attention_layer.keys(values_BSC), values_BSC, MASK)
    assert weights_BTS.dtype == torch.float32
