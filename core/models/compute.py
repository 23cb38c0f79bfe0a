"""Numerics of this process: precision (fp32 or bf16), the CPU's matrix library, threads."""

import contextlib
import functools
import pathlib
import platform
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from typing import Literal, NamedTuple

import torch

from core import errors

Precision = Literal["fp32", "bf16"]

_OUTPUTS_IN_CACHE = 1 << 18
_CPU_INFO = pathlib.Path("/proc/cpuinfo")


class Cpu(NamedTuple):
    """Vendor and feature flags of a CPU, as /proc/cpuinfo has them."""

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
    """Returns the vendor and flags of this machine's CPU; both are empty where the system does not list them."""
    if platform.system() != "Linux" or not _CPU_INFO.exists():
        return Cpu("", frozenset())
    return parse_cpu(_CPU_INFO.read_text(encoding="utf-8", errors="replace"))


def parse_cpu(text: str) -> Cpu:
    """Returns the first processor of the text of /proc/cpuinfo."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())  # later processors repeat the names
    return Cpu(fields.get("vendor_id", ""), frozenset(fields.get("flags", "").split()))


def resolve_precision(
    setting: Literal["auto", "fp32", "bf16", "int8"], device: str, cpu: Cpu | None = None
) -> Precision:
    """Returns fp32 or bf16 by the features of the device, never by a timing, so that every start gets the same.

    `auto` is bf16 on a GPU that computes it natively and on a CPU with `avx512_bf16` or AMX; else fp32.

    Raises:
        UsageError: `int8`, which is for inference only, or `bf16` on a CPU that cannot compute it.
    """
    if setting == "int8":
        raise errors.UsageError(
            "compute.precision: int8 is for inference only; set it for translate or score with --set"
        )
    if setting == "bf16":
        check_bf16(device)
    if setting != "auto":
        return setting
    if torch.device(device).type == "cuda":
        # Emulated bf16 on older GPUs is slower than fp32.
        native = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if native else "fp32"
    # So is bf16 on CPUs without instructions for it.
    return "bf16" if (cpu or this_cpu()).has_bf16 else "fp32"


def use_matmul(
    setting: Literal["auto", "default", "onednn"], precision: Precision, cpu: Cpu | None = None
) -> Literal["default", "onednn"]:
    """Sets the library that multiplies fp32 matrices on the CPU in this process, and returns it.

    `onednn` makes whole training steps 1.3 to 1.9 times as fast on AMD CPUs, with results equal to 1e-6. Torch's switch
    for it permits oneDNN to compute in bf16, which it does on CPUs with AMX alone: there the setting is an error, for
    the products would not be fp32. `auto` is `onednn` on an AMD CPU without AMX when the precision is fp32, else
    `default`.

    Raises:
        UsageError: `onednn` on a CPU with AMX.
    """
    cpu = cpu or this_cpu()
    if setting == "onednn" and cpu.has_amx:
        raise errors.UsageError(
            "compute.matmul: onednn would multiply in bf16 on this CPU, which has AMX; use default, or precision: bf16"
        )
    # On Intel CPUs MKL, torch's default, is as fast as oneDNN.
    amd_fp32 = cpu.vendor == "AuthenticAMD" and not cpu.has_amx and precision == "fp32"
    chosen: Literal["default", "onednn"]
    chosen = "onednn" if setting == "onednn" or (setting == "auto" and amd_fp32) else "default"
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # made at run time
    # The switch permits bf16; without AMX oneDNN computes in fp32 all the same. "none" is torch's default.
    matmul.fp32_precision = "bf16" if chosen == "onednn" else "none"
    return chosen


def autocast(device: str, precision: Precision) -> AbstractContextManager[object]:
    """Returns the autocast context of this precision for matrix products; weights and state stay fp32."""
    kind = torch.device(device).type
    if precision == "fp32" and not torch.amp.is_autocast_available(kind):
        return contextlib.nullcontext()
    return torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16")


def is_autocast(device: str) -> bool:
    """Returns whether products on this device are computed in a lower precision here."""
    kind = torch.device(device).type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def rows_at_once(num_columns: int, device: str) -> int:
    """Returns how many rows of fp32 several passes should go over together: on a CPU 1 MiB, which stays in its cache.

    Exponentials of more cost twice as much there. On a GPU each block of rows would only be more kernels.
    """
    return max(1, _OUTPUTS_IN_CACHE // num_columns) if device == "cpu" else 1 << 30


@contextlib.contextmanager
def native_lstm_if_needed(x: torch.Tensor) -> Iterator[None]:
    """Disables oneDNN for an LSTM over `x` where oneDNN has no kernel for it, so that torch's native one runs.

    Under autocast to bf16 torch calls oneDNN for an LSTM on a CPU, which raises "could not create a primitive
    descriptor" where the CPU lacks AVX-512, or ONEDNN_MAX_CPU_ISA hides it (oneDNN 3, torch 2.13).
    """
    in_bf16 = x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    if not in_bf16 or not torch._C._get_mkldnn_enabled() or onednn_has_bf16_lstm():
        yield
        return
    with _without_onednn():
        yield


@contextlib.contextmanager
def _without_onednn() -> Iterator[None]:
    # The public torch.backends.mkldnn.flags also sets TF32, with a warning.
    was_enabled = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(was_enabled)


@functools.cache
def onednn_has_bf16_lstm() -> bool:
    """Returns whether oneDNN computes an LSTM in bf16 in this process, by computing one.

    Not from the flags of the CPU: ONEDNN_MAX_CPU_ISA may hide instructions from oneDNN that the CPU has.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    try:
        _train_in_bf16(torch.nn.LSTM)
    except RuntimeError:
        return False
    return True


@functools.cache
def check_bf16(device: str) -> None:
    """Computes, once a process, each kind of layer in bf16 with its gradients, if the device is a CPU.

    Raises:
        UsageError: torch has no kernel for one of them on this CPU.
    """
    if torch.device(device).type != "cpu":
        return
    kinds = {"linear layer": torch.nn.Linear, "RNN": torch.nn.RNN, "GRU": torch.nn.GRU, "LSTM": torch.nn.LSTM}
    for name, kind in kinds.items():
        is_native = kind is torch.nn.LSTM and not onednn_has_bf16_lstm()
        try:
            with _without_onednn() if is_native else contextlib.nullcontext():
                _train_in_bf16(kind)
        except RuntimeError as error:
            reason = (str(error).strip().splitlines() or ["no reason given"])[0]
            raise errors.UsageError(
                f"compute.precision: bf16: torch does not compute a {name} in it on this CPU ({reason}); use fp32"
            ) from error


def _train_in_bf16(kind: type[torch.nn.Module]) -> None:
    """Computes a small layer under autocast to bf16, and the gradients of its weights."""
    # The weights take no random numbers from the run, and gradients are needed whatever surrounds the first use.
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        module = kind(8, 8)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = module(torch.ones(2, 3, 8))
        values = outputs if isinstance(outputs, torch.Tensor) else outputs[0]
        torch.autograd.grad(values.float().sum(), list(module.parameters()))


def set_threads(num_threads: int) -> None:
    """Sets the number of threads of an operation in this process, and lets them all take denormal numbers as zero.

    Softmax and Adam's squares of small gradients give denormals, with which a CPU computes up to a hundred times as
    slowly. The flag belongs to the calling thread, and threads inherit it when they start: torch's own do so at the
    first parallel operation. So this is to be called before any computation.
    """
    torch.set_num_threads(num_threads)
    torch.set_flush_denormal(True)


def flushes_denormals() -> bool:
    """Returns whether the calling thread takes denormal numbers as zero, which torch cannot be asked."""
    return (torch.full((1,), 1e-39) * 1.0).item() == 0.0


@contextlib.contextmanager
def restored_settings() -> Iterator[None]:
    """Restores at the end what `set_threads` and `use_matmul` change inside, for callers with settings of their own."""
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # made at run time
    num_threads, library, flushes = torch.get_num_threads(), matmul.fp32_precision, flushes_denormals()
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
        torch.set_flush_denormal(flushes)
        matmul.fp32_precision = library
