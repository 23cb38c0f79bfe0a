"""This machine, as far as models depend on it: torch, instruction sets, precision, and whether int8 is exact."""

from typing import Any

import torch

from core.models import compute

# Of /proc/cpuinfo, by the name that people use; any of the flags is enough.
_INSTRUCTION_SETS = {
    "AVX2": ("avx2",),
    "AVX-512": ("avx512f",),
    "VNNI": ("avx512_vnni", "avx_vnni"),
    "bf16": ("avx512_bf16", "amx_bf16"),
    "AMX": ("amx_tile",),
}


def describe() -> dict[str, Any]:
    """Returns what torch and this machine offer to models."""
    cpu = compute.this_cpu()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = compute.resolve_precision("auto", device)
    return {
        "torch": {
            "version": torch.__version__,
            "cuda": torch.version.cuda,
            "git": torch.version.git_version,
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
        },
        "cpu": {
            "vendor": cpu.vendor or None,
            "instruction_sets": {name: not cpu.flags.isdisjoint(flags) for name, flags in _INSTRUCTION_SETS.items()},
        },
        "gpus": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
        "precision": {"auto": precision, "reason": _reason(device, precision, cpu)},
        "int8": describe_int8(),
        "bf16_lstm": "oneDNN" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "torch, without oneDNN's kernel",
    }


def _reason(device: str, precision: str, cpu: compute.Cpu) -> str:
    if device == "cuda":
        return "the GPU computes bf16 natively" if precision == "bf16" else "the GPU would emulate bf16"
    if cpu.has_amx:
        return "the CPU has AMX"
    if cpu.has_bf16:
        return "the CPU has avx512_bf16"
    return "the CPU has neither avx512_bf16 nor AMX"


def describe_int8() -> dict[str, Any]:
    """Returns whether products of int8 matrices are exact here, as quantized inference assumes; proved by products.

    A CPU without VNNI adds two products in 16 bits, which saturate: 2 · 255 · 127 is more than 2¹⁵ (one factor is
    shifted by 128 to be unsigned). Rows of the largest values show it, and random ones how often it matters.
    """
    random = torch.Generator().manual_seed(0)
    checks = {
        "largest": (torch.full((32, 64), 127), torch.full((64, 32), 127)),
        "smallest": (torch.full((32, 64), -127), torch.full((64, 32), 127)),
        "random": (
            torch.randint(-127, 128, (64, 256), generator=random),
            torch.randint(-127, 128, (256, 64), generator=random),
        ),
    }
    wrong = []
    for name, (left, right) in checks.items():
        # Laid out like the weights of `quantization`.
        columns = right.to(torch.int8).t().contiguous().t()
        computed = torch._int_mm(left.to(torch.int8), columns)
        if not torch.equal(computed.long(), left.long() @ right.long()):
            wrong.append(name)
    return {"is_exact": not wrong, "wrong_products": wrong}
