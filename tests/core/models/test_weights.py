"""Weight files: round trips, validation, and the refusal of pickles."""

import json
import pathlib
import pickle
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies

from core import errors
from core.models import weights

TENSORS = {
    "b": torch.arange(6.0).view(2, 3),
    "a": torch.tensor([1, 2], dtype=torch.int64),
    "c": torch.zeros(0, 4),
    "d": torch.tensor(3.0, dtype=torch.bfloat16),
}


def file_of(header: Any, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(shape: list[int], start: int, stop: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def test_a_file_written_in_blocks_has_the_bytes_of_one_written_at_once(tmp_path: pathlib.Path) -> None:
    types = (torch.int64, torch.float64, torch.float32, torch.int32, torch.float16, torch.uint8, torch.bool)
    tensors = {
        f"{name}{number}": torch.tensor([[1, 0, 1]]).to(dtype) for number, dtype in enumerate(types) for name in "ba"
    }
    stored = {
        name: weights.Stored(tensor.dtype, tuple(tensor.shape), [tensor[:, :2].numpy(), tensor[:, 2:].numpy()])
        for name, tensor in tensors.items()
    }
    weights.write(tmp_path / "w", stored)
    assert (tmp_path / "w").read_bytes() == weights.to_bytes(tensors)
    for name, tensor in weights.map_file(tmp_path / "w", "w").items():
        assert tensor.dtype == tensors[name].dtype
        assert torch.equal(tensor, tensors[name])


def test_weight_file_round_trip() -> None:
    back = weights.from_bytes(weights.to_bytes(TENSORS), "w", expected=TENSORS)
    assert set(back) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)


def test_equal_tensors_give_equal_bytes_in_any_order() -> None:
    assert weights.to_bytes(TENSORS) == weights.to_bytes(dict(reversed(TENSORS.items())))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "truncated"),
        (b"\xff" * 100, "truncated, or not a safetensors file"),
        (file_of({"a": entry([2], 0, 8)}, bytes(7)), "has 80 bytes|header describes"),
        (file_of({"a": entry([2], 0, 8)}, bytes(9)), "header describes"),
        (file_of({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)), "'b' do not match its dtype"),
        (file_of({"a": entry([2], 0, 8), "b": entry([2], 12, 20)}, bytes(20)), "'b' do not match its dtype"),
        (file_of({"a": entry([10**12], 0, 8)}, bytes(8)), "'a' do not match its dtype"),
        (file_of({"a": entry([-2], 0, 8)}, bytes(8)), "impossible shape"),
        (file_of({"a": entry([2], 0, 8, "F8_E4M3")}, bytes(8)), "unsupported dtype"),
        (file_of(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{}}', bytes(4)), "twice"),
        (file_of([1], b""), "lists no tensors"),
        (file_of({"a": 1}, b""), "does not describe 'a'"),
        (file_of(b"[" * 10_000, b""), "cannot be read"),
    ],
)
def test_inconsistent_headers_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(errors.IntegrityError, match=message):
        weights.from_bytes(data, "w")


def test_pickle_is_refused_and_never_executed(tmp_path: pathlib.Path) -> None:
    marker = tmp_path / "ran"

    class Touch:
        def __reduce__(self) -> Any:
            return pathlib.Path.touch, (marker,)

    with pytest.raises(errors.IntegrityError, match="not a safetensors file"):
        weights.from_bytes(pickle.dumps(Touch()), "w")
    assert not marker.exists()


def test_differences_are_listed_up_to_ten() -> None:
    stored = weights.to_bytes({f"x{number:02}": torch.zeros(1) for number in range(12)} | {"w": torch.zeros(2, 3)})
    with pytest.raises(errors.IntegrityError) as caught:
        weights.from_bytes(stored, "w", expected={"w": torch.zeros(3, 2), "gone": torch.zeros(1)})
    text = str(caught.value)
    assert "gone is missing" in text
    assert "x08 does not belong to this model" in text
    assert "x09" not in text
    assert "and 4 more" in text
    with pytest.raises(errors.IntegrityError, match=r"w is float32 \[2, 3\] instead of float32 \[3, 2\]"):
        weights.from_bytes(weights.to_bytes({"w": torch.zeros(2, 3)}), "w", expected={"w": torch.zeros(3, 2)})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_tensors_that_are_not_finite_are_named(value: float) -> None:
    with pytest.raises(errors.IntegrityError, match="b holds values that are not finite"):
        weights.check_finite({"a": torch.ones(2), "b": torch.tensor([1.0, value])}, "w")


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(strategies.binary(max_size=200), strategies.integers(0, 200))
def test_arbitrary_bytes_raise_only_integrity_errors(junk: bytes, offset: int) -> None:
    data = bytearray(weights.to_bytes(TENSORS))
    data[offset : offset + len(junk)] = junk
    try:
        weights.from_bytes(bytes(data), "w")
    except errors.IntegrityError:
        return
