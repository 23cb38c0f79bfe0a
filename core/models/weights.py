"""Named tensors as safetensors files: written the same way each time, and checked before they are believed."""

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from core import errors

MAX_HEADER_BYTES = 1 << 24
_LISTED = 10
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Serialises tensors, from whatever device; equal tensors give equal bytes."""
    stored = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    return bytes(safetensors.torch.save(stored))


def from_bytes(data: bytes, where: str, expected: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Reads tensors, after checking that the header describes the data exactly: no gap, overlap or byte too many.

    Args:
        data: the whole file.
        where: its name, for errors.
        expected: tensors (on any device, `meta` too) whose names, types and shapes must be there, and no others.

    Raises:
        IntegrityError: the file is damaged, of another format, or has not the expected tensors.
    """
    header, start = _header(data, where)
    end = 0
    found: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    for name, (dtype, shape, first, last) in sorted(header.items(), key=lambda item: item[1][2:]):
        if first != end or last - first != math.prod(shape) * dtype.itemsize:
            _refuse(where, f"the bytes of {name!r} are not where its type and shape put them")
        end = last
        found[name] = (dtype, shape)
    if start + end != len(data):
        _refuse(where, f"has {len(data)} bytes, its header describes {start + end}")
    if expected is not None:
        _compare(found, {name: (part.dtype, tuple(part.shape)) for name, part in expected.items()}, where)
    try:
        return dict(safetensors.torch.load(data))
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise errors.IntegrityError(f"{where}: is damaged ({error}); restore it from a copy") from error


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuses tensors with values that are no numbers.

    Raises:
        IntegrityError: names the tensors.
    """
    bad = [name for name, part in tensors.items() if part.is_floating_point() and not bool(part.isfinite().all())]
    if bad:
        _refuse(where, f"{_listed(bad)} holds values that are not finite")


Entry = tuple[torch.dtype, tuple[int, ...], int, int]


def _header(data: bytes, where: str) -> tuple[dict[str, Entry], int]:
    """Returns (type, shape, first byte, end) of each tensor, and where the data starts."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > len(data) - 8 or size > MAX_HEADER_BYTES:
        _refuse(where, "is cut short, or not a file of our format (safetensors)")
    try:
        content = json.loads(data[8 : 8 + size].decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise errors.IntegrityError(
            f"{where}: its header cannot be read ({error}); restore the file from a copy"
        ) from error
    if not isinstance(content, dict):
        _refuse(where, "its header lists no tensors")
    content.pop("__metadata__", None)
    return {name: _entry(name, value, where) for name, value in content.items()}, 8 + size


def _entry(name: str, value: Any, where: str) -> Entry:
    shape = value.get("shape") if isinstance(value, dict) else None
    offsets = value.get("data_offsets") if isinstance(value, dict) else None
    if not (isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2):
        _refuse(where, f"its header does not describe {name!r}")
    if not all(type(number) is int and 0 <= number < 1 << 48 for number in (*shape, *offsets)):
        _refuse(where, f"the header gives {name!r} an impossible shape or place")
    if value.get("dtype") not in _DTYPES:
        _refuse(where, f"{name!r} is of a type that is not used here: {value.get('dtype')!r}")
    return _DTYPES[value["dtype"]], tuple(shape), offsets[0], offsets[1]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name occurs twice")
    return content


def _compare(found: Mapping[str, Any], expected: Mapping[str, Any], where: str) -> None:
    """Refuses other tensors than the expected ones; lists the first ten differences."""
    differences = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    differences += [f"{name} is not of this model" for name in sorted(found.keys() - expected.keys())]
    differences += [
        f"{name} is {_describe(found[name])} instead of {_describe(expected[name])}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    if differences:
        _refuse(where, f"does not fit the model's settings: {_listed(differences)}")


def _describe(kind: tuple[torch.dtype, tuple[int, ...]]) -> str:
    return f"{str(kind[0]).removeprefix('torch.')} {list(kind[1])}"


def _listed(entries: list[str]) -> str:
    more = len(entries) - _LISTED
    return ", ".join(entries[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _refuse(where: str, what: str) -> NoReturn:
    raise errors.IntegrityError(f"{where}: {what}; restore the file from a copy")
