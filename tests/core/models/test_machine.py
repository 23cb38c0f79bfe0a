"""Description of this machine: int8 is proved by products, precision has its reason."""

from typing import Any

import pytest
import torch

from core.models import compute, machine


def saturating(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Multiplies as AVX2 does: unsigned left factors, and sums of two products limited to 16 bits."""
    shifted, rights = left.int() + 128, right.int()
    pairs = shifted[:, 0::2, None] * rights[None, 0::2] + shifted[:, 1::2, None] * rights[None, 1::2]
    return pairs.clamp(-(1 << 15), (1 << 15) - 1).sum(1, dtype=torch.int32) - 128 * rights.sum(0, dtype=torch.int32)


def test_products_that_saturate_in_16_bits_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "_int_mm", saturating)
    assert machine.describe_int8() == {"is_exact": False, "wrong_products": ["largest", "random"]}


def test_exact_products_are_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "_int_mm", lambda left, right: (left.long() @ right.long()).int())
    assert machine.describe_int8() == {"is_exact": True, "wrong_products": []}


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
