"""Dropout: its rate, its scale, and where its random numbers come from."""

import math

import pytest
import torch

from core.models import masks


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.4, 0.65, 0.999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mask_drops_its_share_and_scales_the_rest(rate: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    mask = masks.draw(torch.empty(0, dtype=dtype), (1001, 999), rate)
    assert mask.dtype == dtype
    share = (mask == 0).double().mean().item()
    assert share == pytest.approx(rate, abs=2**-17 + 4 * math.sqrt(rate * (1 - rate) / mask.numel()))
    assert sorted(set(mask.flatten().tolist())) == pytest.approx(
        [0.0, 1 / (1 - rate)], rel=0.02 if rate > 0.99 else 0.004
    )


def test_the_rate_is_exact_to_16_bits() -> None:
    """Each of the 65,536 values of an entry's bits is dropped or kept: counted over all, without chance."""
    bits = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16)
    num_dropped = int((bits < round(0.3 * 65536) - 32768).sum())
    assert num_dropped == round(0.3 * 65536)
    kept = masks.draw(torch.empty(0), (4,), 0.0)
    assert kept.tolist() == [1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 4099])
def test_any_number_of_entries_is_drawn_again_by_the_same_seed(size: int) -> None:
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(masks.draw(torch.empty(0), (size,), 0.5))
    assert torch.equal(drawn[0], drawn[1])
    assert size < 4099 or 0.4 < (drawn[0] != drawn[2]).float().mean() < 0.6


def test_neighbouring_entries_are_independent() -> None:
    torch.manual_seed(0)
    kept = (masks.draw(torch.empty(0), (1 << 20,), 0.25) > 0).float()
    for lag in (1, 2, 3, 4, 8):
        assert torch.corrcoef(torch.stack((kept[lag:], kept[:-lag])))[0, 1].abs() < 0.005


def test_the_gradient_passes_where_entries_were_kept() -> None:
    torch.manual_seed(0)
    x = torch.ones(50, 7, requires_grad=True)
    y = masks.drop(x, 0.5)
    assert 0 < int((y == 0).sum()) < y.numel()
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], y.detach())
