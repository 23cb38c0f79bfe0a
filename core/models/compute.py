"""How numbers are computed on this device: precision, the library of matrix products, threads."""

import contextlib
import pathlib
import platform
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from typing import Literal, NamedTuple

import torch

from core import errors

Precision = Literal["fp32", "bf16"]

_CPU_INFO = pathlib.Path("/proc/cpuinfo")


class Cpu(NamedTuple):
    """What decides how a CPU computes."""

    vendor: str
    flags: AbstractSet[str]

    @property
    def has_amx(self) -> bool:
        """Matrix units that compute in bf16."""
        return "amx_bf16" in self.flags

    @property
    def has_bf16(self) -> bool:
        """Instructions for bf16; elsewhere it is emulated, and slower than fp32."""
        return self.has_amx or "avx512_bf16" in self.flags


def this_cpu() -> Cpu:
    """Reads the CPU's vendor and flags; both empty where the system does not tell."""
    if platform.system() != "Linux" or not _CPU_INFO.exists():
        return Cpu("", frozenset())
    return parse_cpu(_CPU_INFO.read_text(encoding="utf-8", errors="replace"))


def parse_cpu(text: str) -> Cpu:
    """Reads the first processor of a /proc/cpuinfo."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return Cpu(fields.get("vendor_id", ""), frozenset(fields.get("flags", "").split()))


def resolve_precision(
    setting: Literal["auto", "fp32", "bf16", "int8"], device: str, cpu: Cpu | None = None
) -> Precision:
    """Decides between fp32 and bf16 by what the device has, never by a stopwatch.

    `auto` is bf16 on a GPU that computes it natively and on a CPU with `avx512_bf16` or AMX; else fp32.

    Raises:
        UsageError: `int8`, in which nothing is trained.
    """
    if setting == "int8":
        raise errors.UsageError("compute.precision: nothing is trained in int8; give it to translate or score by --set")
    if setting != "auto":
        return setting
    if torch.device(device).type == "cuda":
        native = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if native else "fp32"
    return "bf16" if (cpu or this_cpu()).has_bf16 else "fp32"


def use_matmul(
    setting: Literal["auto", "default", "onednn"], precision: Precision, cpu: Cpu | None = None
) -> Literal["default", "onednn"]:
    """Chooses the library that multiplies fp32 matrices on a CPU, for this process; returns the choice.

    `onednn` is 1.3 to 1.9 times as fast for whole training steps on AMD CPUs, and equal to 1e-6: torch's
    switch allows oneDNN bf16 inside, which it uses on AMX alone. There the setting is refused, for it would not
    be fp32 any more. `auto` is `onednn` on an AMD CPU without AMX when the precision is fp32, else `default`.

    Raises:
        UsageError: `onednn` on a CPU with AMX.
    """
    cpu = cpu or this_cpu()
    if setting == "onednn" and cpu.has_amx:
        raise errors.UsageError(
            "compute.matmul: onednn would multiply in bf16 on this CPU, which has AMX; use default, or precision: bf16"
        )
    amd_fp32 = cpu.vendor == "AuthenticAMD" and not cpu.has_amx and precision == "fp32"
    chosen: Literal["default", "onednn"]
    chosen = "onednn" if setting == "onednn" or (setting == "auto" and amd_fp32) else "default"
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # made at run time
    matmul.fp32_precision = "bf16" if chosen == "onednn" else "none"
    return chosen


def autocast(device: str, precision: Precision) -> AbstractContextManager[object]:
    """Returns a context in which matrix products are computed in this precision; weights and state stay fp32."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16")


@contextlib.contextmanager
def native_lstm_if_needed(x: torch.Tensor) -> Iterator[None]:
    """Computes an LSTM of `x` in torch's own kernel where oneDNN has none.

    Under autocast to bf16 torch hands a CPU's LSTM to oneDNN, which raises "could not create a primitive descriptor"
    where the CPU lacks AVX-512 (oneDNN 3, torch 2.13).
    """
    in_bf16 = x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    if not in_bf16 or torch.ops.mkldnn._is_mkldnn_bf16_supported() or not torch._C._get_mkldnn_enabled():
        yield
        return
    torch._C._set_mkldnn_enabled(False)  # the public `flags` also sets TF32, with a warning
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(True)


def set_threads(num_threads: int) -> None:
    """Sets how many threads an operation uses in this process."""
    torch.set_num_threads(num_threads)
