"""Source files: those that the settings of a corpus name, found but not read.

Apart from `sources`, so that the command line finds missing ones without loading what reads them.
"""

import collections
from collections.abc import Mapping
from dataclasses import dataclass

from core import errors
from core.config import corpus_settings
from core.data.text import archives, extensions
from core.storage import expansion, location, streams


@dataclass(frozen=True)
class File:
    """A file of a source.

    Attributes:
        origin: the location of the file, or of the archive that contains it.
        member: its name in the archive; empty without an archive, or for an archive of one file.
        columns: the columns to read, of a table.
    """

    origin: location.Location
    member: str = ""
    columns: tuple[str, ...] = ()

    def __str__(self) -> str:
        return archives.join(self.member, str(self.origin))

    @property
    def url(self) -> str:
        """The absolute URL, preceded by the member."""
        return archives.join(self.member, self.origin.url)

    @property
    def is_web(self) -> bool:
        """True if it must be downloaded whole, because web servers need not support ranges."""
        return self.origin.is_web

    @property
    def is_stream(self) -> bool:
        """True if it is a pipe, or another stream that only this process can read, once."""
        return streams.is_stream(self.origin)

    @property
    def is_plain(self) -> bool:
        """True if it can be read in ranges as it is."""
        if self.is_web or self.member or self.columns or self.origin.name.endswith(extensions.UNPACKED):
            return False
        return not self.is_stream


def setting_name(corpus_name: str) -> str:
    """Returns the name of a corpus's setting: `corpora.NAME`, or `corpus` for the only one, whose name is empty."""
    return f"corpora.{corpus_name}" if corpus_name else "corpus"


def resolve(
    source: corpus_settings.SourceConfig, where: str, sha256: Mapping[str, str], base: str | None = None
) -> list[tuple[File, ...]]:
    """Returns the files of a source, with wildcards and folders expanded: groups of one file, or of two aligned ones.

    Args:
        source: the setting.
        where: its name for errors, like `corpus.train`.
        sha256: the expected checksums by location.
        base: the folder that relative paths are relative to.

    Raises:
        DataError: a name matches no file.
        UsageError: a name is that of a device or is repeated, the numbers of source and target files differ, or a web
            address has no checksum.
    """
    # The schema has checked that exactly one is given.
    form = next(name for name in ("text", "tsv", "table", "csv", "source") if getattr(source, name))
    columns = tuple(map(str, source.columns)) if form == "table" else ()
    files = _files(getattr(source, form), f"{where}.{form}", base, columns)
    for file in files:
        if file.is_web and expected_sha256(file, sha256, base) is None:
            raise errors.UsageError(f"corpus.sha256: has no entry for {file.origin}; a web source needs its checksum")
    if form != "source":
        return _distinct([(file,) for file in files], f"{where}.{form}")
    targets = _files(source.target, f"{where}.target", base)
    if len(files) != len(targets):
        unpaired = (files if len(files) > len(targets) else targets)[min(len(files), len(targets)) :]
        raise errors.UsageError(
            f"{where}: {len(files)} source files but {len(targets)} target files; these have no partner: "
            + ", ".join(str(file) for file in unpaired[:5])
        )
    return _distinct(list(zip(files, targets, strict=True)), where)


def expected_sha256(file: File, sha256: Mapping[str, str], base: str | None = None) -> str | None:
    """Returns the checksum that the settings give for a file; for a member, that of its archive."""
    # Compared as locations: a relative path and its absolute form are the same file.
    checksums = {location.Location.parse(text, "corpus.sha256", base): value for text, value in sha256.items()}
    return checksums.get(file.origin)


def _files(patterns: tuple[str, ...], where: str, base: str | None, columns: tuple[str, ...] = ()) -> list[File]:
    files: list[File] = []
    for pattern in patterns:
        member, url = archives.split(pattern)
        named = location.Location.parse(url, where, base)
        matches = expansion.expand(named, where)
        if not matches:
            raise errors.DataError(f"{where}: {pattern!a} matches no file; check the path")
        files += [File(file, member, columns) for file in matches]
    return files


def _distinct(groups: list[tuple[File, ...]], where: str) -> list[tuple[File, ...]]:
    """Rejects a repeated group; one source file with two target files is two groups."""
    repeated = [group for group, count in collections.Counter(groups).items() if count > 1]
    if repeated:
        names = " with ".join(ascii(str(file)) for file in repeated[0])
        raise errors.UsageError(f"{where}: {names} is named twice; name it once")
    return groups
