"""Integer products: the same, exact numbers by every kernel that is used."""

from collections.abc import Iterator

import pytest
import torch

from core import errors
from core.models import compute, integer_products, quantization
from tests.core.models import int8_products

VNNI = compute.Cpu("GenuineIntel", frozenset({"avx512_vnni"}))


@pytest.fixture(autouse=True)
def _unproved() -> Iterator[None]:
    integer_products.kernel.cache_clear()
    yield
    integer_products.kernel.cache_clear()


@pytest.mark.parametrize("num_terms", [1, 1024, 1025, 5000])
def test_fp32_products_of_the_largest_and_of_random_integers_are_exact(num_terms: int) -> None:
    random = torch.Generator().manual_seed(1)
    left = torch.randint(-127, 128, (6, num_terms), generator=random)
    right = torch.randint(-127, 128, (num_terms, 5), generator=random)
    left[0], right[:, 0] = 127, -127
    packed = integer_products.pack(right.to(torch.int8), "fp32")
    # Both are rounded to fp32 once, where they are larger than 2**24.
    assert torch.equal(integer_products.multiply(left.float(), packed, right.shape[1]), (left @ right).float())


def test_autocast_does_not_round_the_sums() -> None:
    left, packed = torch.full((2, 64), 127.0), integer_products.pack(torch.full((64, 3), 127, dtype=torch.int8), "fp32")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(integer_products.multiply(left, packed, 3), torch.full((2, 3), 127.0 * 127 * 64))


def test_both_kernels_quantize_to_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "this_cpu", lambda: VNNI)
    x_RK, weight_NK = torch.randn(9, 1500), torch.randn(7, 1500)
    results = []
    for product in (int8_products.exact, int8_products.saturating):
        monkeypatch.setattr(torch, "_int_mm", product)
        integer_products.kernel.cache_clear()
        weight = quantization.quantize_weight(weight_NK)
        results.append((weight.packed_KN.dtype, quantization.int8_linear(x_RK, weight, None)))
    assert [dtype for dtype, _ in results] == [torch.int8, torch.float32]
    assert torch.equal(results[0][1], results[1][1])


def test_a_kernel_that_is_wrong_for_one_shape_only_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong_beyond_512_terms(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return int8_products.exact(left[:, :512], right[:512])

    monkeypatch.setattr(compute, "this_cpu", lambda: VNNI)
    monkeypatch.setattr(torch, "_int_mm", wrong_beyond_512_terms)
    assert integer_products.kernel() == "fp32"


def test_int8_without_an_exact_kernel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integer_products, "multiply", lambda left, right, size: left @ right.float() + 1)
    with pytest.raises(errors.UsageError, match="not exact with this torch on this CPU; use fp32 or bf16"):
        integer_products.kernel()
