"""Description of this machine: int8 is proved by products, precision has its reason."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from core.models import compute, integer_products, machine
from tests.core.models import int8_products

VNNI = compute.Cpu("GenuineIntel", frozenset({"avx2", "avx512f", "avx512_vnni"}))
AVX2 = compute.Cpu("AuthenticAMD", frozenset({"avx2"}))


@pytest.fixture(autouse=True)
def _unproved() -> Iterator[None]:
    integer_products.kernel.cache_clear()
    yield
    integer_products.kernel.cache_clear()


@pytest.mark.parametrize(
    ("cpu", "product", "described"),
    [
        (VNNI, int8_products.exact, (True, "int8", [], "torch's int8 kernel is proved to be exact")),
        (VNNI, int8_products.saturating, (True, "fp32", ["largest", "random"], "torch's int8 kernel saturates here")),
        (AVX2, int8_products.saturating, (True, "fp32", ["largest", "random"], "torch's int8 kernel saturates here")),
        (
            AVX2,
            int8_products.exact,
            (True, "fp32", [], "the CPU has no VNNI, without which torch's int8 kernel is slow"),
        ),
    ],
)
def test_int8_is_described_by_the_kernel_that_is_proved(
    cpu: compute.Cpu, product: Any, described: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compute, "this_cpu", lambda: cpu)
    monkeypatch.setattr(torch, "_int_mm", product)
    names = ("is_exact", "kernel", "wrong_products", "reason")
    assert machine.describe_int8() == dict(zip(names, described, strict=True))


def test_int8_without_an_exact_kernel_is_described_as_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integer_products, "wrong_products", lambda _: ["random"])
    assert machine.describe_int8() == {
        "is_exact": False,
        "kernel": None,
        "wrong_products": ["random"],
        "reason": "no kernel is exact",
    }


@pytest.mark.parametrize(
    ("flags", "precision", "reason", "sets"),
    [
        ("avx2", "fp32", "the CPU has neither avx512_bf16 nor AMX", {"AVX2"}),
        (
            "avx2 avx512f avx512_vnni avx512_bf16",
            "bf16",
            "the CPU has avx512_bf16",
            {"AVX2", "AVX-512", "VNNI", "bf16"},
        ),
        ("avx2 avx_vnni amx_bf16 amx_tile", "bf16", "the CPU has AMX", {"AVX2", "VNNI", "bf16", "AMX"}),
    ],
)
def test_the_precision_follows_from_the_instruction_sets(
    flags: str, precision: str, reason: str, sets: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(compute, "this_cpu", lambda: compute.Cpu("GenuineIntel", frozenset(flags.split())))
    described: Any = machine.describe()
    assert described["precision"] == {"auto": precision, "reason": reason}
    assert {name for name, has in described["cpu"]["instruction_sets"].items() if has} == sets
