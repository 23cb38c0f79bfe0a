"""Input of batch inference: lines of text, or a text column of JSONL or Parquet, cut into parts.

A `Part` is a range of lines that one worker processes at a time, from the plan to the commit record that has its name.
Its lines come from one file, or from files that are aligned line by line, such as a source and its translations; each
of its `sides` is the range in one of the files. Of several inputs each has its own parts: none spans two.
"""

import bisect
import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pyarrow import parquet

from core import errors
from core.data import lazy
from core.data.text import corpus, extensions, source_files, sources, tables
from core.storage import commit, concurrent, location, streams

_CHECKED_ROWS = 100  # rows of JSONL of which one must have the column
_SPREAD = 5  # times as many parts as the lines would fill are read in part, so that they come from more places

Form = Literal["text", "jsonl", "parquet"]
Line = tuple[str, ...] | corpus.BadLine  # the text of each side


@dataclass(frozen=True)
class Input:
    """A scanned file of lines.

    Attributes:
        url: location of the file.
        form: file format.
        column: name of the text column; None for plain text.
        num_lines: number of lines, or of rows.
        sha256: hash of the content, decompressed.
        sides: its lines in ranges of `part_lines`.
    """

    url: str
    form: Form
    column: str | None
    num_lines: int
    sha256: str
    sides: Sequence["Side"]

    def identity(self) -> dict[str, object]:
        """Returns its entry in a plan: the content, not the location, so that a moved file is still the same."""
        return {"form": self.form, "column": self.column, "lines": self.num_lines, "sha256": self.sha256}


@dataclass(frozen=True)
class Side:
    """A range of lines of one file.

    Attributes:
        first_line: number of the first line, from 0.
        num_lines: number of lines.
        column: name of the text column; None for plain text.
        text_range: of text and JSONL: the range in bytes; None for Parquet, whose rows are found by number.
        url: location of the file.
    """

    first_line: int
    num_lines: int
    column: str | None
    text_range: corpus.LineRange | None
    url: str


@dataclass(frozen=True)
class Origin:
    """The input that a part belongs to, of several.

    Attributes:
        file: name of the file that its rows are merged into, in the output folder.
        number: number of the input, from 0.
        lines_before: number of lines of the inputs before it.
    """

    file: str
    number: int
    lines_before: int


@dataclass(frozen=True)
class Part:
    """A range of lines that one worker processes at a time.

    Attributes:
        name: name of its commit record, unique in its plan.
        sides: the same lines of one file, or of several aligned ones.
        predecessor: name of the part before it in its lane of a stream, whose final state it starts from; None for the
            first of a lane, and for parts that are independent of each other.
        origin: the input that it belongs to; None if there is only one.
    """

    name: str
    sides: tuple[Side, ...]
    predecessor: str | None = None
    origin: Origin | None = None

    @property
    def first_line(self) -> int:
        """Number of the first line, from 0."""
        return self.sides[0].first_line

    @property
    def num_lines(self) -> int:
        """Number of lines."""
        return self.sides[0].num_lines

    @property
    def position(self) -> int:
        """Number of the first line among the lines of all inputs."""
        return self.first_line + (0 if self.origin is None else self.origin.lines_before)

    @property
    def prefix(self) -> str:
        """Beginning of the names of all parts of its input: of several, each numbers its own."""
        return "" if self.origin is None else f"file-{self.origin.number:05d}-"

    def narrow(self, start: int, stop: int) -> "Part":
        """Returns a part of the same name with the lines from `start` up to `stop`, counted from its first line."""
        sides = tuple(
            replace(
                side,
                first_line=side.first_line + start,
                num_lines=stop - start,
                text_range=None if side.text_range is None else corpus.narrow(side.text_range, start, stop),
            )
            for side in self.sides
        )
        return replace(self, sides=sides)


def form_of(path: location.Location) -> Form:
    """Returns the file format by the extension of the name, ignoring one of compression."""
    name = extensions.plain_name(path.name)
    return "jsonl" if name.endswith(extensions.JSON) else "parquet" if name.endswith(".parquet") else "text"


def scan(path: location.Location, column: str | None, part_lines: int, folder: location.Location, where: str) -> Input:
    """Reads a file once: counts its lines, hashes it, and notes the offset of every `part_lines`-th line.

    A compressed file, one on the web, or a pipe, which cannot be read from the middle, is first copied into `folder`,
    unpacked.

    Args:
        path: the file.
        column: the text column of JSONL and Parquet.
        part_lines: lines of one part.
        folder: folder for copies.
        where: option or setting that names the file, for messages.

    Raises:
        UsageError: the file does not exist, or is a device; or it has columns and `column` is None, or the other way
            round.
        DataError: it is not text, not valid Parquet, or lacks the column.
    """
    try:
        return _scan(path, column, part_lines, folder, where)
    except errors.NotFoundError as error:
        raise errors.UsageError(f"{where}: {path} does not exist; check the path") from error


def _scan(path: location.Location, column: str | None, part_lines: int, folder: location.Location, where: str) -> Input:
    streams.refuse_device(path, where)
    form = form_of(path)
    if form == "text" and column is not None:
        raise errors.UsageError(f"{where}: {path} is read as plain text, which has no columns; leave out --column")
    if form != "text" and column is None:
        raise errors.UsageError(f"{where}: {path} is read as {form}; name its text column with --column")
    if not source_files.File(path).is_plain:
        path = sources.stage(source_files.File(path), folder)
    # Of the unpacked copy: a file and its compressed version are the same input.
    sha256 = commit.sha256_of_file(path)
    if form == "parquet":
        num_lines, sides = _row_ranges(path, column or "", part_lines)
    else:
        # Before lines are counted: UTF-16 or binary data would give meaningless lines instead of an error.
        sources.check(path)
        if column is not None:
            _check_json_column(path, column)
        index = corpus.index_lines(path, part_lines)
        num_lines, sides = index.num_lines, _line_ranges(corpus.cut_by_lines((path,), [index]), column, path.url)
    return Input(path.url, form, column, num_lines, sha256, sides)


def _check_json_column(path: location.Location, column: str) -> None:
    """Checks that one of the first rows of JSONL has text in the column, so that a misspelt name is an error at once.

    Raises:
        DataError: none has.
    """
    sample = path.read_range(0, sources.SAMPLE_BYTES)
    *raw_lines, last = sample.split(b"\n")
    if len(sample) < sources.SAMPLE_BYTES:
        raw_lines.append(last)  # else it may go on beyond the sample
    numbered = [(number, raw) for number, raw in enumerate(raw_lines, 1) if raw.strip()][:_CHECKED_ROWS]
    rows = [(number, tables.parse_json_row(raw, (column,))) for number, raw in numbered]
    bad_rows = [(number, row) for number, row in rows if isinstance(row, tables.BadRow)]
    if bad_rows and len(bad_rows) == len(rows):
        number, row = bad_rows[0]
        raise errors.DataError(
            f"{path}:{number}: {row.problem}, and so with all of the first {len(rows)} rows; name the column of text"
        )


def _line_ranges(text_ranges: Sequence[corpus.LineRange], column: str | None, url: str) -> Sequence[Side]:
    def side(number: int) -> Side:
        text_range = text_ranges[number]
        return Side(text_range.first_line, text_range.num_lines, column, text_range, url)

    return lazy.LazySequence(len(text_ranges), side)


def parts(files: Sequence[Input], origin: Origin | None = None) -> Sequence[Part]:
    """Returns the parts of one file, or of files that are aligned line by line; `origin` tells one of several inputs.

    Raises:
        DataError: the files have different numbers of lines.
    """
    first = files[0]
    for other in files[1:]:
        if other.num_lines != first.num_lines:
            raise errors.DataError(
                f"{location.Location(other.url)}: has {other.num_lines} lines, but {location.Location(first.url)} has "
                f"{first.num_lines}; align the files line by line"
            )

    # Made on access: the plan of a large input takes no memory for each of its parts.
    def part(number: int) -> Part:
        made = Part(f"part-{number:06d}", tuple(file.sides[number] for file in files), origin=origin)
        return replace(made, name=made.prefix + made.name)

    return lazy.LazySequence(len(first.sides), part)


def join(parts_of_files: Sequence[Sequence[Part]]) -> Sequence[Part]:
    """Returns the parts of several inputs one after the other."""
    if len(parts_of_files) == 1:
        return parts_of_files[0]
    ends = list(itertools.accumulate(map(len, parts_of_files), initial=0))

    def part(number: int) -> Part:
        file = bisect.bisect_right(ends, number) - 1
        return parts_of_files[file][number - ends[file]]

    return lazy.LazySequence(ends[-1], part)


def spread(parts: Sequence[Part], num_lines: int) -> Sequence[Part]:
    """Returns parts with at most `num_lines` lines, spread over all; without a change if there are not more.

    The first lines are not like the others where a file is sorted, or holds one document after the other.
    """
    if not parts or parts[-1].first_line + parts[-1].num_lines <= num_lines:
        return parts
    # Parts are read whole or in a few places: single lines from everywhere would cost a part each.
    count = min(len(parts), num_lines, _SPREAD * -(-num_lines // parts[0].num_lines))
    bounds = [number * num_lines // count for number in range(count + 1)]
    chosen = [parts[number * len(parts) // count] for number in range(count)]
    return [
        part.narrow(0, min(part.num_lines, stop - start))
        for part, (start, stop) in zip(chosen, itertools.pairwise(bounds), strict=True)
    ]


def read(part: Part) -> list[Line]:
    """Reads the lines of a part; a line that is bad on any side is a bad line.

    Raises:
        DataError: a file changed since it was scanned.
    """
    rows = []
    # At the same time: a store answers for all files after one latency.
    for sides in zip(*concurrent.map_in_order(_read_side, part.sides), strict=True):
        # The bad line keeps its row, or all rows after it would belong to other line numbers.
        bad = next((side for side in sides if isinstance(side, corpus.BadLine)), None)
        rows.append(bad if bad is not None else tuple(side for side in sides if isinstance(side, str)))
    return rows


def _read_side(side: Side) -> list[str | corpus.BadLine]:
    if side.text_range is None:
        return _read_rows(side)
    lines: list[str | corpus.BadLine] = [
        line if isinstance(line, corpus.BadLine) else line[0] for _, line in corpus.read_lines(side.text_range)
    ]
    if side.column is None:
        return lines
    path = location.Location(side.url)
    return [
        line if isinstance(line, corpus.BadLine) else _field(line, side.column, f"{path}:{side.first_line + row + 1}")
        for row, line in enumerate(lines)
    ]


def _field(line: str, column: str, where: str) -> str | corpus.BadLine:
    row = tables.parse_json_row(line.encode(), (column,))
    return corpus.BadLine(row.reason, where) if isinstance(row, tables.BadRow) else _text(row[0], where)


def _text(value: bytes | None, where: str) -> str | corpus.BadLine:
    """Returns the text of a value in a table, checked as that of a line."""
    if value is None:
        return corpus.BadLine("no_text", where)
    if b"\0" in value:
        return corpus.BadLine("control_char", where)
    try:
        return value.decode()
    except UnicodeDecodeError:
        return corpus.BadLine("invalid_utf8", where)


@contextlib.contextmanager
def _open_parquet(path: location.Location) -> Iterator[parquet.ParquetFile]:
    """Opens a Parquet file: by its path, or as a file of ours that only this thread may read.

    A thread of the library that still holds a file of ours when the process ends would abort it.
    """
    with contextlib.ExitStack() as stack:
        path.size_bytes()  # refuses what is not a regular file
        file = path.path if path.is_local else stack.enter_context(path.open())
        yield stack.enter_context(tables.open_parquet(file, str(path)))


def _row_ranges(path: location.Location, column: str, part_lines: int) -> tuple[int, Sequence[Side]]:
    with _open_parquet(path) as table:
        tables.check_text_column(table.schema_arrow, column, str(path))
        rows = table.metadata.num_rows  # from the footer alone: planning decodes no rows
    starts = range(0, rows, part_lines)

    def side(number: int) -> Side:
        return Side(starts[number], min(part_lines, rows - starts[number]), column, None, path.url)

    return rows, lazy.LazySequence(len(starts), side)


def _read_rows(side: Side) -> list[str | corpus.BadLine]:
    """Reads a range of rows of a Parquet file; only the row groups that it touches are decoded."""
    path = location.Location(side.url)
    lines: list[str | corpus.BadLine] = []
    with _open_parquet(path) as table:
        first = 0
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            # The rows of this group that belong to the range, counted from its own first row.
            start, stop = max(side.first_line - first, 0), min(side.first_line + side.num_lines - first, rows)
            if start < stop:
                values = table.read_row_group(group, columns=[side.column], use_threads=False).column(0)
                tables.check_number_of_rows(len(values), rows, f"{path}, row group {group}")
                for value in tables.text_values(values.slice(start, stop - start)):
                    lines.append(_text(value, f"{path}:{side.first_line + len(lines) + 1}"))
            first += rows
    if len(lines) != side.num_lines:
        raise errors.DataError(f"{path}: changed while it was being read; run again when nothing writes to it")
    return lines
