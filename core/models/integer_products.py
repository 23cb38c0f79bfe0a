"""Exact products of int8 matrices on a CPU, by the fastest kernel that this process has proved to be exact.

torch's int8 product is exact where the CPU adds four products in 32 bits (VNNI, AMX). CPUs with AVX2 or the first
AVX-512 add two in 16 bits, which saturate (2 · 255 · 127 > 2¹⁵, one factor being shifted by 128 to be unsigned), or
multiply number by number, ten times as slowly as in fp32. There the same integers are multiplied in fp32, with the same
result: every product and sum of up to 1,024 of them is an integer below 2²⁴, which fp32 represents.

Source: Intel, Deep Learning Boost: VNNI (2018), on saturation of `vpmaddubsw`; IEEE 754 for integers in binary32.
"""

import functools
from typing import Literal

import torch
from torch import Tensor

from core import errors
from core.models import compute

MAX_MAGNITUDE = 127  # symmetric: -128 is not used

Kernel = Literal["int8", "fp32"]

_VNNI = ("avx512_vnni", "avx_vnni", "amx_int8")
# 127² · 1,024 < 2²⁴
_EXACT_TERMS = 1024
# Rows, terms and columns of the products that prove a kernel: one row alone takes another path than many, and terms
# beyond a multiple of the vector width, or of a block, yet another.
_PROVED_SHAPES = ((1, 64, 33), (2, 96, 64), (17, 1030, 40), (64, 513, 48))


# Rows, terms and columns of an int8 product come in multiples of these. oneDNN compiles a kernel for each number of
# rows, and with 200 terms or 5,969 columns it takes two to four times as long as with the next multiples.
_KERNEL_ROWS = 64
_KERNEL_TERMS = 64
_KERNEL_COLUMNS = 16


def pack(values_KN: Tensor, kernel: Kernel) -> Tensor:
    """Returns an int8 matrix, the right side of products, in the form that a kernel multiplies."""
    if kernel == "fp32":
        return values_KN.float()
    num_terms, num_columns = values_KN.shape
    padding = (0, -num_terms % _KERNEL_TERMS, 0, -num_columns % _KERNEL_COLUMNS)
    return torch.nn.functional.pad(values_KN.t(), padding).t()


def multiply(rounded_RK: Tensor, packed_KN: Tensor, num_columns: int) -> Tensor:
    """Returns the exact product of integers of at most 127, in int32 or fp32 (rounded once, where it is beyond 2²⁴).

    Args:
        rounded_RK: left side, integers in fp32.
        packed_KN: right side, from `pack`.
        num_columns: of the right side before it was packed.
    """
    if packed_KN.dtype == torch.int8:
        num_rows, num_terms = rounded_RK.shape
        left = rounded_RK.new_zeros(num_rows + -num_rows % _KERNEL_ROWS, len(packed_KN), dtype=torch.int8)
        left[:num_rows, :num_terms] = rounded_RK
        return torch._int_mm(left, packed_KN)[:num_rows, :num_columns]
    # Autocast would round the sums to bf16.
    with torch.autocast("cpu", enabled=False):
        num_terms = packed_KN.shape[0]
        if num_terms <= _EXACT_TERMS:
            return rounded_RK @ packed_KN
        total_RN = torch.zeros(len(rounded_RK), packed_KN.shape[1], dtype=torch.int32)
        for start in range(0, num_terms, _EXACT_TERMS):
            terms = slice(start, start + _EXACT_TERMS)
            total_RN += (rounded_RK[:, terms] @ packed_KN[terms]).int()
        return total_RN.float()


@functools.cache
def kernel() -> Kernel:
    """Returns the kernel of this process, proved once: the same integers come from either.

    Raises:
        UsageError: no kernel is exact on this machine.
    """
    flags = compute.this_cpu().flags
    # Where the flags are unknown (not x86), torch's own int8 kernel is taken to be the faster one.
    has_fast_int8 = not flags or not flags.isdisjoint(_VNNI)
    candidates: tuple[Kernel, ...] = ("int8", "fp32") if has_fast_int8 else ("fp32",)
    for candidate in candidates:
        if not wrong_products(candidate):
            return candidate
    raise errors.UsageError(
        "compute.precision: int8 products are not exact with this torch on this CPU; use fp32 or bf16"
    )


def wrong_products(candidate: Kernel) -> list[str]:
    """Multiplies matrices whose products are known, and returns the names of those that a kernel gets wrong.

    Rows of the largest values show saturation, and random ones how often it matters.
    """
    wrong = []
    for name in ("largest", "smallest", "random"):
        for num_rows, num_terms, num_columns in _PROVED_SHAPES:
            left, right = _factors(name, num_rows, num_terms, num_columns)
            # Laid out like the weights of `quantization`.
            columns = pack(right.to(torch.int8).t().contiguous().t(), candidate)
            if not torch.equal(multiply(left.float(), columns, num_columns).long(), left @ right):
                wrong.append(name)
                break
    return wrong


def _factors(name: str, num_rows: int, num_terms: int, num_columns: int) -> tuple[Tensor, Tensor]:
    if name == "random":
        random = torch.Generator().manual_seed(0)
        return (
            torch.randint(-MAX_MAGNITUDE, MAX_MAGNITUDE + 1, (num_rows, num_terms), generator=random),
            torch.randint(-MAX_MAGNITUDE, MAX_MAGNITUDE + 1, (num_terms, num_columns), generator=random),
        )
    sign = 1 if name == "largest" else -1
    return (
        torch.full((num_rows, num_terms), sign * MAX_MAGNITUDE),
        torch.full((num_terms, num_columns), MAX_MAGNITUDE),
    )
