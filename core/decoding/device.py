"""Device and precision of models at inference."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch

from core import errors
from core.config import schema
from core.models import bundle as bundles
from core.models import compute as computing
from core.models import integer_products, quantization


class InferenceContext(NamedTuple):
    """The device that models are on, and the precision of their matrix products."""

    device: str
    precision: Literal["fp32", "bf16", "int8"]
    mode: quantization.DynamicQuantization | None = None

    @contextlib.contextmanager
    def inference(self) -> Iterator[None]:
        """Turns gradients off and computes matrix products in this precision."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            # Autocast has no int8: `mode` alone computes in it.
            stack.enter_context(computing.autocast(self.device, "bf16" if self.precision == "bf16" else "fp32"))
            # Keeps low-precision copies of the weights; autocast alone would cast every weight anew at each step.
            if self.mode is not None:
                stack.enter_context(self.mode)
            yield


def resolve(device: str, precision: str) -> str:
    """Returns the device that a call from Python names; `auto` is a GPU where there is one, except for int8.

    Raises:
        UsageError: there is no such device.
    """
    has_gpu = torch.cuda.is_available()
    if device == "auto":
        return "cuda" if has_gpu and precision != "int8" else "cpu"
    match = re.fullmatch(r"cpu|cuda(?::([0-9]{1,3}))?", device)
    if match is None:
        raise errors.UsageError(f"device: {device!r} is not one of auto, cpu, cuda, cuda:N; choose one of them")
    if device != "cpu" and int(match[1] or 0) >= torch.cuda.device_count():
        raise errors.UsageError(f"device: this machine has {torch.cuda.device_count()} GPUs, not {device}; use cpu")
    return device


def precision_of(
    bundle: bundles.Bundle, settings: schema.ComputeConfig, device: str
) -> Literal["fp32", "bf16", "int8"]:
    """Returns the precision of inference, which `auto` keeps from training; proved once a process to be computed here.

    Raises:
        UsageError: int8 on a GPU, or a precision that this machine does not compute.
    """
    # In another precision than in training a model would score differently by more than rounding.
    precision = bundle.precision if settings.precision == "auto" else settings.precision
    if precision == "int8":
        if torch.device(device).type != "cpu":
            raise errors.UsageError("compute.precision: int8 is for CPUs; on a GPU use bf16")
        # Called for its error.
        integer_products.kernel()
    elif precision == "bf16" and bundle.config.kind in ("language_model", "seq2seq"):
        computing.check_bf16(device)
    return precision


def prepare(
    bundle: bundles.Bundle, settings: schema.ComputeConfig, device: str, others: Sequence[bundles.Bundle] = ()
) -> InferenceContext:
    """Moves the models of bundles to a device, in evaluation mode.

    Precision `auto` is the one in which the first bundle was trained.

    Raises:
        UsageError: int8 on a GPU, or a precision that this machine does not compute.
    """
    precision = precision_of(bundle, settings, device)
    # For fp32 products, of which int8 leaves some: attention and the recurrent kernels.
    computing.use_matmul(settings.matmul, "bf16" if precision == "bf16" else "fp32")
    models = [member.model for member in (bundle, *others)]
    for model in models:
        model.to(device).eval()
    return InferenceContext(
        device, precision, None if precision == "fp32" else quantization.DynamicQuantization(precision, *models)
    )
