"""Sources: a check that the files of a corpus are text, and plain copies of those that are not plain text files.

`source_files` turns settings into files, `check` examines the beginning of each, and `stage` makes a plain copy of a
file that cannot be read in ranges (compressed, in an archive, a table, or on the web).
"""

import contextlib
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, BinaryIO

from core import errors
from core.data.text import compression, corpus, source_files, tables
from core.storage import location, private_folders, streams

SAMPLE_BYTES = 1 << 20
# More than that is rather another encoding than damage.
MAX_INVALID_SHARE = 0.05
MIN_INVALID_LINES = 5  # a short file may have a few
_SIGNATURES = {
    b"\x1f\x8b": "gzip; give it the extension .gz",
    b"\xfd7zXZ\0": "xz; give it the extension .xz",
    b"BZh": "bzip2; give it the extension .bz2",
    b"\x28\xb5\x2f\xfd": "zstd; give it the extension .zst",
    b"PK\x03\x04": "zip; give it the extension .zip",
    b"PAR1": "Parquet; give it the extension .parquet, and name it with its columns",
    b"ARROW1": "Arrow; export it as text or Parquet",
    b"%PDF-": "PDF; export it as text",
}
_TAR, _TAR_START = b"ustar", 257


def check(file: location.Location) -> None:
    """Checks that the first mebibyte of a plain file looks like text.

    Raises:
        DataError: it is UTF-16, binary, compressed, has carriage returns but no line feed, or has too many lines of
            invalid UTF-8.
    """
    size_bytes = file.size_bytes()
    # The beginning only: prepare reads the rest anyway, and counts its invalid lines.
    sample = file.read_range(0, min(size_bytes, SAMPLE_BYTES))
    if sample.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise errors.DataError(f"{file}: looks like UTF-16; convert it to UTF-8")
    refuse_signature(sample, str(file))
    # Every other byte of Latin text in UTF-16 is 0, also without the byte order mark that is checked above.
    if sample.count(b"\0") > len(sample) // 4:
        raise errors.DataError(f"{file}: is binary data; name a text file")
    check_line_ends(str(file), sample)
    lines = sample.split(b"\n")
    # The last line of the sample may end within a character.
    if len(sample) < size_bytes or not lines[-1]:
        lines.pop()
    check_share(str(file), len(lines), sum(not _is_utf8(line) for line in lines))


def refuse_signature(data: bytes, where: str) -> None:
    """Refuses data that begins like a compressed or columnar file.

    Raises:
        DataError: it does; the message names the format and the remedy.
    """
    for signature, advice in _SIGNATURES.items():
        if data.startswith(signature):
            raise errors.DataError(f"{where}: is not text but {advice}")
    if data.startswith(_TAR, _TAR_START):
        raise errors.DataError(f"{where}: is not text but a tar archive; unpack it")


def check_line_ends(where: str, beginning: bytes) -> None:
    """Checks that lines end in line feeds: a carriage return alone ends none, so the whole text would be one line.

    Raises:
        DataError: the beginning of the text has carriage returns within it, and no line feed.
    """
    num_returns = beginning.rstrip(b"\r").count(b"\r")
    if num_returns and b"\n" not in beginning:
        raise errors.DataError(
            f"{where}: has no line feed, but {num_returns} carriage returns; convert its line ends to line feeds"
        )


def check_share(where: str, num_lines: int, num_invalid: int, reason: str = "invalid_utf8") -> None:
    """Checks the share of lines that cannot be used for one reason, as `corpus.BadLine` names it.

    Raises:
        DataError: it is more than a twentieth, and at least five lines.
    """
    if num_invalid >= MIN_INVALID_LINES and num_invalid > MAX_INVALID_SHARE * num_lines:
        share = f"{100 * num_invalid / num_lines:.1f} %"
        problem = {
            "invalid_utf8": f"not UTF-8? {share} invalid lines; convert it to UTF-8",
            "invalid_json": f"{share} of the rows are not valid JSON; correct the table",
            "no_text": f"{share} of the rows have no text in the column; name another, or correct the table",
        }[reason]
        raise errors.DataError(f"{where}: {problem}")


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def read(file: source_files.File, sha256: str | None = None) -> tuple[str, bytes]:
    """Reads a file or a pipe that fits into memory; returns its name, without compression, and its content.

    Raises:
        DataError: the checksum differs, or the content does not match the extension.
    """
    with _open(file) as opened:
        data = opened.read()
    _check_sha256(file, hashlib.sha256(data).hexdigest(), sha256)
    with compression.unpack(file.origin, file.member, io.BytesIO(data)) as (name, buffers):
        return name, b"".join(buffers)


def needs_staging(file: source_files.File, sha256: str | None) -> bool:
    """Returns True if `stage` has work to do: the file is not plain, or has a checksum to verify."""
    return sha256 is not None or not file.is_plain


def stage(
    file: source_files.File, folder: location.Location, sha256: str | None = None, strict: bool = False
) -> location.Location:
    """Verifies the checksum of a file and returns the location of a plain file with its text.

    A plain file is returned as it is. Otherwise the text is streamed into a new file in `folder`. Its name contains
    the beginning of its SHA-256, so repeating the call changes nothing.

    Args:
        file: the file, or a pipe, which is read to its end.
        folder: folder of the copy.
        sha256: expected checksum of the file, if any.
        strict: whether a bad row of a table is an error, and not a bad line of the copy.

    Raises:
        DataError: the checksum differs; the content does not match the extension; it is truncated; it decompresses
            to more than a hundred times its size and a gibibyte; or a table has no such columns of text.
        StorageError: the copy cannot be written.
    """
    if file.is_plain:
        if sha256 is not None:
            with file.origin.open() as opened:
                _check_sha256(file, _copy(opened, None), sha256)
        return file.origin
    # Next to the destination, because the disk of temporary files may be small. An object store has no local folder.
    # A killed task leaves at most this folder: the copy gets its final name when it is complete.
    with private_folders.staging(folder.path) if folder.is_local else private_folders.scratch() as scratch:
        raw, plain, table = (scratch / name for name in ("raw", "plain", "table"))
        with contextlib.ExitStack() as stack:
            is_stream = file.is_stream
            opened = stack.enter_context(_open(file))
            if file.is_web or is_stream or sha256 is not None:
                # The checksum is verified before a byte is decompressed.
                with raw.open("wb") as copy:
                    _check_sha256(file, _copy(opened, copy), sha256)
                opened = stack.enter_context(raw.open("rb"))
            with plain.open("wb") as copy, compression.unpack(file.origin, file.member, opened) as (name, buffers):
                digest = _write(buffers, copy)
        if file.columns:
            # Parquet needs random access, so the decompressed table is a file before it is read.
            plain.rename(table)
            with plain.open("wb") as copy:
                digest = _write(tables.lines(table, name, file.columns, str(file), strict), copy)
        # A readable part of the name for people; the hash alone identifies the text. The number of a descriptor is
        # another one in each call.
        stem = "pipe" if is_stream else Path(name).name.partition(".")[0] or "source"
        safe = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in stem)
        staged = folder.join(f"{safe}-{digest[:16]}.txt")
        staged.put_file_if_absent(plain)
    return staged


def _open(file: source_files.File) -> contextlib.AbstractContextManager[BinaryIO]:
    return streams.open_stream(file.origin) if file.is_stream else file.origin.open()


def stage_streams(
    groups: Sequence[tuple[source_files.File, ...]], folder: location.Location, sha256: Mapping[str, str], strict: bool
) -> list[tuple[source_files.File, ...]]:
    """Returns the groups with a file in the place of each pipe, which only this process can read, and only once."""
    return [
        tuple(
            source_files.File(stage(file, folder, source_files.expected_sha256(file, sha256), strict))
            if file.is_stream
            else file
            for file in group
        )
        for group in groups
    ]


def _check_sha256(file: source_files.File, actual: str, expected: str | None) -> None:
    if expected is not None and actual != expected.lower():  # tools print hexadecimal digits in either case
        raise errors.DataError(f"{file.origin}: its SHA-256 is {actual}, not {expected}; download the right file")


def _copy(opened: IO[bytes], copy: IO[bytes] | None) -> str:
    return _write(iter(lambda: opened.read(corpus.BUFFER_BYTES), b""), copy)


def _write(buffers: Iterable[bytes], copy: IO[bytes] | None) -> str:
    """Writes buffers one after the other and returns the SHA-256 of all."""
    digest = hashlib.sha256()
    for buffer in buffers:
        digest.update(buffer)
        if copy is not None:
            copy.write(buffer)
    return digest.hexdigest()
