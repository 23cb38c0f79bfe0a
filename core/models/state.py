"""Recurrent state: passed into and returned by every forward call, never kept on a module."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from core import errors

LayerState = tuple[Tensor, ...]  # (h_BH,), or (h_BH, c_BH) for cells with a memory
State = tuple[LayerState, ...]  # from the lowest layer to the highest

_PARTS = ("h", "c")


def detach(state: State) -> State:
    """Returns the state without its history: the point at which backpropagation through time is truncated."""
    return tuple(tuple(part.detach() for part in layer) for layer in state)


def select(state: State, rows: Tensor) -> State:
    """Returns the state of the given rows, in their order; a row may occur several times."""
    return tuple(tuple(part.index_select(0, rows) for part in layer) for layer in state)


def to_named(state: State) -> dict[str, Tensor]:
    """Returns the tensors by the names under which they are stored: layer and part, `0.h`, `0.c`, `1.h` …."""
    return {
        f"{index}.{name}": part for index, layer in enumerate(state) for name, part in zip(_PARTS, layer, strict=False)
    }


def from_named(named: Mapping[str, Tensor]) -> State:
    """Returns the state that `to_named` made the names of.

    Raises:
        IntegrityError: the names are not those of a state.
    """
    layers: dict[int, dict[str, Tensor]] = {}
    for name, part in named.items():
        match = re.fullmatch(r"([0-9]{1,3})\.([hc])", name)
        if match is None:
            raise errors.IntegrityError(f"recurrent state: unknown entry {name!r}; restore the file from a copy")
        layers.setdefault(int(match[1]), {})[match[2]] = part
    # Each layer has h, or h and c; in a mixture of models not all have the same.
    is_gapless = sorted(layers) == list(range(len(layers)))
    if not is_gapless or any("h" not in layer for layer in layers.values()):
        raise errors.IntegrityError(
            f"recurrent state: the entries {sorted(named)} do not form layers; restore the file from a copy"
        )
    return tuple(tuple(layers[index][key] for key in _PARTS if key in layers[index]) for index in range(len(layers)))


def zeros(num_parts: int, hidden_sizes: tuple[int, ...], batch_size: int, like: Tensor) -> State:
    """Returns the zero state of layers of these sizes, each of `num_parts`, with the device and dtype of `like`."""
    return tuple(
        tuple(torch.zeros(batch_size, size, device=like.device, dtype=like.dtype) for _ in range(num_parts))
        for size in hidden_sizes
    )
