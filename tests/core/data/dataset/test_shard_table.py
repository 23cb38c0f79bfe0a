"""The table of shards: equal names and hashes are found among any number of them."""

from typing import Any

import pyarrow as pa
import pytest

from core.data.dataset import shard_table

LONG = "train/part-00000-0123456789abcdef.arrow"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], False),
        (["a"], False),
        (["a", "b"], False),
        (["a", "a"], True),
        (["abcdefgh1", "abcdefgh2"], False),
        (["1abcdefgh", "2abcdefgh"], False),
        (["short", LONG, "short"], True),
        ([LONG, LONG + "x"], False),
        ([LONG, "a", LONG], True),
        ([bytes(32), bytes(31) + b"\1"], False),
        ([bytes(32), bytes(31) + b"\1", bytes(32)], True),
    ],
)
def test_duplicates_are_found(values: list[Any], expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    of_type = pa.binary(32) if values and isinstance(values[0], bytes) else pa.string()
    column = pa.array(values, of_type)
    assert shard_table._has_duplicates(column) is expected
    # Of a column that begins within its buffers, and block by block.
    monkeypatch.setattr(shard_table, "_NAMES_AT_ONCE", 1)
    padded = pa.concat_arrays([pa.array(values[:1], of_type), column]).slice(len(values[:1]))
    assert shard_table._has_duplicates(padded) is expected
