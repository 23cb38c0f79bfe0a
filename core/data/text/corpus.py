"""Corpora as bytes and lines: which files, where lines begin, parts for tasks, and the lines of a part.

Only a line feed ends a line, with or without a carriage return before it: anything else that some programs take
for a line end (U+0085, U+2028, a lone carriage return) stays in its line, or two aligned files would drift apart.

A *source* is a list of groups of files: one file to a group, or two that are aligned line by line. Every file is
counted in blocks, independently, with `count_block`; `cut` then makes of block k of the first file the part of
all lines that begin in it, and finds the same lines in the second file.
"""

import array
import collections
import hashlib
import itertools
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from core import errors
from core.data import lazy
from core.storage import location

Group = tuple[location.Location, ...]
PIECE_BYTES = 1 << 20
_BOM = b"\xef\xbb\xbf"
_MOST_BYTES = 4  # of a character in UTF-8


@dataclass(frozen=True)
class Part:
    """A range of lines for one task.

    Attributes:
        files: URL of the file, or of the two aligned files.
        first_line: number of the first line in the whole source, from 0.
        start_line: number of the first line in its file, from 0.
        num_lines: number of lines.
        start_bytes: where reading starts in each file; 0 or just before a byte that may begin a line.
        skip_lines: so many line ends are passed over from there in each file.
        sizes_bytes: size of each file when it was counted.
        columns: of tab-separated lines: the columns of source and target.
        max_line_bytes: a longer line is a bad line.
    """

    files: tuple[str, ...]
    first_line: int
    start_line: int
    num_lines: int
    start_bytes: tuple[int, ...]
    skip_lines: tuple[int, ...]
    sizes_bytes: tuple[int, ...]
    columns: tuple[int, int] | None = None
    max_line_bytes: int = 1 << 20


class BadLine(NamedTuple):
    """A line that cannot be used.

    Attributes:
        reason: `invalid_utf8`, `control_char` (it has a NUL byte), `too_long` or `field_count`.
        where: file and line, counted from 1, with the byte in the line where that helps.
    """

    reason: str
    where: str


Sides = tuple[str, ...]


class BlockCount(NamedTuple):
    """What a block of bytes holds: the number of lines that begin in it, and the SHA-256 of its bytes."""

    start: int
    stop: int
    num_lines: int
    sha256: str


def blocks(size_bytes: int, block_bytes: int) -> list[tuple[int, int]]:
    """Cuts the bytes of a file into blocks, as (start, stop)."""
    return [(start, min(start + block_bytes, size_bytes)) for start in range(0, size_bytes, block_bytes)]


def count_block(file: location.Location, start: int, stop: int) -> BlockCount:
    """Counts the lines that begin in a block: after a line feed, or at the beginning of the file.

    The line feed that ends the file begins no line.
    """
    num_lines = 1 if start == 0 < stop else 0
    digest = hashlib.sha256()
    before = max(start - 1, 0)
    for offset, piece in _pieces(file, before, stop):
        num_lines += piece.count(b"\n", 0, stop - 1 - offset)
        digest.update(piece[1:] if offset == before < start else piece)
    return BlockCount(start, stop, num_lines, digest.hexdigest())


def cut(
    source: Sequence[Group],
    counts: Sequence[Sequence[Sequence[BlockCount]]],
    columns: tuple[int, int] | None = None,
    max_line_bytes: int = 1 << 20,
) -> list[Part]:
    """Makes the parts of a source; `counts[group][file]` are the counts of all blocks of a file, in order.

    Raises:
        DataError: the two files of a group have different numbers of lines.
    """
    parts: list[Part] = []
    first_line = 0
    for files, counts_of_files in zip(source, counts, strict=True):
        firsts = [
            list(itertools.accumulate((block.num_lines for block in file), initial=0)) for file in counts_of_files
        ]
        totals = [starts[-1] for starts in firsts]
        _check_aligned(files, totals)
        urls = tuple(file.url for file in files)
        sizes = tuple(file[-1].stop if file else 0 for file in counts_of_files)
        for line, block in zip(firsts[0], counts_of_files[0], strict=False):
            if not block.num_lines:
                continue
            places = [_place(starts, file, line) for starts, file in zip(firsts, counts_of_files, strict=True)]
            start_bytes, skip_lines = (tuple(column) for column in zip(*places, strict=True))
            parts.append(
                Part(
                    urls,
                    first_line + line,
                    line,
                    block.num_lines,
                    start_bytes,
                    skip_lines,
                    sizes,
                    columns,
                    max_line_bytes,
                )
            )
        first_line += totals[0]
    return parts


def narrow(part: Part, start: int, stop: int) -> Part:
    """Returns the part of a part: its lines from `start` up to `stop`, counted from its first."""
    assert 0 <= start <= stop <= part.num_lines
    return replace(
        part,
        first_line=part.first_line + start,
        start_line=part.start_line + start,
        num_lines=stop - start,
        skip_lines=tuple(skip + start for skip in part.skip_lines),
    )


def take(parts: Iterable[Part], num_lines: int) -> list[Part]:
    """Returns the parts of the first `num_lines` lines."""
    taken = []
    for part in parts:
        if num_lines > 0:
            taken.append(narrow(part, 0, min(num_lines, part.num_lines)))
            num_lines -= part.num_lines
    return taken


class LineIndex(NamedTuple):
    """Where every so-many-th line of a file begins."""

    num_lines: int
    starts_bytes: Sequence[int]
    every: int
    size_bytes: int


def index_lines(file: location.Location, every: int) -> LineIndex:
    """Finds the beginnings of lines 0, `every`, 2·`every`, … in one reading from the first byte to the last."""
    size_bytes = file.size_bytes()
    starts = array.array("q", [0] if size_bytes else [])
    seen = 0  # line feeds before this piece
    for offset, piece in _pieces(file, 0, size_bytes):
        found = piece.count(b"\n")
        if (seen + found) // every > seen // every:
            ends = np.flatnonzero(np.frombuffer(piece, np.uint8) == ord("\n"))
            chosen = ends[every - 1 - seen % every :: every]
            starts.extend((offset + 1 + chosen).tolist())
        seen += found
    if size_bytes and starts[-1] == size_bytes:
        starts.pop()
    ended = size_bytes == 0 or file.read_range(size_bytes - 1, size_bytes) == b"\n"
    return LineIndex(seen if ended else seen + 1, starts, every, size_bytes)


def parts_of(files: Group, indexes: Sequence[LineIndex], max_line_bytes: int = 1 << 20) -> Sequence[Part]:
    """Returns the parts of `every` lines of one file, or of two aligned ones that were indexed alike.

    Raises:
        DataError: the files have different numbers of lines.
    """
    first = indexes[0]
    assert all(index.every == first.every for index in indexes)
    _check_aligned(files, [index.num_lines for index in indexes])
    urls = tuple(file.url for file in files)
    sizes = tuple(index.size_bytes for index in indexes)
    none = (0,) * len(files)

    def part(number: int) -> Part:
        line = number * first.every
        num_lines = min(first.every, first.num_lines - line)
        starts = tuple(index.starts_bytes[number] for index in indexes)
        return Part(urls, line, line, num_lines, starts, none, sizes, max_line_bytes=max_line_bytes)

    return lazy.OnDemand(len(first.starts_bytes), part)


def read_lines(part: Part, repairs: collections.Counter[str] | None = None) -> Iterator[tuple[int, Sides | BadLine]]:
    """Yields the number of each line in the source with its sides: one, or source and target.

    A byte order mark that begins a file and a carriage return that ends a line are removed, and counted in
    `repairs` as `bom` and `crlf`. A pair with a bad side is a bad line.

    Raises:
        DataError: a file changed since it was counted.
    """
    repairs = collections.Counter() if repairs is None else repairs
    raw_sides = [_raw_lines(part, side) for side in range(len(part.files))]
    number = -1
    for number, raw in enumerate(zip(*raw_sides, strict=False)):
        yield part.first_line + number, _sides(part, part.start_line + number, raw, repairs)
    if number + 1 != part.num_lines:
        raise _changed(part.files[0])


def _sides(
    part: Part, line: int, raw: tuple[str | bytes | None, ...], repairs: collections.Counter[str]
) -> Sides | BadLine:
    """Decodes what stands on one line of each file of a part; `line` is its number in the file."""
    sides = []
    for url, content in zip(part.files, raw, strict=True):
        text = content if isinstance(content, str) else _decoded(content, line == 0, repairs)
        if isinstance(text, BadLine):
            return BadLine(text.reason, f"{location.Location(url)}:{line + 1}{text.where}")
        sides.append(text)
    if part.columns is None:
        return tuple(sides)
    fields = sides[0].split("\t")
    if max(part.columns) >= len(fields):
        return BadLine("field_count", f"{location.Location(part.files[0])}:{line + 1} ({len(fields)} columns)")
    return fields[part.columns[0]], fields[part.columns[1]]


def _decoded(raw: bytes | None, begins_file: bool, repairs: collections.Counter[str]) -> str | BadLine:
    """Returns the text of a line, or why it has none; None stands for a line that was too long to be kept."""
    if raw is None:
        return BadLine("too_long", "")
    if b"\0" in raw:
        return BadLine("control_char", f":{raw.index(0) + 1}")
    if raw.endswith(b"\r"):
        raw = raw[:-1]
        repairs["crlf"] += 1
    if begins_file and raw.startswith(_BOM):
        raw = raw[len(_BOM) :]
        repairs["bom"] += 1
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        return BadLine("invalid_utf8", f":{error.start + 1}")


def _raw_lines(part: Part, side: int) -> Iterator[str | bytes | None]:
    """Yields each line of a part without the line feed: its text, or bytes to be looked at; None where too long.

    A line that is too long is let go of as soon as that is known, so memory is bounded by the limit.
    """
    file = location.Location(part.files[side])
    size_bytes = part.sizes_bytes[side]
    if file.size_bytes() != size_bytes:
        raise _changed(file.url)
    lines = _split(_pieces(file, part.start_bytes[side], size_bytes), part.max_line_bytes)
    skip = part.skip_lines[side]
    return itertools.islice(lines, skip, skip + part.num_lines)


def _split(pieces: Iterable[tuple[int, bytes]], max_line_bytes: int) -> Iterator[str | bytes | None]:
    tail: bytes | None = b""  # the line that goes on in the next piece; None once it is too long
    for _, piece in pieces:
        first, last = piece.find(b"\n"), piece.rfind(b"\n")
        if first >= 0:
            yield None if tail is None else _limited(tail + piece[:first], max_line_bytes)
            tail = b""
            if first < last:
                yield from _whole_lines(piece[first + 1 : last], max_line_bytes)
        tail = None if tail is None else _limited(tail + piece[last + 1 :], max_line_bytes)
    if tail != b"":
        yield tail


def _whole_lines(piece: bytes, max_line_bytes: int) -> Iterator[str | bytes | None]:
    """Yields the lines of a piece: decoded together where none needs a second look, else as bytes."""
    if b"\0" not in piece and b"\r" not in piece:
        try:
            lines = piece.decode().split("\n")
        except UnicodeDecodeError:
            lines = []
        if lines and (len(piece) <= max_line_bytes or _MOST_BYTES * max(map(len, lines)) <= max_line_bytes):
            yield from lines
            return
    for line in piece.split(b"\n"):
        yield _limited(line, max_line_bytes)


def _limited(line: bytes | None, max_line_bytes: int) -> bytes | None:
    return line if line is None or len(line) <= max_line_bytes else None


def _pieces(file: location.Location, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
    """Yields (offset, bytes) pieces of a range of a file."""
    for offset in range(start, stop, PIECE_BYTES):
        end = min(offset + PIECE_BYTES, stop)
        piece = file.read_range(offset, end)
        if len(piece) != end - offset:
            raise _changed(file.url)
        yield offset, piece


def _place(firsts: Sequence[int], counts: Sequence[BlockCount], line: int) -> tuple[int, int]:
    """Finds a line of a file: where to start reading, and how many line ends to pass over from there."""
    number = bisect_right(firsts, line) - 1
    block = counts[number]
    within = line - firsts[number]
    # One byte before the block tells whether a line begins at its first byte: what is before the first line feed
    # from there belongs to the line before.
    return (0, within) if block.start == 0 else (block.start - 1, within + 1)


def _check_aligned(files: Group, totals: Sequence[int]) -> None:
    if len(set(totals)) > 1:
        raise errors.DataError(
            f"{files[1]}: source {totals[0]} lines, target {totals[1]} (source is {files[0]}); "
            "align the two files line by line"
        )


def _changed(url: str) -> errors.DataError:
    return errors.DataError(
        f"{location.Location(url)}: changed while it was being read; run the command again when it stays as it is"
    )
