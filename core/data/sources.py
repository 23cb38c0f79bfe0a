"""Sources: which files a corpus names, whether they look like text, and their plain copies.

`resolve` turns settings into files, `check` looks at the beginning of each, and `stage` makes of a file that
cannot be read in ranges (compressed, or on the web) a plain one that can.
"""

import bz2
import contextlib
import gzip
import hashlib
import lzma
import stat
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, BinaryIO, cast

from core import errors
from core.config import corpus_settings
from core.data import corpus
from core.storage import location

ENDINGS = (".gz", ".xz", ".bz2")
SAMPLE_BYTES = 1 << 20
LARGEST_BAD_SHARE = 0.05
FEWEST_BAD_LINES = 5
LARGEST_RATIO = 100
SAFE_SIZE_BYTES = 1 << 30
_SIGNATURES = {
    b"\x1f\x8b": "gzip; give it the ending .gz",
    b"\xfd7zXZ\0": "xz; give it the ending .xz",
    b"BZh": "bzip2; give it the ending .bz2",
    b"\x28\xb5\x2f\xfd": "zstd; decompress it",
    b"PK\x03\x04": "zip; unpack it",
    b"PAR1": "Parquet; export it as text",
    b"ARROW1": "Arrow; export it as text",
}


def resolve(
    source: corpus_settings.SourceConfig, where: str, sha256: Mapping[str, str], base: str | None = None
) -> list[corpus.Group]:
    """Returns the files of a source, wildcards followed: one to a group, or the two that are aligned.

    Args:
        source: the setting.
        where: its name for errors, like `corpus.train`.
        sha256: the expected checksums by location.
        base: what a relative path starts from.

    Raises:
        DataError: nothing is there.
        UsageError: something is there that is no file, sides do not pair, or a web address has no checksum.
    """
    form = "text" if source.text else "tsv" if source.tsv else "source"
    files = _files(getattr(source, form), f"{where}.{form}", base)
    for file in files:
        if file.url.startswith(("http://", "https://")) and expected_sha256(file, sha256, base) is None:
            raise errors.UsageError(f"corpus.sha256: has no entry for {file}; a web source needs its checksum")
    if form != "source":
        return [(file,) for file in files]
    targets = _files(source.target, f"{where}.target", base)
    if len(files) != len(targets):
        rest = (files if len(files) > len(targets) else targets)[min(len(files), len(targets)) :]
        raise errors.UsageError(
            f"{where}: {len(files)} source files but {len(targets)} target files; these have no partner: "
            + ", ".join(str(file) for file in rest[:5])
        )
    return list(zip(files, targets, strict=True))


def expected_sha256(file: location.Location, sha256: Mapping[str, str], base: str | None = None) -> str | None:
    """Returns the checksum that the settings give for a file."""
    given = {location.Location.parse(text, "corpus.sha256", base): value for text, value in sha256.items()}
    return given.get(file)


def _files(patterns: tuple[str, ...], where: str, base: str | None) -> list[location.Location]:
    files: list[location.Location] = []
    for pattern in patterns:
        found = location.Location.parse(pattern, where, base).glob()
        if not found:
            raise errors.DataError(f"{where}: {pattern!a} names no file; check the path")
        for file in found:
            if file.is_local and not stat.S_ISREG(file.path.stat().st_mode):
                raise errors.UsageError(f"{where}: {str(file)!a} is not a regular file; name files, like {pattern}/*")
        files += found
    repeated = {str(file) for file in files if files.count(file) > 1}
    if repeated:
        raise errors.UsageError(f"{where}: {min(repeated)!a} is named twice; name each file once")
    return files


def check(file: location.Location) -> None:
    """Looks at the first mebibyte of a plain file.

    Raises:
        DataError: it is UTF-16, binary, compressed, or has too many lines that are no UTF-8.
    """
    size_bytes = file.size_bytes()
    sample = file.read_range(0, min(size_bytes, SAMPLE_BYTES))
    if sample.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise errors.DataError(f"{file}: looks like UTF-16; convert it to UTF-8")
    for signature, what in _SIGNATURES.items():
        if sample.startswith(signature):
            raise errors.DataError(f"{file}: is no text but {what}")
    if sample.count(b"\0") > len(sample) // 4:
        raise errors.DataError(f"{file}: is binary data; name a text file")
    lines = sample.split(b"\n")
    if len(sample) < size_bytes or not lines[-1]:
        lines.pop()
    check_share(str(file), len(lines), sum(not _is_utf8(line) for line in lines))


def check_share(where: str, num_lines: int, num_invalid: int) -> None:
    """Refuses text of which more than a twentieth (and at least five lines) is no valid UTF-8.

    Raises:
        DataError: it is so.
    """
    if num_invalid >= FEWEST_BAD_LINES and num_invalid > LARGEST_BAD_SHARE * num_lines:
        share = 100 * num_invalid / num_lines
        raise errors.DataError(f"{where}: not UTF-8? {share:.1f} % invalid lines; convert it to UTF-8")


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def needs_staging(file: location.Location, sha256: str | None) -> bool:
    """Whether a file must go through `stage`: it is compressed, on the web, or has a checksum to be compared."""
    return sha256 is not None or file.name.endswith(ENDINGS)


def stage(file: location.Location, folder: location.Location, sha256: str | None = None) -> location.Location:
    """Compares a file's checksum and returns a plain file with its text.

    What is already plain is returned as it is. Else the text is streamed into a new file in `folder`, whose name
    holds the beginning of its SHA-256, so that doing it again changes nothing.

    Raises:
        DataError: the checksum differs; what the ending promises is not there; it is truncated; or it decompresses
            to more than a hundred times its size and a gibibyte.
    """
    is_web = file.url.startswith(("http://", "https://"))
    if not is_web and not file.name.endswith(ENDINGS):
        if sha256 is not None:
            with file.open() as opened:
                _compare(file, _digest(opened, None), sha256)
        return file
    if folder.is_local:
        folder.path.mkdir(parents=True, exist_ok=True)
    # Beside its final place, because the disk of temporary files may be small; for a store there is no other.
    with tempfile.TemporaryDirectory(prefix=".staging-", dir=folder.path if folder.is_local else None) as scratch:
        raw = Path(scratch) / "raw"
        if is_web or sha256 is not None:
            with file.open() as opened, raw.open("wb") as copy:
                _compare(file, _digest(opened, copy), sha256)
        plain = Path(scratch) / "plain"
        if file.name.endswith(ENDINGS):
            with raw.open("rb") if raw.exists() else file.open() as opened, plain.open("wb") as copy:
                digest = _decompress(file, opened, copy)
        else:
            raw.rename(plain)
            with plain.open("rb") as opened:
                digest = _digest(opened, None)
        stem = file.name.partition(".")[0] or "source"
        safe = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in stem)
        staged = folder.join(f"{safe}-{digest[:16]}.txt")
        staged.put_file_if_absent(plain)
    return staged


def _compare(file: location.Location, found: str, expected: str | None) -> None:
    if expected is not None and found != expected.lower():
        raise errors.DataError(f"{file}: its SHA-256 is {found}, not {expected}; get the right file")


def _digest(opened: IO[bytes], copy: IO[bytes] | None) -> str:
    digest = hashlib.sha256()
    while piece := opened.read(corpus.PIECE_BYTES):
        digest.update(piece)
        if copy is not None:
            copy.write(piece)
    return digest.hexdigest()


def _decompress(file: location.Location, opened: BinaryIO, copy: IO[bytes]) -> str:
    """Streams the decompressed bytes into `copy` and returns their SHA-256."""
    digest = hashlib.sha256()
    written_bytes = 0
    with _damage_translated(file, opened), _decompressor(file.name, opened) as text:
        while piece := text.read(corpus.PIECE_BYTES):
            written_bytes += len(piece)
            if written_bytes > SAFE_SIZE_BYTES and written_bytes > LARGEST_RATIO * opened.tell():
                raise errors.DataError(
                    f"{file}: decompressed limit: more than {LARGEST_RATIO} times its size; decompress it yourself"
                )
            digest.update(piece)
            copy.write(piece)
    return digest.hexdigest()


def _decompressor(name: str, opened: BinaryIO) -> IO[bytes]:
    if name.endswith(".gz"):
        return cast(IO[bytes], gzip.GzipFile(fileobj=opened))
    return cast(IO[bytes], lzma.LZMAFile(opened) if name.endswith(".xz") else bz2.BZ2File(opened))


@contextlib.contextmanager
def _damage_translated(file: location.Location, opened: BinaryIO) -> Iterator[None]:
    what = file.name.rpartition(".")[2]
    try:
        yield
    except EOFError as error:
        raise errors.DataError(f"{file}: truncated {what} at byte {opened.tell()}; get it again") from error
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise errors.DataError(f"{file}: is no valid {what} ({error}); get it again or correct its ending") from error
    except OSError as error:
        # bz2 has no exception of its own; anything with an error number is the filesystem's.
        if error.errno is not None:
            raise errors.StorageError(f"{file}: {error}; check the disks") from error
        raise errors.DataError(f"{file}: is no valid {what} ({error}); get it again or correct its ending") from error
