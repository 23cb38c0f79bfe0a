"""The recurrent state: a value that goes in and comes out of every forward call."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from core import errors

LayerState = tuple[Tensor, ...]  # (h_BH,), of cells with a memory (h_BH, c_BH)
State = tuple[LayerState, ...]  # from the lowest layer to the highest

_PARTS = ("h", "c")


def detach(state: State) -> State:
    """Cuts the gradient: the same numbers, without what made them."""
    return tuple(tuple(part.detach() for part in layer) for layer in state)


def select(state: State, rows: Tensor) -> State:
    """Returns the state of the given rows, in their order; a row may occur several times."""
    return tuple(tuple(part.index_select(0, rows) for part in layer) for layer in state)


def to_named(state: State) -> dict[str, Tensor]:
    """Names each tensor by its layer and part, `0.h`, `0.c`, `1.h` …, as they are stored."""
    return {
        f"{index}.{name}": part for index, layer in enumerate(state) for name, part in zip(_PARTS, layer, strict=False)
    }


def from_named(named: Mapping[str, Tensor]) -> State:
    """Undoes `to_named`.

    Raises:
        IntegrityError: the names are not those of a state.
    """
    layers: dict[int, dict[str, Tensor]] = {}
    for name, part in named.items():
        match = re.fullmatch(r"([0-9]{1,3})\.([hc])", name)
        if match is None:
            raise errors.IntegrityError(f"recurrent state: unknown entry {name!r}; the file is not one of ours")
        layers.setdefault(int(match[1]), {})[match[2]] = part
    kinds = {frozenset(layer) for layer in layers.values()}
    if sorted(layers) != list(range(len(layers))) or len(kinds) > 1 or frozenset("c") in kinds:
        raise errors.IntegrityError(f"recurrent state: entries {sorted(named)} do not make up layers; it is damaged")
    return tuple(tuple(layers[index][key] for key in _PARTS if key in layers[index]) for index in range(len(layers)))


def zeros(num_parts: int, hidden_sizes: tuple[int, ...], batch_size: int, like: Tensor) -> State:
    """Returns the zero state of layers of these sizes and so many parts, on the device and of the type of `like`."""
    return tuple(
        tuple(torch.zeros(batch_size, size, device=like.device, dtype=like.dtype) for _ in range(num_parts))
        for size in hidden_sizes
    )
