"""A model made ready for inference: where it is, and in which precision it computes."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch

from core.config import schema
from core.models import bundle as bundles
from core.models import compute as computing


class Placed(NamedTuple):
    """Where and how a model computes."""

    device: str
    precision: computing.Precision

    @contextlib.contextmanager
    def inference(self) -> Iterator[None]:
        """Gradients off, and matrix products in this precision."""
        with torch.inference_mode(), computing.autocast(self.device, self.precision):
            yield


def place(bundle: bundles.Bundle, settings: schema.ComputeConfig, device: str) -> Placed:
    """Moves the bundle's model to a device; precision `auto` is the one that the run was trained in."""
    precision = bundle.precision if settings.precision == "auto" else settings.precision
    computing.use_matmul(settings.matmul, precision)
    bundle.model.to(device).eval()
    return Placed(device, precision)
