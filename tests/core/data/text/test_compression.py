"""Laws of decompression: a damaged file is an error, wherever the damage is, and never a shorter text."""

import bz2
import gzip
import io
import lzma
from collections.abc import Callable

import pyarrow as pa
import pytest

from core import errors
from core.data.text import compression, extensions
from core.storage import location

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": lambda data: bytes(pa.compress(data, codec="zstd", asbytes=True)),
}
LINES = b"".join(b"line %d of a small text\n" % number for number in range(30))
PARTS = [LINES[:200], LINES[200:450], LINES[450:]]


def unpacked(data: bytes, ending: str) -> bytes:
    file = location.Location.parse(f"/data/a.txt{ending}")
    with compression.unpack(file, "", io.BytesIO(data)) as (name, buffers):
        assert name == "a.txt"
        return b"".join(buffers)


@pytest.mark.parametrize("ending", extensions.COMPRESSED)
def test_several_streams_are_one_text(ending: str) -> None:
    assert unpacked(b"".join(map(COMPRESSORS[ending], PARTS)), ending) == LINES


@pytest.mark.parametrize("ending", [".gz", ".xz", ".bz2"])
def test_a_changed_byte_anywhere_is_an_error_or_changes_nothing(ending: str) -> None:
    """Each stream has a checksum; a few bytes, such as the time in the header of gzip, mean nothing for the text."""
    data = b"".join(map(COMPRESSORS[ending], PARTS))
    outcomes = {"error": 0, "same": 0}
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 0x55
        try:
            text = unpacked(bytes(changed), ending)
        except errors.DataError:
            outcomes["error"] += 1
        else:
            assert text == LINES, f"byte {position} was changed, and {len(LINES) - len(text)} bytes are missing"
            outcomes["same"] += 1
    assert outcomes["error"] > 10 * outcomes["same"]


@pytest.mark.parametrize("ending", extensions.COMPRESSED)
def test_a_cut_anywhere_but_between_streams_is_an_error(ending: str) -> None:
    streams = list(map(COMPRESSORS[ending], PARTS))
    data = b"".join(streams)
    ends = {0, len(streams[0]), len(streams[0]) + len(streams[1])}
    for position in set(range(len(data))) - ends:
        with pytest.raises(errors.DataError):
            unpacked(data[:position], ending)
    assert unpacked(data[: len(streams[0])], ending) == PARTS[0]


@pytest.mark.parametrize("ending", extensions.COMPRESSED)
@pytest.mark.parametrize("rubbish", [b"g", b"garbage", b"\x1f\x8b", b"BZ", b"line 31\n" * 9])
def test_rubbish_after_the_last_stream_is_an_error(ending: str, rubbish: bytes) -> None:
    with pytest.raises(errors.DataError):
        unpacked(COMPRESSORS[ending](LINES) + rubbish, ending)


@pytest.mark.parametrize("ending", [".gz", ".xz", ".bz2"])
def test_zeros_after_a_stream_are_padding(ending: str) -> None:
    padded = COMPRESSORS[ending](PARTS[0]) + bytes(512) + COMPRESSORS[ending](LINES[200:]) + bytes(1024)
    assert unpacked(padded, ending) == LINES


def test_damage_of_a_large_stream_is_found() -> None:
    """In streams of several buffers the header of the second one counts, too."""
    large = bytes(range(256)) * 20_000
    for ending in (".xz", ".bz2"):
        first, second = COMPRESSORS[ending](large), bytearray(COMPRESSORS[ending](large))
        second[1] ^= 0x55
        with pytest.raises(errors.DataError):
            unpacked(first + bytes(second), ending)
        assert unpacked(first + first, ending) == large + large
