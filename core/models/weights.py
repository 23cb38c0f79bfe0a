"""Weight files: named tensors in the safetensors format, written deterministically and validated before use.

Nothing in a file is executed: it holds a JSON header and raw numbers, no pickle.
"""

import io
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from core import errors
from core.data import columns

MAX_HEADER_BYTES = 1 << 24  # bounds what a forged size may make us parse
_MAX_LISTED = 10
# All types that our files have, in the order of their tensors in a file; others are refused.
_DTYPES = {
    "I64": torch.int64,
    "F64": torch.float64,
    "F32": torch.float32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NUMBERS_AT_ONCE = 1 << 22


def unique_parameters(model: torch.nn.Module) -> dict[str, Tensor]:
    """Returns each parameter once, under the first (sorted) of its names."""
    first_names: dict[int, str] = {}
    unique: dict[str, Tensor] = {}
    # Tied weights have several names: the first by alphabet does not depend on the order of modules.
    for name, parameter in sorted(model.named_parameters(remove_duplicate=False), key=lambda item: item[0]):
        if first_names.setdefault(id(parameter), name) == name:
            unique[name] = parameter
    return unique


def to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Returns the file of tensors on any device; equal tensors give equal bytes."""
    # In sorted order, so that the bytes do not depend on the order of modules.
    stored = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    return bytes(safetensors.torch.save(stored))


class Stored(NamedTuple):
    """A tensor to write: its type, its shape, and its numbers in blocks of that type."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    blocks: Iterable[npt.NDArray[Any]]


def write(path: Path, tensors: Mapping[str, Stored]) -> None:
    """Writes a new file with the bytes that `to_bytes` returns of the same tensors, a block at a time."""
    types = {dtype: (rank, name) for rank, (name, dtype) in enumerate(_DTYPES.items())}
    names = sorted(tensors, key=lambda name: (types[tensors[name].dtype][0], name))
    header, end = {}, 0
    for name in names:
        dtype, shape, _ = tensors[name]
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": types[dtype][1], "shape": list(shape), "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with io.FileIO(path, "x") as file:
        np.frombuffer(len(encoded).to_bytes(8, "little") + encoded, np.uint8).tofile(file)
        for name in names:
            for block in tensors[name].blocks:
                block.tofile(file)


def map_file(path: Path, where: str) -> dict[str, Tensor]:
    """Returns the tensors of a file, as `from_bytes` does, in memory that all processes share that map the file.

    Raises:
        IntegrityError: the file is damaged or of another format.
        OSError: it cannot be mapped.
    """
    mapping = columns.Mapping(path)
    header, start = _checked_header(mapping.memory, where)

    def tensor(dtype: torch.dtype, shape: tuple[int, ...], first: int, last: int) -> Tensor:
        if first == last:  # of no bytes there is no view in another type
            return torch.empty(shape, dtype=dtype)
        return torch.from_numpy(mapping.array(np.uint8, start + first, last - first)).view(dtype).reshape(shape)

    return {name: tensor(*entry) for name, entry in header.items()}


def from_bytes(data: bytes, where: str, expected: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Returns the tensors of a file whose header must describe all of its data, without gaps or overlaps.

    Args:
        data: the whole file.
        where: its name, for error messages.
        expected: tensors (on any device, `meta` included) whose names, types and shapes the file must have, no others.

    Raises:
        IntegrityError: the file is damaged, of another format, or does not have the expected tensors.
    """
    stored = {name: entry[:2] for name, entry in _checked_header(data, where)[0].items()}
    if expected is not None:
        # By the header, before any tensor is made: the message lists what differs.
        _compare(stored, {name: (part.dtype, tuple(part.shape)) for name, part in expected.items()}, where)
    try:
        return dict(safetensors.torch.load(data))
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise errors.IntegrityError(f"{where}: is damaged ({error}); restore it from a copy") from error


def is_finite(tensor: Tensor) -> bool:
    """Returns whether a tensor holds no NaN and no infinity."""
    # In slices: the tables of an n-gram model may be larger than memory.
    return not tensor.is_floating_point() or all(
        bool(part.isfinite().all()) for part in torch.split(tensor.flatten(), _NUMBERS_AT_ONCE)
    )


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Checks that all values are finite.

    Raises:
        IntegrityError: some are NaN or infinite; the message names the tensors.
    """
    bad = [name for name, part in tensors.items() if not is_finite(part)]
    if bad:
        _fail(where, f"{_listed(bad)} holds values that are not finite")


Entry = tuple[torch.dtype, tuple[int, ...], int, int]


def _checked_header(data: Any, where: str) -> tuple[dict[str, Entry], int]:
    """Returns what `_header` does, after a check that its tensors are all of the data."""
    header, start = _header(data, where)
    end = 0
    # In the order of the data, each tensor must begin where the one before ends.
    for name, (dtype, shape, first, last) in sorted(header.items(), key=lambda item: item[1][2:]):
        if first != end or last - first != math.prod(shape) * dtype.itemsize:
            _fail(where, f"the bytes of {name!r} do not match its dtype and shape")
        end = last
    if start + end != len(data):
        _fail(where, f"has {len(data)} bytes, but the header describes {start + end}")
    return header, start


def _header(data: Any, where: str) -> tuple[dict[str, Entry], int]:
    """Returns (dtype, shape, first byte, end) of each tensor, and the offset at which the data starts."""
    size = int.from_bytes(data[:8], "little")
    # The size is checked before that many bytes are decoded.
    if len(data) < 8 or size > len(data) - 8 or size > MAX_HEADER_BYTES:
        _fail(where, "is truncated, or not a safetensors file")
    try:
        content = json.loads(data[8 : 8 + size].decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise errors.IntegrityError(
            f"{where}: the header cannot be read ({error}); restore the file from a copy"
        ) from error
    if not isinstance(content, dict):
        _fail(where, "the header lists no tensors")
    # The format's own entry, which describes no tensor.
    content.pop("__metadata__", None)
    return {name: _entry(name, value, where) for name, value in content.items()}, 8 + size


def _entry(name: str, value: Any, where: str) -> Entry:
    """Returns the validated entry of a tensor in the header."""
    shape = value.get("shape") if isinstance(value, dict) else None
    offsets = value.get("data_offsets") if isinstance(value, dict) else None
    if not (isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2):
        _fail(where, f"the header does not describe {name!r}")
    # `type`, not isinstance, for which `true` is an int. Python's integers do not overflow in products of these.
    if not all(type(number) is int and 0 <= number < 1 << 48 for number in (*shape, *offsets)):
        _fail(where, f"the header gives {name!r} an impossible shape or offset")
    dtype = value.get("dtype")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        _fail(where, f"{name!r} has the unsupported dtype {str(dtype)[:40]!r}")
    return _DTYPES[dtype], tuple(shape), offsets[0], offsets[1]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Builds a JSON object, in which Python would keep the last of equal names without an error."""
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name occurs twice")
    return content


def _compare(stored: Mapping[str, Any], expected: Mapping[str, Any], where: str) -> None:
    """Raises an error that lists the first differences between the stored tensors and the expected ones."""
    differences = [f"{name} is missing" for name in sorted(expected.keys() - stored.keys())]
    differences += [f"{name} does not belong to this model" for name in sorted(stored.keys() - expected.keys())]
    differences += [
        f"{name} is {_describe(stored[name])} instead of {_describe(expected[name])}"
        for name in sorted(expected.keys() & stored.keys())
        if stored[name] != expected[name]
    ]
    if differences:
        _fail(where, f"does not match the model's settings: {_listed(differences)}")


def _describe(kind: tuple[torch.dtype, tuple[int, ...]]) -> str:
    return f"{str(kind[0]).removeprefix('torch.')} {list(kind[1])}"


def _listed(entries: list[str]) -> str:
    more = len(entries) - _MAX_LISTED
    return ", ".join(entries[:_MAX_LISTED]) + (f" and {more} more" if more > 0 else "")


def _fail(where: str, what: str) -> NoReturn:
    raise errors.IntegrityError(f"{where}: {what}; restore the file from a copy")
