"""What is to be translated or scored: lines of text, or a column of JSONL or Parquet, cut into pieces of lines."""

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pyarrow as pa
from pyarrow import parquet

from core import errors
from core.data import lazy
from core.data.text import compression, corpus, sources, tables
from core.storage import location

Form = Literal["text", "jsonl", "parquet"]
_READ_BYTES = 1 << 22


@dataclass(frozen=True)
class Input:
    """A file of lines: its form, the column that holds the text, and what its content is."""

    url: str
    form: Form
    column: str | None
    num_lines: int
    sha256: str
    sides: Sequence["Side"]

    def identity(self) -> dict[str, object]:
        """What a plan says of it: the content, wherever it lies."""
        return {"form": self.form, "column": self.column, "lines": self.num_lines, "sha256": self.sha256}


@dataclass(frozen=True)
class Side:
    """Some lines of one file: of text or JSONL a part, of Parquet a range of rows."""

    first_line: int
    num_lines: int
    column: str | None
    part: corpus.Part | None
    url: str


@dataclass(frozen=True)
class Piece:
    """The same lines of one file or of two aligned ones: what one task reads."""

    sides: tuple[Side, ...]

    @property
    def first_line(self) -> int:
        """Number of the first line, from 0."""
        return self.sides[0].first_line

    @property
    def num_lines(self) -> int:
        """Number of lines."""
        return self.sides[0].num_lines

    def narrow(self, start: int, stop: int) -> "Piece":
        """Returns the lines from `start` up to `stop`, counted from the first of the piece."""
        return Piece(
            tuple(
                replace(
                    side,
                    first_line=side.first_line + start,
                    num_lines=stop - start,
                    part=None if side.part is None else corpus.narrow(side.part, start, stop),
                )
                for side in self.sides
            )
        )


Line = tuple[str, ...] | corpus.BadLine


def form_of(place: location.Location) -> Form:
    """Tells the form of a file by its name; what compresses it aside."""
    name = place.name
    for ending in compression.COMPRESSED:
        name = name.removesuffix(ending)
    return "jsonl" if name.endswith(tables.JSON_ENDINGS) else "parquet" if name.endswith(".parquet") else "text"


def scan(place: location.Location, column: str | None, part_lines: int, folder: location.Location, where: str) -> Input:
    """Reads a file once: how many lines it has, where every so-many-th begins, and its hash.

    What cannot be read from the middle, for it is compressed or on the web, is first unpacked into `folder`.

    Raises:
        UsageError: the file is missing, or its form and `column` do not go together.
        DataError: it is no text, no valid Parquet, or has no such column of text.
    """
    try:
        return _scan(place, column, part_lines, folder, where)
    except errors.NotFoundError as error:
        raise errors.UsageError(f"{where}: there is nothing at {place}; check the path") from error


def _scan(
    place: location.Location, column: str | None, part_lines: int, folder: location.Location, where: str
) -> Input:
    form = form_of(place)
    if (column is None) != (form == "text"):
        what = "it has no columns; leave out --column" if form == "text" else "name its column of text by --column"
        raise errors.UsageError(f"{where}: {place} is taken for {form}: {what}")
    if not sources.File(place).is_plain:
        place = sources.stage(sources.File(place), folder)
    sha256 = _sha256(place)
    if form == "parquet":
        num_lines, sides = _row_ranges(place, column or "", part_lines)
    else:
        sources.check(place)
        index = corpus.index_lines(place, part_lines)
        num_lines, sides = index.num_lines, _line_ranges(corpus.parts_of((place,), [index]), column, place.url)
    return Input(place.url, form, column, num_lines, sha256, sides)


def _line_ranges(parts: Sequence[corpus.Part], column: str | None, url: str) -> Sequence[Side]:
    def side(number: int) -> Side:
        part = parts[number]
        return Side(part.first_line, part.num_lines, column, part, url)

    return lazy.OnDemand(len(parts), side)


def pieces(files: Sequence[Input]) -> Sequence[Piece]:
    """Puts the pieces of aligned files together.

    Raises:
        DataError: they have different numbers of lines.
    """
    first = files[0]
    for other in files[1:]:
        if other.num_lines != first.num_lines:
            raise errors.DataError(
                f"{location.Location(other.url)}: {other.num_lines} lines for {first.num_lines} of "
                f"{location.Location(first.url)}; align the two line by line"
            )
    return lazy.OnDemand(len(first.sides), lambda number: Piece(tuple(file.sides[number] for file in files)))


def read(piece: Piece) -> list[Line]:
    """Reads the lines of a piece; one that is bad on any side is bad.

    Raises:
        DataError: a file changed since it was scanned.
    """
    rows = []
    for sides in zip(*(_read_side(side) for side in piece.sides), strict=True):
        bad = next((side for side in sides if isinstance(side, corpus.BadLine)), None)
        rows.append(bad if bad is not None else tuple(side for side in sides if isinstance(side, str)))
    return rows


def cut_lanes(
    pieces: Sequence[Piece],
    num_lanes: int,
    counts: Sequence[int],
    detail: Callable[[Piece], Sequence[int]],
) -> list[list[Piece]]:
    """Cuts a stream at line ends into lanes of nearly equal numbers of tokens, each a list of pieces.

    A lane ends at the line end nearest to its share. Where lines are so long that a lane would be empty there are
    fewer lanes.

    Args:
        pieces: of the whole stream, in order.
        num_lanes: how many lanes.
        counts: the tokens of each piece.
        detail: gives the tokens of each line of a piece.
    """
    if num_lanes == 1:
        return [list(pieces)] if pieces else []
    ends = list(itertools.accumulate(counts))
    total = ends[-1] if ends else 0
    cuts = [0]
    for lane in range(1, num_lanes):
        share = total * lane / num_lanes
        index = next((index for index, end in enumerate(ends) if end >= share), None)
        if index is None:
            continue
        before = ends[index - 1] if index else 0
        inside = list(itertools.accumulate(detail(pieces[index]), initial=before))
        nearest = min(range(len(inside)), key=lambda line: (abs(inside[line] - share), line))
        cuts.append(max(cuts[-1], pieces[index].first_line + nearest))
    stop = pieces[-1].first_line + pieces[-1].num_lines if pieces else 0
    return [_between(pieces, *ends_) for ends_ in itertools.pairwise([*cuts, stop]) if ends_[0] < ends_[1]]


def _between(pieces: Sequence[Piece], first: int, last: int) -> list[Piece]:
    """The pieces of the lines from `first` up to `last`, cut where they reach beyond."""
    found = []
    for piece in pieces:
        start, stop = max(first - piece.first_line, 0), min(last - piece.first_line, piece.num_lines)
        if start < stop:
            found.append(piece.narrow(start, stop))
    return found


def _read_side(side: Side) -> list[str | corpus.BadLine]:
    if side.part is None:
        return _read_rows(side)
    lines: list[str | corpus.BadLine] = [
        line if isinstance(line, corpus.BadLine) else line[0] for _, line in corpus.read_lines(side.part)
    ]
    if side.column is None:
        return lines
    place = location.Location(side.url)
    return [
        line if isinstance(line, corpus.BadLine) else _field(line, side.column, f"{place}:{side.first_line + row + 1}")
        for row, line in enumerate(lines)
    ]


def _field(line: str, column: str, where: str) -> str | corpus.BadLine:
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError):
        return corpus.BadLine("invalid_json", where)
    text = value.get(column) if isinstance(value, dict) else None
    return text if isinstance(text, str) else corpus.BadLine("no_text", where)


def _row_ranges(place: location.Location, column: str, part_lines: int) -> tuple[int, Sequence[Side]]:
    with place.open() as file:
        try:
            table = parquet.ParquetFile(file)
        except (pa.ArrowException, OSError) as error:
            raise errors.DataError(f"{place}: is no valid Parquet ({error}); check the file") from error
        names, rows = table.schema_arrow.names, table.metadata.num_rows
        kind = table.schema_arrow.field(column).type if column in names else None
    if kind is None or not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise errors.DataError(f"{place}: has no column {column!r} of text; it has {', '.join(names)}")
    starts = range(0, rows, part_lines)

    def side(number: int) -> Side:
        return Side(starts[number], min(part_lines, rows - starts[number]), column, None, place.url)

    return rows, lazy.OnDemand(len(starts), side)


def _read_rows(side: Side) -> list[str | corpus.BadLine]:
    place = location.Location(side.url)
    found: list[str | corpus.BadLine] = []
    with place.open() as file:
        table = parquet.ParquetFile(file)
        first = 0
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            start, stop = max(side.first_line - first, 0), min(side.first_line + side.num_lines - first, rows)
            if start < stop:
                values = table.read_row_group(group, columns=[side.column]).column(0).slice(start, stop - start)
                for value in values.to_pylist():
                    where = f"{place}:{side.first_line + len(found) + 1}"
                    found.append(value if isinstance(value, str) else corpus.BadLine("no_text", where))
            first += rows
    if len(found) != side.num_lines:
        raise errors.DataError(f"{place}: changed while it was being read; run again when it stays as it is")
    return found


def _sha256(place: location.Location) -> str:
    digest = hashlib.sha256()
    with place.open() as file:
        while data := file.read(_READ_BYTES):
            digest.update(data)
    return digest.hexdigest()
