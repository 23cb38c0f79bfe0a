"""Decompression of files and of archive members, as streams of bytes.

Damaged data is a `DataError`; an error of the filesystem while reading is a `StorageError`.
"""

import bz2
import contextlib
import errno
import functools
import gzip
import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol, cast

import pyarrow as pa

from core import errors
from core.data.text import corpus, extensions
from core.storage import location

# Natural text stays below 10 in gzip; bombs come near the maximum of deflate, 1032.
MAX_RATIO = 100
SAFE_SIZE_BYTES = 1 << 30  # smaller results are accepted at any ratio
_SHOWN_MEMBERS = 5
_ENCRYPTED = 1  # bit 0 of the general purpose flags of a zip member


@contextlib.contextmanager
def unpack(file: location.Location, member: str, opened: BinaryIO) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Opens a compressed or archived file, layer by layer as its extensions say.

    Args:
        file: the location of the file, for its extension and for errors.
        member: the name of the file inside an archive; empty if there is only one.
        opened: the bytes of the file.

    Yields:
        The name of the innermost file, without the extensions of its compression, and its bytes in buffers.

    Raises:
        DataError: the content does not match the extension; it is truncated; other data follow its last stream; the
            archive has no such member, or several and none is named; or it decompresses to more than a hundred times
            its size and a gibibyte.
    """
    # The limit compares with the compressed bytes read so far, which are known for a stream, too.
    name, packed, read_bytes = file.name, opened, opened.tell
    with contextlib.ExitStack() as stack:
        stack.enter_context(_translate_damage(file, name, opened))
        # Many archives have another extension (.docx, .npz): a named member says that the file is one.
        if name.endswith(".zip") or member:
            info, opened_member = _open_member(file, member, opened, stack)
            name, packed = info.filename, opened_member
            # The ratio is that of the member: the archive may be large because of others.
            read_bytes = functools.partial(int, info.compress_size)
        buffers = _decompress(name, packed)
        yield extensions.plain_name(name), _limit(file, buffers, read_bytes)


def _limit(file: location.Location, buffers: Iterator[bytes], read_bytes: Callable[[], int]) -> Iterator[bytes]:
    """Stops at a decompression bomb before it fills the disk."""
    written_bytes = 0
    for buffer in buffers:
        written_bytes += len(buffer)
        if written_bytes > SAFE_SIZE_BYTES and written_bytes > MAX_RATIO * read_bytes():
            raise errors.DataError(
                f"{file}: exceeds the decompression limit, {MAX_RATIO} times its size; decompress it yourself"
            )
        yield buffer


def _open_member(
    file: location.Location, member: str, opened: BinaryIO, stack: contextlib.ExitStack
) -> tuple[zipfile.ZipInfo, BinaryIO]:
    """Opens the member of this name, or the only one."""
    try:
        archive = stack.enter_context(zipfile.ZipFile(opened))
        info = _find_member(file, archive, member)
        return info, cast(BinaryIO, stack.enter_context(archive.open(info)))
    # What the library raises for a damaged directory, besides its own error: negative offsets, names that are not in
    # their encoding or empty, fields that are cut short.
    except (ValueError, IndexError, OverflowError, struct.error) as error:
        raise zipfile.BadZipFile(" ".join(str(error).split())[:120]) from error


def _find_member(file: location.Location, archive: zipfile.ZipFile, member: str) -> zipfile.ZipInfo:
    """Returns the member of this name; for an empty name, the only member."""
    files = {info.filename: info for info in archive.infolist() if not info.is_dir()}
    if not member and len(files) == 1:
        member = next(iter(files))
    if member not in files:
        problem = f"has no member {member!r}" if member else f"contains {len(files)} files"
        names = ", ".join([*files][:_SHOWN_MEMBERS])
        raise errors.DataError(f"{file}: {problem}; name one as zip://NAME::{file} (it contains {names})")
    # Else zipfile raises a RuntimeError that asks for a password.
    if files[member].flag_bits & _ENCRYPTED:
        raise errors.DataError(f"{file}: {member!r} is encrypted; unpack it yourself")
    return files[member]


class _Decompressor(Protocol):
    """Decompressor of one stream, as `bz2` and `lzma` have it."""

    @property
    def eof(self) -> bool:
        """True at the end of the stream."""

    @property
    def needs_input(self) -> bool:
        """True if more bytes can be decompressed only with more input."""

    @property
    def unused_data(self) -> bytes:
        """The input after the end of the stream."""

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """Returns some of the decompressed bytes."""


def _decompress(name: str, opened: BinaryIO) -> Iterator[bytes]:
    """Returns the decompressed bytes of a file, by the extension of its name; other files as they are."""
    if name.endswith(".xz"):
        return _decompress_streams(opened, lzma.LZMADecompressor)
    if name.endswith(".bz2"):
        return _decompress_streams(opened, bz2.BZ2Decompressor)
    text = opened
    if name.endswith(".gz"):
        text = cast(BinaryIO, gzip.GzipFile(fileobj=opened))
    elif name.endswith(".zst"):
        # By Arrow, because the standard library has no zstd before Python 3.14.
        text = cast(BinaryIO, pa.CompressedInputStream(pa.PythonFile(opened, mode="r"), "zstd"))
    return iter(lambda: text.read(corpus.BUFFER_BYTES), b"")


def _decompress_streams(opened: BinaryIO, make: Callable[[], _Decompressor]) -> Iterator[bytes]:
    """Yields the decompressed bytes of all streams of a file; zeros after a stream are padding.

    `bz2.BZ2File` and `lzma.LZMAFile` end without an error at a further stream whose first bytes are damaged, as if
    everything from there on were not part of the file.
    """
    data = opened.read(corpus.BUFFER_BYTES)
    while True:
        decompressor = make()
        while not decompressor.eof:
            if decompressor.needs_input and not data:
                data = opened.read(corpus.BUFFER_BYTES)
                if not data:
                    raise EOFError
            yield decompressor.decompress(data, corpus.BUFFER_BYTES)
            data = b""
        data = decompressor.unused_data.lstrip(b"\0")
        while not data:
            padding = opened.read(corpus.BUFFER_BYTES)
            if not padding:
                return
            data = padding.lstrip(b"\0")


@contextlib.contextmanager
def _translate_damage(file: location.Location, name: str, opened: BinaryIO) -> Iterator[None]:
    """Raises our errors for those of the decompressors."""
    kind = name.rpartition(".")[2]
    try:
        yield
    except EOFError as error:
        raise errors.DataError(f"{file}: truncated {kind} at byte {opened.tell()}; download it again") from error
    # NotImplementedError: a zip member with a compression method that zipfile does not know.
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError) as error:
        raise errors.DataError(
            f"{file}: is not valid {kind} ({error}); download it again or correct its extension"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # of the caller, who writes a copy
            raise
        # bz2 and zstd raise bare OSErrors for damaged data; only those of the filesystem have an error number.
        if error.errno is not None:
            raise errors.StorageError(f"{file}: {error}; check the disks") from error
        if "Truncated" in str(error):
            raise errors.DataError(f"{file}: truncated {kind} at byte {opened.tell()}; download it again") from error
        raise errors.DataError(
            f"{file}: is not valid {kind} ({error}); download it again or correct its extension"
        ) from error
