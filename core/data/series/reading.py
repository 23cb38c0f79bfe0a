"""Series read from CSV and Parquet files: columns of finite numbers at regular times."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from core import errors
from core.data.series import csv_file, preparation, times
from core.data.text import source_files, sources, tables

_log = logging.getLogger(__name__)

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

# Filling more rows than this for each row that exists is the work of a wrong time, not of gaps.
_MOST_FILLED = 10


@dataclass(frozen=True)
class Table:
    """T regular times of C columns.

    Attributes:
        values_TC: finite values.
        is_filled_TC: whether a value was missing and has been filled.
        axis: the times of the rows; None without a time column.
    """

    values_TC: Array
    is_filled_TC: Mask
    axis: times.Axis | None = None

    def __len__(self) -> int:
        return len(self.values_TC)

    def slice(self, start: int, stop: int) -> "Table":
        """Returns the rows from `start` up to `stop`."""
        axis = None if self.axis is None else self.axis.shifted(start)
        return Table(self.values_TC[start:stop], self.is_filled_TC[start:stop], axis)

    @property
    def sha256(self) -> str:
        """Hash of the values; of times and filled values, too, where there are any."""
        digest = hashlib.sha256(np.ascontiguousarray(self.values_TC).tobytes())
        if self.axis is not None:
            digest.update(json.dumps(self.axis.to_json(), sort_keys=True).encode())
        if self.is_filled_TC.any():
            digest.update(np.ascontiguousarray(self.is_filled_TC).tobytes())
        return digest.hexdigest()


class _Rows(NamedTuple):
    """Rows of one file, or in memory: values with NaN where one is missing, and times.

    Attributes:
        values_TC: the values.
        times: the times; None without a time column.
        where: name of the file, for errors.
        in_memory: whether rows are counted from 0, not as lines below the header.
    """

    values_TC: Array
    times: times.Times | None
    where: str
    in_memory: bool = False


def plain(values_TC: Array) -> Table:
    """Returns a table without times and without filled values."""
    return Table(values_TC, np.zeros(values_TC.shape, dtype=bool))


def read(
    files: Sequence[source_files.File],
    names: Sequence[str],
    prepared: preparation.Preparation,
    where: str,
    sha256: Sequence[str | None] = (),
) -> Table:
    """Reads columns of CSV files with a header line, or of Parquet files (`.parquet`), one after the other in time.

    Args:
        files: the files; endings such as .gz are decompressed.
        names: columns of numbers.
        prepared: time column, treatment of gaps and dialect.
        where: name of the setting or option, for errors.
        sha256: expected SHA-256 of each file, if any.

    Raises:
        DataError: a column is missing, a value is not a number, or times are not regular.
    """
    expected = sha256 or [None] * len(files)
    parts = [
        _read_file(file, names, prepared, f"{where}: {file}", checksum)
        for file, checksum in zip(files, expected, strict=True)
    ]
    return _join(parts, names, prepared)


def from_columns(
    columns: Mapping[str, Any], names: Sequence[str], prepared: preparation.Preparation, where: str
) -> Table:
    """Returns the columns of a series in memory: lists, arrays, or the columns of a data frame.

    Args:
        columns: values by name; NaN where one is missing. Times are dates, ISO 8601 texts, or numbers.
        names: columns of numbers.
        prepared: time column and treatment of gaps.
        where: name of the series, for errors.

    Raises:
        DataError: a column is missing, not numeric, or shorter than another; or times are not regular.
    """
    wanted = [*names, *([prepared.time] if prepared.time is not None else [])]
    if missing := [name for name in wanted if name not in columns]:
        raise errors.DataError(f"{where}: has no column {missing[0]!r}; it has {', '.join(map(str, columns))}")
    values: list[Array] = []
    for name in names:
        try:
            values_T = np.asarray(columns[name], dtype=np.float64)
        except (TypeError, ValueError):
            raise errors.DataError(f"{where}: column {name!r} is not numeric; correct it") from None
        if values_T.ndim != 1:
            raise errors.DataError(f"{where}: column {name!r} is not one list of numbers; correct it")
        if len(infinite := np.flatnonzero(np.isinf(values_T))):
            raise errors.DataError(f"{where}: row {infinite[0]} has no finite number in column {name!r}; correct it")
        values.append(values_T)
    if len({len(columns[name]) for name in wanted}) > 1:
        sizes = ", ".join(f"{name} {len(columns[name])}" for name in wanted)
        raise errors.DataError(f"{where}: the columns have different numbers of rows ({sizes}); align them")
    values_TC, own = _stack(values, where), None
    if prepared.time is not None:
        try:
            own = _times(pa.array(columns[prepared.time]), prepared.time, where)
        except pa.ArrowException as error:
            raise errors.DataError(f"{where}: column {prepared.time!r} has no times ({error}); correct it") from error
    return _join([_Rows(values_TC, own, where, in_memory=True)], names, prepared)


def _join(parts: Sequence[_Rows], names: Sequence[str], prepared: preparation.Preparation) -> Table:
    """Joins rows that follow each other, checks that their times are regular, and treats gaps."""
    values_TC = np.concatenate([part.values_TC for part in parts])
    axis = None
    is_gap_T = np.zeros(len(values_TC), dtype=bool)
    if prepared.time is not None:
        axis, rows_T = _place(parts, prepared)
        if prepared.gaps == "refuse":
            _refuse_gaps(parts, rows_T, axis, prepared.section)
        elif rows_T[-1] >= _MOST_FILLED * len(values_TC) + 100:
            widest = int(np.argmax(np.diff(rows_T))) + 1
            _fail(
                parts, widest, f"is at {axis.label(int(rows_T[widest]))}, most rows before it are missing; correct it"
            )
        is_gap_T = np.ones(rows_T[-1] + 1, dtype=bool)
        is_gap_T[rows_T] = False
        spread_TC = np.full((len(is_gap_T), len(names)), np.nan)
        spread_TC[rows_T] = values_TC
        values_TC = spread_TC
    is_filled_TC = np.isnan(values_TC)
    if is_filled_TC.any():
        origin_T = np.flatnonzero(~is_gap_T)
        values_TC = _fill(values_TC, is_filled_TC, names, prepared, parts, origin_T)
    return Table(values_TC, is_filled_TC, axis)


def _read_file(
    file: source_files.File, names: Sequence[str], prepared: preparation.Preparation, where: str, sha256: str | None
) -> _Rows:
    name, data = sources.read(file, sha256)
    wanted = list(dict.fromkeys([*names, *([prepared.time] if prepared.time is not None else [])]))
    if name.endswith(".parquet"):
        return _read_parquet(data, names, wanted, prepared.time, where)
    sources.refuse_signature(data, where)
    setting = f"{prepared.section}.csv"
    texts = csv_file.read_columns(data, wanted, prepared.csv, where, setting)
    columns = [csv_file.to_numbers(texts[column], prepared.csv, column, where, setting) for column in names]
    if prepared.time is None:
        _warn_of_dates(data, wanted, prepared, where)
    return _Rows(_stack(columns, where), _parse_times(texts, prepared, where), where)


def _warn_of_dates(data: bytes, used: Sequence[str], prepared: preparation.Preparation, where: str) -> None:
    """Warns where rows are taken in their order, but dates beside them are in another one, such as newest first."""
    name = csv_file.find_dates(data, used, prepared.csv)
    if name is None:
        return
    texts = csv_file.read_columns(data, [name], prepared.csv, where, f"{prepared.section}.csv")[name]
    try:
        times.check_order(times.parse(texts))
    except times.IrregularError as error:
        _log.warning(
            "%s: column %r, row %d below the header %s; rows are taken in their order, unless the run is trained with "
            "corpus.time: %s",
            where, name, error.row + 1, error.reason, name,
        )  # fmt: skip


def _parse_times(texts: dict[str, list[str]], prepared: preparation.Preparation, where: str) -> times.Times | None:
    if prepared.time is None:
        return None
    own = texts[prepared.time]
    try:
        return times.parse(own, *csv_file.convert(own, prepared.csv), prepared.csv.time_format)
    except times.IrregularError as error:
        raise errors.DataError(f"{where}: row {error.row + 1} below the header {error.reason}") from error


def _read_parquet(data: bytes, names: Sequence[str], wanted: Sequence[str], time: str | None, where: str) -> _Rows:
    """Reads a Parquet file from memory: a thread of the library must not hold an open file of ours."""
    with tables.open_parquet(pa.BufferReader(data), where) as opened:
        known = opened.schema_arrow.names
        for name in wanted:
            if name not in known:
                shown = ", ".join(map(repr, known[:20]))
                raise errors.DataError(f"{where}: has no column {name!r}; it has {shown}; name one of them")
        # Without threads: one that is starting as the process ends would abort it.
        table = opened.read(columns=list(wanted), use_threads=False)
        tables.check_number_of_rows(len(table), opened.metadata.num_rows, where)
        columns = [_numbers(table[name].combine_chunks(), name, where) for name in names]
        parsed = None if time is None else _times(table[time].combine_chunks(), time, where)
    return _Rows(_stack(columns, where), parsed, where)


def _numbers(column: Any, name: str, where: str) -> Array:
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        values = tables.text_values(column) if tables.is_text(kind) else column.to_pylist()
        first = next((value for value in values if value is not None), None)
        if isinstance(first, bytes):
            first = first.decode(errors="replace")
        raise errors.DataError(f"{where}: column {name!r} is {kind}, not numeric ({first!r}); correct it")
    # Unsafe, or an integer above 2^53 would be an error instead of the nearest double. A null of Arrow becomes NaN.
    values_T: Array = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    infinite = np.flatnonzero(np.isinf(values_T))
    if len(infinite):
        row = int(infinite[0])
        raise errors.DataError(f"{where}: {csv_file.describe_wrong(row, name, float(values_T[row]))}")
    return values_T


def _times(column: Any, name: str, where: str) -> times.Times:
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise errors.DataError(f"{where}: row {row + 1} has no time in column {name!r}; correct it")
    kind = column.type
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        is_utc = pa.types.is_timestamp(kind) and kind.tz is not None
        instants = column.cast(pa.timestamp("us", kind.tz if is_utc else None))
        return times.Times(instants.cast(pa.int64()).to_numpy(zero_copy_only=False), is_utc)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        texts: list[str] = []
        try:
            texts.extend(value.decode() for value in tables.text_values(column) if value is not None)
            return times.parse(texts)
        except UnicodeDecodeError as error:
            raise errors.DataError(
                f"{where}: row {len(texts) + 1} is not valid UTF-8 in column {name!r}; correct it"
            ) from error
        except times.IrregularError as error:
            raise errors.DataError(f"{where}: row {error.row + 1} {error.reason}") from error
    return times.Times(_numbers(column, name, where))


def _stack(columns: Sequence[Array], where: str) -> Array:
    if not len(columns[0]):
        raise errors.DataError(f"{where}: 0 rows; check the file")
    return np.stack(columns, axis=1)


def _place(parts: Sequence[_Rows], prepared: preparation.Preparation) -> tuple[times.Axis, npt.NDArray[np.int64]]:
    """Places the times of all files on one regular axis."""
    own = [part.times for part in parts if part.times is not None]
    for part, read_times in zip(parts, own, strict=True):
        if (read_times.are_dates, read_times.is_utc) != (own[0].are_dates, own[0].is_utc):
            raise errors.DataError(
                f"{part.where}: its times have another form than those of the first file; correct it"
            )
    joined = times.Times(np.concatenate([read_times.values_T for read_times in own]), own[0].is_utc)
    try:
        axis, rows_T = times.place(joined, prepared.axis)
    except times.IrregularError as error:
        _fail(parts, error.row, error.reason)
    if prepared.axis is not None and prepared.axis.is_utc != axis.is_utc:
        expected = "UTC" if prepared.axis.is_utc else "local time, without an offset from UTC"
        _fail(parts, 0, f"has another kind of time than the training series, which is in {expected}; convert it")
    return axis, rows_T


def _refuse_gaps(parts: Sequence[_Rows], rows_T: npt.NDArray[np.int64], axis: times.Axis, section: str) -> None:
    wide = np.flatnonzero(np.diff(rows_T) > 1)
    if len(wide):
        before, row = int(rows_T[wide[0]]), int(wide[0]) + 1
        count = int(rows_T[row]) - before - 1
        _fail(
            parts,
            row,
            f"has the time {axis.label(int(rows_T[row]))} after {axis.label(before)}: {count} "
            f"row{' is' if count == 1 else 's are'} missing; add them, or set {section}.gaps: interpolate or forward",
        )


def _fill(
    values_TC: Array,
    is_missing_TC: Mask,
    names: Sequence[str],
    prepared: preparation.Preparation,
    parts: Sequence[_Rows],
    origin_T: npt.NDArray[np.int64],
) -> Array:
    """Fills missing values; `origin_T` has the place on the axis of each row of the files.

    Raises:
        DataError: they are refused, or there is no value to fill them from.
    """
    rows_T, filled_TC = np.arange(len(values_TC)), values_TC.copy()
    for number, name in enumerate(names):
        is_missing_T = is_missing_TC[:, number]
        known = np.flatnonzero(~is_missing_T)
        missing = np.flatnonzero(is_missing_T)
        if not len(missing):
            continue
        # Nothing is before the first known value, and nothing that could be interpolated is behind the last one.
        first, last = (known[0], known[-1]) if len(known) else (len(values_TC), -1)
        outside = missing[(missing < first) | ((missing > last) & (prepared.gaps == "interpolate"))]
        unfilled = missing if prepared.gaps == "refuse" else outside
        if len(unfilled):
            row = int(np.searchsorted(origin_T, unfilled[0]))
            remedy = "fill it in"
            if prepared.gaps == "refuse":
                remedy += f", or set {prepared.section}.gaps: interpolate or forward"
            _fail(parts, row, f"has no number in column {name!r}; {remedy}")
        if prepared.gaps == "interpolate":
            filled_TC[missing, number] = np.interp(missing, known, values_TC[known, number])
        else:
            last_known_T = np.maximum.accumulate(np.where(is_missing_T, -1, rows_T))
            filled_TC[:, number] = values_TC[last_known_T, number]
    return filled_TC


def _fail(parts: Sequence[_Rows], row: int, reason: str) -> NoReturn:
    """Raises the error of a row, counted from 0 over all files."""
    for part in parts[:-1]:
        if row < len(part.values_TC):
            break
        row -= len(part.values_TC)
    else:
        part = parts[-1]
    name = f"row {row}" if part.in_memory else f"row {row + 1} below the header"
    raise errors.DataError(f"{part.where}: {name} {reason}")
