"""Corpora as files, blocks, parts and lines.

A *line* ends at a line feed, with or without a carriage return before it, and at nothing else. Other characters that
some programs take for a line end (U+0085, U+2028, a lone carriage return) stay within the line, because two aligned
files would drift apart otherwise.

A *source* is a list of groups of files: one file in a group, or two that are aligned line by line. A *block* is a range
of bytes of one file; its lines are counted independently of all other blocks, by `count_block`. A *part* is a range of
lines of a source that one worker processes at a time. `cut_by_blocks` makes one part of the lines that begin in a block
of the first file, and locates the same lines in the second file; `cut_by_lines` makes parts of a fixed number of lines.
"""

import array
import collections
import functools
import hashlib
import itertools
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import numpy as np

from core import errors
from core.data import lazy
from core.data.text import buffers, tables
from core.storage import concurrent, location

Group = tuple[location.Location, ...]
BUFFER_BYTES = 1 << 20
_MARGIN_BYTES = 1 << 16
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class LineRange:
    """A range of lines of a source, which one worker processes at a time.

    Attributes:
        files: URL of the file, or of the two aligned files.
        first_line: number of the first line in the whole source, from 0.
        start_line: number of the first line in its file, from 0.
        num_lines: number of lines.
        start_bytes: offset at which to start reading each file: 0, or the byte before one that may begin a line.
        skip_lines: number of line feeds to skip from that offset, in each file.
        sizes_bytes: size of each file when its lines were counted.
        columns: of tab-separated lines: the columns of source and target.
        max_line_bytes: limit beyond which a line is a bad line.
        stop_bytes: about where the lines end in each file, to fetch them by one request; empty: not known.
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
    stop_bytes: tuple[int, ...] = ()


class BadLine(NamedTuple):
    """A line that cannot be used.

    Attributes:
        reason: `invalid_utf8`, `control_char` (it contains a NUL byte), `too_long` or `field_count`; of a row of a
            table also `invalid_json` or `no_text`.
        where: file and line, counted from 1, and the byte within the line where that helps.
    """

    reason: str
    where: str


Sides = tuple[str, ...]


class BlockCount(NamedTuple):
    """The number of lines that begin in the block [start, stop) of a file, and the SHA-256 of its bytes."""

    start: int
    stop: int
    num_lines: int
    sha256: str


def blocks(size_bytes: int, block_bytes: int) -> list[tuple[int, int]]:
    """Returns the (start, stop) offsets of the blocks of a file."""
    return [(start, min(start + block_bytes, size_bytes)) for start in range(0, size_bytes, block_bytes)]


def count_block(file: location.Location, start: int, stop: int) -> BlockCount:
    """Counts the lines that begin in a block: after a line feed, or at the beginning of the file.

    A line feed at the end of the file begins no line.
    """
    # The first line of a file begins after no line feed; an empty file has none.
    num_lines = 1 if start == 0 < stop else 0
    digest = hashlib.sha256()
    # A line begins after a line feed, so the byte before the block is read too, and the block's last one not counted.
    first_offset = max(start - 1, 0)
    for offset, buffer in buffers.read_block(file, first_offset, stop, BUFFER_BYTES):
        num_lines += buffer.count(b"\n", 0, stop - 1 - offset)
        # Without the byte before, so that the hashes of all blocks cover each byte once.
        digest.update(buffer[1:] if offset == first_offset < start else buffer)
    return BlockCount(start, stop, num_lines, digest.hexdigest())


def cut_by_blocks(
    source: Sequence[Group],
    counts: Sequence[Sequence[Sequence[BlockCount]]],
    columns: tuple[int, int] | None = None,
    max_line_bytes: int = 1 << 20,
) -> list[LineRange]:
    """Cuts a source into the parts that begin in each block of the first file of each group.

    Args:
        source: groups of files.
        counts: `counts[group][file]` are the counts of all blocks of a file, in order.
        columns: see `LineRange`.
        max_line_bytes: see `LineRange`.

    Raises:
        DataError: the two files of a group have different numbers of lines.
    """
    parts: list[LineRange] = []
    first_line = 0
    for files, counts_of_files in zip(source, counts, strict=True):
        block_starts = [
            list(itertools.accumulate((block.num_lines for block in file), initial=0)) for file in counts_of_files
        ]
        totals = [starts[-1] for starts in block_starts]
        _check_aligned(files, totals)
        urls = tuple(file.url for file in files)
        sizes_bytes = tuple(file[-1].stop if file else 0 for file in counts_of_files)
        # One start more than blocks: the last is the total.
        for line, block in zip(block_starts[0], counts_of_files[0], strict=False):
            # A line longer than a block may leave blocks in which none begins.
            if not block.num_lines:
                continue
            positions = [
                _locate(starts, file, line) for starts, file in zip(block_starts, counts_of_files, strict=True)
            ]
            parts.append(
                LineRange(
                    files=urls,
                    first_line=first_line + line,
                    start_line=line,
                    num_lines=block.num_lines,
                    start_bytes=tuple(start for start, _ in positions),
                    skip_lines=tuple(skip for _, skip in positions),
                    sizes_bytes=sizes_bytes,
                    columns=columns,
                    max_line_bytes=max_line_bytes,
                    stop_bytes=tuple(
                        _estimate_stop(starts, file, line + block.num_lines)
                        for starts, file in zip(block_starts, counts_of_files, strict=True)
                    ),
                )
            )
        first_line += totals[0]
    return parts


def narrow(part: LineRange, start: int, stop: int) -> LineRange:
    """Returns lines [start, stop) of a part, counted from its first line, as a part."""
    assert 0 <= start <= stop <= part.num_lines
    return replace(
        part,
        first_line=part.first_line + start,
        start_line=part.start_line + start,
        num_lines=stop - start,
        skip_lines=tuple(skip + start for skip in part.skip_lines),
        stop_bytes=part.stop_bytes if stop == part.num_lines else (),
    )


def take(parts: Iterable[LineRange], num_lines: int) -> list[LineRange]:
    """Returns the parts of the first `num_lines` lines; the last part may be narrowed."""
    taken = []
    for part in parts:
        if num_lines > 0:
            taken.append(narrow(part, 0, min(num_lines, part.num_lines)))
            num_lines -= part.num_lines
    return taken


class LineIndex(NamedTuple):
    """Offsets of lines 0, `part_lines`, 2·`part_lines`, … of a file."""

    num_lines: int
    starts_bytes: Sequence[int]
    part_lines: int
    size_bytes: int


def index_lines(file: location.Location, part_lines: int) -> LineIndex:
    """Indexes every `part_lines`-th line of a file, reading it once from beginning to end."""
    size_bytes = file.size_bytes()
    # 8 bytes for each part, where a list would take 40.
    starts = array.array("q", [0] if size_bytes else [])
    num_feeds = 0  # before this buffer
    for offset, buffer in buffers.read_whole(file, size_bytes, BUFFER_BYTES):
        num_new = buffer.count(b"\n")
        # Offsets are computed only for a buffer that contains the beginning of a part.
        if (num_feeds + num_new) // part_lines > num_feeds // part_lines:
            feeds = np.flatnonzero(np.frombuffer(buffer, np.uint8) == ord("\n"))
            # Feeds number part_lines, 2 * part_lines, … of the file end the last line of a part.
            last_feeds = feeds[part_lines - 1 - num_feeds % part_lines :: part_lines]
            starts.extend((offset + 1 + last_feeds).tolist())
        num_feeds += num_new
    # The last line feed of the file begins no line.
    if size_bytes and starts[-1] == size_bytes:
        starts.pop()
    ends_in_feed = size_bytes == 0 or file.read_range(size_bytes - 1, size_bytes) == b"\n"
    return LineIndex(num_feeds if ends_in_feed else num_feeds + 1, starts, part_lines, size_bytes)


def cut_by_lines(files: Group, indexes: Sequence[LineIndex], max_line_bytes: int = 1 << 20) -> Sequence[LineRange]:
    """Cuts one file, or two aligned ones, into parts of `part_lines` lines; the indexes must agree on that number.

    Raises:
        DataError: the files have different numbers of lines.
    """
    first = indexes[0]
    assert all(index.part_lines == first.part_lines for index in indexes)
    _check_aligned(files, [index.num_lines for index in indexes])
    urls = tuple(file.url for file in files)
    sizes_bytes = tuple(index.size_bytes for index in indexes)
    skip_lines = (0,) * len(files)

    def part(number: int) -> LineRange:
        line = number * first.part_lines
        return LineRange(
            files=urls,
            first_line=line,
            start_line=line,
            num_lines=min(first.part_lines, first.num_lines - line),
            start_bytes=tuple(index.starts_bytes[number] for index in indexes),
            skip_lines=skip_lines,
            sizes_bytes=sizes_bytes,
            max_line_bytes=max_line_bytes,
            stop_bytes=tuple(
                index.starts_bytes[number + 1] if number + 1 < len(index.starts_bytes) else index.size_bytes
                for index in indexes
            ),
        )

    return lazy.LazySequence(len(first.starts_bytes), part)


_TEXT = {str}


def read_lines(
    part: LineRange, repairs: collections.Counter[str] | None = None, check_sizes: bool = True
) -> Iterator[tuple[int, Sides | BadLine]]:
    """Yields each line of a part: its number in the source, and its sides (one, or source and target).

    A byte order mark at the beginning of a file and a carriage return at the end of a line are removed, and counted
    in `repairs` as `bom` and `crlf`. A pair with a bad side is a bad line. Without `check_sizes` an object in a store
    is not asked for its size: of many parts that is left to their driver, once for each file (`check_sizes`).

    Raises:
        DataError: a file has changed since its lines were counted.
    """
    repairs = collections.Counter() if repairs is None else repairs
    # At the same time: a store answers for both files after one latency.
    raw_sides = [*concurrent.map_in_order(functools.partial(_raw_lines, part, check_sizes), range(len(part.files)))]
    is_whole = part.columns is None
    number = -1
    # Not strict: a file that has lost lines ends early, and the count below reports it by name.
    for number, raw in enumerate(zip(*raw_sides, strict=False)):
        if is_whole and {*map(type, raw)} == _TEXT:
            # Nearly all lines of nearly all files are text already.
            yield part.first_line + number, cast(Sides, raw)
        else:
            yield part.first_line + number, _decode_sides(part, part.start_line + number, raw, repairs)
    if number + 1 != part.num_lines:
        raise buffers.changed_error(location.Location(part.files[0]))


def check_sizes(parts: Iterable[LineRange]) -> None:
    """Checks that the files of some parts still have the sizes with which their lines were counted.

    Raises:
        DataError: one has another size.
    """
    sizes_bytes = {url: size for part in parts for url, size in zip(part.files, part.sizes_bytes, strict=True)}
    files = [location.Location(url) for url in sizes_bytes]
    for file, size_bytes in zip(files, concurrent.map_in_order(location.Location.size_bytes, files), strict=True):
        if size_bytes != sizes_bytes[file.url]:
            raise buffers.changed_error(file)


def _decode_sides(
    part: LineRange, line: int, raw: tuple[str | bytes | None, ...], repairs: collections.Counter[str]
) -> Sides | BadLine:
    """Decodes one line of each file of a part; `line` is its number in the file."""
    sides = []
    for url, content in zip(part.files, raw, strict=True):
        text = content if isinstance(content, str) else decode(content, line == 0, repairs)
        if isinstance(text, BadLine):
            return BadLine(text.reason, f"{location.Location(url)}:{line + 1}{text.where}")
        sides.append(text)
    if part.columns is None:
        return tuple(sides)
    fields = sides[0].split("\t")
    if max(part.columns) >= len(fields):
        return BadLine("field_count", f"{location.Location(part.files[0])}:{line + 1} ({len(fields)} columns)")
    return fields[part.columns[0]], fields[part.columns[1]]


def decode(raw: bytes | None, begins_file: bool, repairs: collections.Counter[str]) -> str | BadLine:
    """Returns the text of a line, or the reason that it has none; `raw` is None for a line over the size limit.

    The place of a bad line is `:` and the byte, for the caller to complete.
    """
    if raw is None:
        return BadLine("too_long", "")
    # Before decoding: NUL is valid UTF-8, but ends a text in some tools, and marks binary data.
    if b"\0" in raw:
        reason = raw.removeprefix(tables.BAD_ROW).decode("latin-1")
        return BadLine(reason, "") if reason in tables.REASONS else BadLine("control_char", f":{raw.index(0) + 1}")
    if raw.endswith(b"\r"):
        raw = raw[:-1]
        repairs["crlf"] += 1
    if begins_file and raw.startswith(_BOM):  # elsewhere U+FEFF is part of the text
        raw = raw[len(_BOM) :]
        repairs["bom"] += 1
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        return BadLine("invalid_utf8", f":{error.start + 1}")


def _raw_lines(part: LineRange, check_size: bool, side: int) -> Iterator[str | bytes | None]:
    """Returns the lines of one file of a part without their line feeds, after a check of its size if asked for.

    See `buffers.split`.
    """
    file = location.Location(part.files[side])
    size_bytes, start = part.sizes_bytes[side], part.start_bytes[side]
    stop = part.stop_bytes[side] if part.stop_bytes else start + BUFFER_BYTES
    beginning = buffers.read_beginning(file, size_bytes, start, stop, check_size)
    pieces = buffers.read(file, start, size_bytes, BUFFER_BYTES, beginning)
    lines = buffers.split((piece for _, piece in pieces), part.max_line_bytes)
    skip = part.skip_lines[side]
    return itertools.islice(lines, skip, skip + part.num_lines)


def _locate(block_starts: Sequence[int], counts: Sequence[BlockCount], line: int) -> tuple[int, int]:
    """Locates a line of a file: the offset at which to start reading, and the number of line feeds to skip."""
    # bisect_right: of blocks with equal starts all but the last have no line.
    number = bisect_right(block_starts, line) - 1
    block = counts[number]
    lines_before = line - block_starts[number]
    # Reading starts one byte before the block, since only that byte tells whether a line begins at the block's first
    # byte. Everything up to the first line feed from there belongs to the line before, hence one more to skip.
    return (0, lines_before) if block.start == 0 else (block.start - 1, lines_before + 1)


def _estimate_stop(block_starts: Sequence[int], counts: Sequence[BlockCount], line: int) -> int:
    """Returns about where a line of a file begins: its lines are taken to be evenly long, and a bit is added."""
    number = bisect_right(block_starts, line) - 1
    if number == len(counts):
        return counts[-1].stop
    block = counts[number]
    share = (line - block_starts[number]) / block.num_lines
    return block.start + int(share * (block.stop - block.start)) + _MARGIN_BYTES


def _check_aligned(files: Group, totals: Sequence[int]) -> None:
    if len(set(totals)) > 1:
        raise errors.DataError(
            f"{files[1]}: source {totals[0]} lines, target {totals[1]} (source is {files[0]}); "
            "align the two files line by line"
        )
