"""Arrow files of others: a small one must not fill the memory, whichever reader it is given to."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from core import errors
from core.data import ngram_counts, uncompressed_arrow
from core.data.dataset import statistics
from core.data.series import dataset as series
from core.decoding.lines import results
from core.storage import location


def _write(batches: list[pa.RecordBatch], schema: pa.Schema, codec: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return bytes(sink.getvalue())


def _compress(data: bytes) -> bytes:
    table = pa.ipc.open_file(data).read_all()
    return _write(table.to_batches(), table.schema, "zstd")


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_file_without_compression_is_read_with_all_its_batches(number: int) -> None:
    batch = pa.record_batch([pa.array([1, 2])], ["value"])
    reader = uncompressed_arrow.open_file(_write([batch] * number, batch.schema))
    assert reader.read_all().num_rows == 2 * number


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
@pytest.mark.parametrize("number", [1, 3])
def test_a_file_with_compressed_batches_is_refused(codec: str, number: int) -> None:
    batch = pa.record_batch([pa.array([0] * 1000)], ["value"])
    with pytest.raises(pa.ArrowInvalid, match="found compressed ones"):
        uncompressed_arrow.open_file(_write([batch] * number, batch.schema, codec))


@pytest.mark.parametrize("damage", [b"", b"ARROW1\0\0" + bytes(40) + b"ARROW1", bytes(500)])
def test_what_is_no_arrow_file_is_refused(damage: bytes) -> None:
    with pytest.raises(pa.ArrowInvalid):
        uncompressed_arrow.open_file(damage)


def _read_series(data: bytes, folder: Path) -> object:
    path = folder / "series.arrow"
    path.write_bytes(data)
    return series._read_table(location.Location.parse(str(path)))


COUNTS = statistics.Counts(np.array([1, 2]), np.array([3]), (np.array([4]),), (np.array([5]),))
NGRAMS = ngram_counts.Counts(np.array([[1, 2]], np.uint32), np.array([3]))


@pytest.mark.parametrize(
    ("data", "read"),
    [
        (
            results.encode(results.to_table("scores", 0, [results.Score(1.5, 2, 0)])),
            lambda data, _: results.decode("scores", data, "here"),
        ),
        (ngram_counts.encode(NGRAMS), lambda data, _: ngram_counts.decode(data, 2, "here")),
        (statistics.pack({"text": COUNTS}), lambda data, _: statistics.unpack(data, ["text"])),
        (_write([pa.record_batch([pa.array([1.5])], ["x"])], pa.schema([("x", pa.float64())])), _read_series),
    ],
    ids=["results", "n-grams", "statistics", "series"],
)
def test_every_reader_refuses_a_compressed_file(
    data: bytes, read: Callable[[bytes, Path], object], tmp_path: Path
) -> None:
    assert read(data, tmp_path) is not None
    with pytest.raises(errors.IntegrityError, match="found compressed ones"):
        read(_compress(data), tmp_path)
