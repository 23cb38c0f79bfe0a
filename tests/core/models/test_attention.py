"""Laws of attention: nothing on padding, rows sum to 1, and numbers worked by hand."""

import math

import pytest
import torch

from core.models import attention

MASK = torch.tensor([[True, True, True, True], [True, True, False, False], [True, False, False, False]])


@pytest.mark.parametrize("kind", ["additive", "dot", "scaled_dot", "general"])
@pytest.mark.parametrize("memory_size", [6, 10])
def test_rows_sum_to_one_and_padding_weighs_nothing(kind: str, memory_size: int) -> None:
    torch.manual_seed(1)
    looks = attention.Attention(kind, 6, memory_size)
    values_BSC, queries_BTQ = torch.randn(3, 4, memory_size), torch.randn(3, 5, 6) * 10
    contexts_BTC, weights_BTS = looks(queries_BTQ, looks.keys(values_BSC), values_BSC, MASK)
    torch.testing.assert_close(weights_BTS.sum(-1), torch.ones(3, 5))
    assert not weights_BTS.masked_select(~MASK[:, None]).any()
    torch.testing.assert_close(contexts_BTC[2], values_BSC[2, :1].expand(5, -1))
    loud_BSC = values_BSC.masked_fill(~MASK[..., None], 1e4)
    torch.testing.assert_close(looks(queries_BTQ, looks.keys(loud_BSC), loud_BSC, MASK)[0], contexts_BTC)


def test_dot_attention_by_hand() -> None:
    values_BSC = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    looks = attention.Attention("dot", 2, 2)
    _, weights_BTS = looks(torch.tensor([[[math.log(3.0), 0.0]]]), values_BSC, values_BSC, torch.ones(1, 2) > 0)
    torch.testing.assert_close(weights_BTS, torch.tensor([[[0.75, 0.25]]]))
    assert not list(looks.parameters())


def test_scaled_attention_divides_by_the_root_of_the_width() -> None:
    values_BSC = torch.tensor([[[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]])
    looks = attention.Attention("scaled_dot", 4, 4)
    queries_BTQ = torch.tensor([[[2 * math.log(3.0), 0.0, 0.0, 0.0]]])
    _, weights_BTS = looks(queries_BTQ, looks.keys(values_BSC), values_BSC, torch.ones(1, 2) > 0)
    torch.testing.assert_close(weights_BTS, torch.tensor([[[0.75, 0.25]]]))


def test_additive_attention_by_hand() -> None:
    looks = attention.Attention("additive", 1, 1)
    with torch.no_grad():
        for linear, weight in ((looks.query, 2.0), (looks.key, 0.5), (looks.score, 3.0)):
            linear.weight.fill_(weight)
    values_BSC = torch.tensor([[[4.0], [-2.0]]])
    contexts_BTC, weights_BTS = looks(torch.tensor([[[0.5]]]), looks.keys(values_BSC), values_BSC, torch.ones(1, 2) > 0)
    scores = [3 * math.tanh(2 * 0.5 + 0.5 * value) for value in (4.0, -2.0)]
    first = 1 / (1 + math.exp(scores[1] - scores[0]))
    torch.testing.assert_close(weights_BTS.flatten(), torch.tensor([first, 1 - first]))
    torch.testing.assert_close(contexts_BTC.flatten(), torch.tensor([4.0 * first - 2.0 * (1 - first)]))


@pytest.mark.parametrize("kind", ["additive", "dot"])
def test_weights_are_fp32_in_bf16(kind: str) -> None:
    looks = attention.Attention(kind, 6, 10)
    values_BSC = torch.randn(3, 4, 10)
    with torch.autocast("cpu", torch.bfloat16):
        _, weights_BTS = looks(torch.randn(3, 5, 6), looks.keys(values_BSC), values_BSC, MASK)
    assert weights_BTS.dtype == torch.float32
