"""Parquet files whose footer is damaged; it has no checksum."""

import pathlib
from collections.abc import Iterator

import pyarrow as pa
from pyarrow import parquet


def flipped_footers(path: pathlib.Path, column: pa.Array) -> Iterator[None]:
    """Writes a column `s` in groups of three rows, once with each bit of the footer flipped."""
    table = pa.table({"s": column})
    # No more in the footer than is needed, so that there are not too many bits.
    parquet.write_table(table, path, row_group_size=3, compression="none", write_statistics=False, store_schema=False)
    data = path.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    for bit in range(8 * footer, 8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        yield
