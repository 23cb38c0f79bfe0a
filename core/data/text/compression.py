"""Decompression of files and of archive members, as streams of bytes.

Damaged data is a `DataError`; an error of the filesystem while reading is a `StorageError`.
"""

import bz2
import contextlib
import functools
import gzip
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, BinaryIO, cast

import pyarrow as pa

from core import errors
from core.data.text import corpus
from core.storage import location

COMPRESSED = (".gz", ".xz", ".bz2", ".zst")
EXTENSIONS = (*COMPRESSED, ".zip")
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
        DataError: the content does not match the extension; it is truncated; the archive has no such member, or
            several and none is named; or it decompresses to more than a hundred times its size and a gibibyte.
    """
    # The limit compares with the compressed bytes read so far, which are known for a stream, too.
    name, packed, read_bytes = file.name, opened, opened.tell
    with contextlib.ExitStack() as stack:
        stack.enter_context(_translate_damage(file, name, opened))
        # Many archives have another extension (.docx, .npz): a named member says that the file is one.
        if name.endswith(".zip") or member:
            archive = stack.enter_context(zipfile.ZipFile(opened))
            info = _find_member(file, archive, member)
            name, packed = info.filename, cast(BinaryIO, stack.enter_context(archive.open(info)))
            # The ratio is that of the member: the archive may be large because of others.
            read_bytes = functools.partial(int, info.compress_size)
        text = _decompressor(name, packed)
        for extension in COMPRESSED:
            name = name.removesuffix(extension)
        yield name, _limit(file, text, read_bytes)


def _limit(file: location.Location, text: IO[bytes], read_bytes: Callable[[], int]) -> Iterator[bytes]:
    """Reads a stream in buffers, and stops at a decompression bomb before it fills the disk."""
    written_bytes = 0
    while buffer := text.read(corpus.BUFFER_BYTES):
        written_bytes += len(buffer)
        if written_bytes > SAFE_SIZE_BYTES and written_bytes > MAX_RATIO * read_bytes():
            raise errors.DataError(
                f"{file}: exceeds the decompression limit, {MAX_RATIO} times its size; decompress it yourself"
            )
        yield buffer


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


def _decompressor(name: str, opened: BinaryIO) -> IO[bytes]:
    if name.endswith(".gz"):
        return cast(IO[bytes], gzip.GzipFile(fileobj=opened))
    if name.endswith(".xz"):
        return cast(IO[bytes], lzma.LZMAFile(opened))
    if name.endswith(".zst"):
        # By Arrow, because the standard library has no zstd before Python 3.14.
        return cast(IO[bytes], pa.CompressedInputStream(pa.PythonFile(opened, mode="r"), "zstd"))
    return cast(IO[bytes], bz2.BZ2File(opened)) if name.endswith(".bz2") else opened


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
        # bz2 and zstd raise bare OSErrors for damaged data; only those of the filesystem have an error number.
        if error.errno is not None:
            raise errors.StorageError(f"{file}: {error}; check the disks") from error
        if "Truncated" in str(error):
            raise errors.DataError(f"{file}: truncated {kind} at byte {opened.tell()}; download it again") from error
        raise errors.DataError(
            f"{file}: is not valid {kind} ({error}); download it again or correct its extension"
        ) from error
