"""Streams of decompressed bytes: compressed files and members of an archive, with damage told apart from bad disks."""

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
ENDINGS = (*COMPRESSED, ".zip")
LARGEST_RATIO = 100
SAFE_SIZE_BYTES = 1 << 30
_SHOWN_MEMBERS = 5
_ENCRYPTED = 1  # a bit of a member's flags


@contextlib.contextmanager
def unpacked(file: location.Location, member: str, opened: BinaryIO) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Opens what a file holds, layer by layer as the endings say.

    Args:
        file: names the file, by its ending and in errors.
        member: of an archive, the name of the file inside; empty where there is only one.
        opened: its bytes.

    Yields:
        The name of what is inside, without the endings of what was unpacked, and its bytes in pieces.

    Raises:
        DataError: an ending promises what is not there; it is truncated; there is no such member, or a choice of
            them; or it decompresses to more than a hundred times its size and a gibibyte.
    """
    name, packed, read_bytes = file.name, opened, opened.tell
    with contextlib.ExitStack() as stack:
        stack.enter_context(_damage_translated(file, name, opened))
        if name.endswith(".zip") or member:
            archive = stack.enter_context(zipfile.ZipFile(opened))
            chosen = _chosen(file, archive, member)
            name, packed = chosen.filename, cast(BinaryIO, stack.enter_context(archive.open(chosen)))
            read_bytes = functools.partial(int, chosen.compress_size)
        text = _decompressor(name, packed)
        for ending in COMPRESSED:
            name = name.removesuffix(ending)
        yield name, _limited(file, text, read_bytes)


def _limited(file: location.Location, text: IO[bytes], read_bytes: Callable[[], int]) -> Iterator[bytes]:
    written_bytes = 0
    while piece := text.read(corpus.PIECE_BYTES):
        written_bytes += len(piece)
        if written_bytes > SAFE_SIZE_BYTES and written_bytes > LARGEST_RATIO * read_bytes():
            raise errors.DataError(
                f"{file}: decompressed limit: more than {LARGEST_RATIO} times its size; decompress it yourself"
            )
        yield piece


def _chosen(file: location.Location, archive: zipfile.ZipFile, member: str) -> zipfile.ZipInfo:
    """Finds a member by its name, or the only one."""
    files = {info.filename: info for info in archive.infolist() if not info.is_dir()}
    if not member and len(files) == 1:
        member = next(iter(files))
    if member not in files:
        what = f"has no member {member!r}" if member else f"holds {len(files)} files"
        shown = ", ".join([*files][:_SHOWN_MEMBERS])
        raise errors.DataError(f"{file}: {what}; name one like zip://NAME::{file} (it holds {shown})")
    if files[member].flag_bits & _ENCRYPTED:
        raise errors.DataError(f"{file}: {member!r} needs a password; unpack it yourself")
    return files[member]


def _decompressor(name: str, opened: BinaryIO) -> IO[bytes]:
    if name.endswith(".gz"):
        return cast(IO[bytes], gzip.GzipFile(fileobj=opened))
    if name.endswith(".xz"):
        return cast(IO[bytes], lzma.LZMAFile(opened))
    if name.endswith(".zst"):
        return cast(IO[bytes], pa.CompressedInputStream(pa.PythonFile(opened, mode="r"), "zstd"))
    return cast(IO[bytes], bz2.BZ2File(opened)) if name.endswith(".bz2") else opened


@contextlib.contextmanager
def _damage_translated(file: location.Location, name: str, opened: BinaryIO) -> Iterator[None]:
    what = name.rpartition(".")[2]
    try:
        yield
    except EOFError as error:
        raise errors.DataError(f"{file}: truncated {what} at byte {opened.tell()}; get it again") from error
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError, zipfile.BadZipFile, NotImplementedError) as error:
        raise errors.DataError(f"{file}: is no valid {what} ({error}); get it again or correct its ending") from error
    except OSError as error:
        # bz2 and zstd have no exceptions of their own; anything with an error number is the filesystem's.
        if error.errno is not None:
            raise errors.StorageError(f"{file}: {error}; check the disks") from error
        if "Truncated" in str(error):
            raise errors.DataError(f"{file}: truncated {what} at byte {opened.tell()}; get it again") from error
        raise errors.DataError(f"{file}: is no valid {what} ({error}); get it again or correct its ending") from error
