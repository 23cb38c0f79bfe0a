"""Sources: which files a corpus names, whether they look like text, and their plain copies.

`resolve` turns settings into files, `check` looks at the beginning of each, and `stage` makes of a file that
cannot be read in ranges (compressed, in an archive, a table, or on the web) a plain one that can.
"""

import collections
import contextlib
import hashlib
import stat
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from core import errors
from core.config import corpus_settings
from core.data.text import archives, compression, corpus, tables
from core.storage import location

SAMPLE_BYTES = 1 << 20
LARGEST_BAD_SHARE = 0.05
FEWEST_BAD_LINES = 5
_SIGNATURES = {
    b"\x1f\x8b": "gzip; give it the ending .gz",
    b"\xfd7zXZ\0": "xz; give it the ending .xz",
    b"BZh": "bzip2; give it the ending .bz2",
    b"\x28\xb5\x2f\xfd": "zstd; give it the ending .zst",
    b"PK\x03\x04": "zip; give it the ending .zip",
    b"PAR1": "Parquet; name it under table, with its columns",
    b"ARROW1": "Arrow; export it as text or Parquet",
}


@dataclass(frozen=True)
class File:
    """A file of a source: where it is, which member of an archive it is, and which columns of a table are read."""

    place: location.Location
    member: str = ""
    columns: tuple[str, ...] = ()

    def __str__(self) -> str:
        return archives.join(self.member, str(self.place))

    @property
    def url(self) -> str:
        """The absolute URL, with the member before it."""
        return archives.join(self.member, self.place.url)

    @property
    def is_web(self) -> bool:
        """Whether it must be fetched whole."""
        return self.place.url.startswith(("http://", "https://"))

    @property
    def is_plain(self) -> bool:
        """Whether it can be read in ranges where it is."""
        return not (self.is_web or self.member or self.columns or self.place.name.endswith(compression.ENDINGS))


def resolve(
    source: corpus_settings.SourceConfig, where: str, sha256: Mapping[str, str], base: str | None = None
) -> list[tuple[File, ...]]:
    """Returns the files of a source, wildcards and folders followed: one to a group, or the two that are aligned.

    Args:
        source: the setting.
        where: its name for errors, like `corpus.train`.
        sha256: the expected checksums by location.
        base: what a relative path starts from.

    Raises:
        DataError: nothing is there.
        UsageError: something is there that is no file or is named twice, sides do not pair, or a web address has no
            checksum.
    """
    form = next(name for name in ("text", "tsv", "table", "source") if getattr(source, name))
    columns = tuple(map(str, source.columns)) if form == "table" else ()
    files = _files(getattr(source, form), f"{where}.{form}", base, columns)
    for file in files:
        if file.is_web and expected_sha256(file, sha256, base) is None:
            raise errors.UsageError(f"corpus.sha256: has no entry for {file.place}; a web source needs its checksum")
    if form != "source":
        return _distinct([(file,) for file in files], f"{where}.{form}")
    targets = _files(source.target, f"{where}.target", base)
    if len(files) != len(targets):
        rest = (files if len(files) > len(targets) else targets)[min(len(files), len(targets)) :]
        raise errors.UsageError(
            f"{where}: {len(files)} source files but {len(targets)} target files; these have no partner: "
            + ", ".join(str(file) for file in rest[:5])
        )
    return _distinct(list(zip(files, targets, strict=True)), where)


def expected_sha256(file: File, sha256: Mapping[str, str], base: str | None = None) -> str | None:
    """Returns the checksum that the settings give for a file; for a member, that of its archive."""
    given = {location.Location.parse(text, "corpus.sha256", base): value for text, value in sha256.items()}
    return given.get(file.place)


def _files(patterns: tuple[str, ...], where: str, base: str | None, columns: tuple[str, ...] = ()) -> list[File]:
    files: list[File] = []
    for pattern in patterns:
        member, place = archives.split(pattern)
        found = [file for one in location.Location.parse(place, where, base).glob() for file in _below(one)]
        if not found:
            raise errors.DataError(f"{where}: {pattern!a} names no file; check the path")
        for file in found:
            if file.is_local and not stat.S_ISREG(file.path.stat().st_mode):
                raise errors.UsageError(f"{where}: {str(file)!a} is not a regular file; name files")
        files += [File(file, member, columns) for file in found]
    return files


def _distinct(groups: list[tuple[File, ...]], where: str) -> list[tuple[File, ...]]:
    """Refuses a group that is there twice; one source beside two targets is two groups."""
    repeated = [group for group, count in collections.Counter(groups).items() if count > 1]
    if repeated:
        named = " with ".join(ascii(str(file)) for file in repeated[0])
        raise errors.UsageError(f"{where}: {named} is named twice; name it once")
    return groups


def _below(place: location.Location) -> list[location.Location]:
    """Returns a file itself; of a folder, the files in it, without those whose names begin with `.` or `_`."""
    if place.is_local:
        if not place.path.is_dir():
            return [place]
        return [file for file in _shown(place) if not file.path.is_dir()]
    if place.url.startswith(("http://", "https://")):
        return [place]
    inside = _shown(place)
    return [file for file in inside if not file.list_names()] if inside else [place]


def _shown(folder: location.Location) -> list[location.Location]:
    return [folder.join(name) for name in folder.list_names() if not name.startswith((".", "_"))]


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


def needs_staging(file: File, sha256: str | None) -> bool:
    """Whether a file must go through `stage`: it is not plain, or has a checksum to be compared."""
    return sha256 is not None or not file.is_plain


def stage(file: File, folder: location.Location, sha256: str | None = None) -> location.Location:
    """Compares a file's checksum and returns a plain file with its text.

    What is already plain is returned as it is. Else the text is streamed into a new file in `folder`, whose name
    holds the beginning of its SHA-256, so that doing it again changes nothing.

    Raises:
        DataError: the checksum differs; what the ending promises is not there; it is truncated; it decompresses
            to more than a hundred times its size and a gibibyte; or a table has no such columns of text.
    """
    if file.is_plain:
        if sha256 is not None:
            with file.place.open() as opened:
                _compare(file, _copy(opened, None), sha256)
        return file.place
    if folder.is_local:
        folder.path.mkdir(parents=True, exist_ok=True)
    # Beside its final place, because the disk of temporary files may be small; for a store there is no other.
    with tempfile.TemporaryDirectory(prefix=".staging-", dir=folder.path if folder.is_local else None) as scratch:
        raw, plain, table = (Path(scratch) / name for name in ("raw", "plain", "table"))
        with contextlib.ExitStack() as stack:
            opened = stack.enter_context(file.place.open())
            if file.is_web or sha256 is not None:
                with raw.open("wb") as copy:
                    _compare(file, _copy(opened, copy), sha256)
                opened = stack.enter_context(raw.open("rb"))
            with plain.open("wb") as copy, compression.unpacked(file.place, file.member, opened) as (name, pieces):
                digest = _write(pieces, copy)
        if file.columns:
            plain.rename(table)
            with plain.open("wb") as copy:
                digest = _write(tables.lines(table, name, file.columns, str(file)), copy)
        stem = Path(name).name.partition(".")[0] or "source"
        safe = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in stem)
        staged = folder.join(f"{safe}-{digest[:16]}.txt")
        staged.put_file_if_absent(plain)
    return staged


def _compare(file: File, found: str, expected: str | None) -> None:
    if expected is not None and found != expected.lower():
        raise errors.DataError(f"{file.place}: its SHA-256 is {found}, not {expected}; get the right file")


def _copy(opened: IO[bytes], copy: IO[bytes] | None) -> str:
    return _write(iter(lambda: opened.read(corpus.PIECE_BYTES), b""), copy)


def _write(pieces: Iterable[bytes], copy: IO[bytes] | None) -> str:
    """Writes pieces end to end and returns their SHA-256."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
        if copy is not None:
            copy.write(piece)
    return digest.hexdigest()
