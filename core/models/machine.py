"""This machine, as far as models depend on it: torch, instruction sets, precision, and whether int8 is exact."""

from typing import Any

import torch

from core import errors
from core.models import compute, integer_products

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
        "bf16_lstm": "oneDNN" if compute.onednn_has_bf16_lstm() else "torch, without oneDNN's kernel",
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
    """Returns how int8 is computed here: the kernel that is proved to be exact, and which of torch's are wrong."""
    wrong = integer_products.wrong_products("int8")
    try:
        kernel = integer_products.kernel()
    except errors.UsageError:
        return {"is_exact": False, "kernel": None, "wrong_products": wrong, "reason": "no kernel is exact"}
    if wrong:
        reason = "torch's int8 kernel saturates here"
    elif kernel == "fp32":
        reason = "the CPU has no VNNI, without which torch's int8 kernel is slow"
    else:
        reason = "torch's int8 kernel is proved to be exact"
    return {"is_exact": True, "kernel": kernel, "wrong_products": wrong, "reason": reason}
