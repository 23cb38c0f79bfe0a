"""A model made ready for inference: where it is, and in which precision it computes."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch

from core import errors
from core.config import schema
from core.models import bundle as bundles
from core.models import compute as computing
from core.models import quantization


class Placed(NamedTuple):
    """Where and how models compute."""

    device: str
    precision: Literal["fp32", "bf16", "int8"]
    mode: quantization.Rounded | None = None

    @contextlib.contextmanager
    def inference(self) -> Iterator[None]:
        """Gradients off, and matrix products in this precision."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            stack.enter_context(computing.autocast(self.device, "bf16" if self.precision == "bf16" else "fp32"))
            if self.mode is not None:
                stack.enter_context(self.mode)
            yield


def place(
    bundle: bundles.Bundle, settings: schema.ComputeConfig, device: str, others: Sequence[bundles.Bundle] = ()
) -> Placed:
    """Moves the models of bundles to a device; precision `auto` is the one that the first was trained in.

    Raises:
        UsageError: int8 on a GPU.
    """
    precision = bundle.precision if settings.precision == "auto" else settings.precision
    if precision == "int8" and torch.device(device).type != "cpu":
        raise errors.UsageError("compute.precision: int8 is for CPUs; on a GPU use bf16")
    computing.use_matmul(settings.matmul, "bf16" if precision == "bf16" else "fp32")
    every = [one.model for one in (bundle, *others)]
    for model in every:
        model.to(device).eval()
    return Placed(device, precision, None if precision == "fp32" else quantization.Rounded(precision, *every))
