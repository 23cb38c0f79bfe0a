"""Stored tables of an n-gram model: names, types, and the check of those that were read.

`probability_n`, n = 1 … N: of the last token of each row given the others. `keys_n`, n = 2 … N: sorted. `backoff_n`,
n = 1 … N − 1: the weight of each row as a context; where few weights differ, `backoff_codes_n` has a number for each
row, and `backoff_n` the weights by number. With `unit: line` also `line_end`, the id of the token between lines. So an
n-gram takes 20 bytes, one of order N 16.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core import errors
from core.config import ngram_settings
from core.data import columns
from core.models import weights

LINE_END = "line_end"
_DTYPES = {np.dtype(np.int64): torch.int64, np.dtype(np.int32): torch.int32, np.dtype(np.float64): torch.float64}
# Rows that are checked or coded at once.
_ROWS_AT_ONCE = 1 << 18
# Different weights of a level that are kept in memory while it is coded.
_MAX_WEIGHTS = 1 << 21


def keys(level: int) -> str:
    """Returns the name of a table of keys."""
    return f"keys_{level}"


def probability(level: int) -> str:
    """Returns the name of a table of probabilities."""
    return f"probability_{level}"


def backoff(level: int) -> str:
    """Returns the name of a table of back-off weights."""
    return f"backoff_{level}"


def backoff_codes(level: int) -> str:
    """Returns the name of the table that says which of the back-off weights each row has."""
    return f"backoff_codes_{level}"


def coded_backoff(level: int, values: columns.Column, folder: Path) -> dict[str, columns.Column]:
    """Returns the tables of the back-off weights of a level: coded if that is smaller, else as they are."""
    distinct = np.zeros(0, np.float64)
    # Eight bytes a row as they are; coded four, and eight for each different one.
    limit = min(_MAX_WEIGHTS, len(values) // 2)
    for values_G in values.blocks(_ROWS_AT_ONCE):
        distinct = np.union1d(distinct, values_G)
        if len(distinct) > limit:
            return {backoff(level): values}
    codes = columns.Column(folder / backoff_codes(level), np.int32)
    for values_G in values.blocks(_ROWS_AT_ONCE):
        codes.append(np.searchsorted(distinct, values_G))
    weights_by_code = columns.Column(folder / f"distinct-{level}", np.float64)
    weights_by_code.append(distinct)
    return {backoff(level): weights_by_code.close(), backoff_codes(level): codes.close()}


def write(folder: Path, made: Mapping[str, columns.Column], line_end: int | None) -> Path:
    """Writes tables to a file as a bundle stores it, and returns its path; `line_end` is that of models of lines."""
    stored: dict[str, weights.Stored] = {
        name: weights.Stored(_DTYPES[column.dtype], (len(column),), column.blocks(_ROWS_AT_ONCE))
        for name, column in made.items()
    }
    if line_end is not None:
        stored[LINE_END] = weights.Stored(torch.int64, (), [np.array([line_end])])
    path = folder / "tables.safetensors"
    weights.write(path, stored)
    return path


def is_coded(stored: Mapping[str, Tensor]) -> bool:
    """Returns whether back-off weights of some level are coded, which releases before 0.2 cannot read."""
    return any(name.startswith("backoff_codes_") for name in stored)


def check(config: ngram_settings.NgramConfig, vocabulary_size: int, stored: Mapping[str, Tensor], where: str) -> None:
    """Checks that stored tables are those of a model, and consistent.

    Raises:
        IntegrityError: a table is missing or unknown, of another dtype or size, unsorted, or holds no probabilities.
    """
    levels = range(1, config.order + 1)
    expected = {probability(level) for level in levels} | {keys(level) for level in levels[1:]}
    expected |= {backoff(level) for level in levels[:-1]} | ({LINE_END} if config.unit == "line" else set())
    if set(stored) - {backoff_codes(level) for level in levels[:-1]} != expected:
        raise _damaged(
            where, f"has the tables {', '.join(sorted(stored))}, not those of a model of order {config.order}"
        )
    if config.unit == "line":
        line_end = stored[LINE_END]
        if line_end.dtype != torch.int64 or line_end.dim() or not 0 <= line_end < vocabulary_size:
            raise _damaged(where, "names no token between lines")
    rows = 1
    for level in levels:
        rows = _check_level(level, rows, config.order, vocabulary_size, stored, where)


def _check_level(
    level: int, rows_below: int, order: int, vocabulary_size: int, stored: Mapping[str, Tensor], where: str
) -> int:
    """Checks the tables of one level, and returns its number of rows."""
    values = stored[probability(level)]
    num_rows = len(values) if values.dim() == 1 else -1
    doubles, by_row = [values], [values]
    if level > 1:
        by_row.append(stored[keys(level)])
    elif num_rows != vocabulary_size:
        raise _damaged(where, "level 1 has tables of different sizes")
    if level < order:
        backoffs, codes = stored[backoff(level)], stored.get(backoff_codes(level))
        doubles.append(backoffs)
        by_row.append(backoffs if codes is None else codes)
        if codes is not None and (codes.dtype != torch.int32 or backoffs.dim() != 1):
            raise _damaged(where, f"level {level} has tables of another type")
    if {table.dtype for table in doubles} != {torch.float64} or (level > 1 and by_row[1].dtype != torch.int64):
        raise _damaged(where, f"level {level} has tables of another type")
    if any(table.shape != (num_rows,) for table in by_row):
        raise _damaged(where, f"level {level} has tables of different sizes")
    if level > 1 and not _are_keys(stored[keys(level)], rows_below * vocabulary_size):
        raise _damaged(where, f"level {level} has keys out of order or out of range")
    # Comparisons with NaN are false, so this refuses NaN too. Rounding may leave a probability slightly above 1.
    are_good = all(bool(((part >= 0) & (part <= 1 + 1e-9)).all()) for part in torch.split(values, _ROWS_AT_ONCE))
    for table in doubles[1:]:
        are_good &= all(bool(((part >= 0) & part.isfinite()).all()) for part in torch.split(table, _ROWS_AT_ONCE))
    if level < order and (codes := stored.get(backoff_codes(level))) is not None:
        size = len(stored[backoff(level)])
        are_good &= all(bool(((part >= 0) & (part < size)).all()) for part in torch.split(codes, _ROWS_AT_ONCE))
    if not are_good:
        raise _damaged(where, f"level {level} holds values that are not probabilities")
    return num_rows


def _are_keys(keys_G: Tensor, limit: int) -> bool:
    """Returns whether keys ascend, and lie in [0, limit)."""
    if not len(keys_G):
        return True
    # Each slice with the last key of the one before it.
    starts = range(0, len(keys_G), _ROWS_AT_ONCE)
    ascend = all(bool((keys_G[max(0, start - 1) : start + _ROWS_AT_ONCE].diff() > 0).all()) for start in starts)
    return ascend and int(keys_G[0]) >= 0 and int(keys_G[-1]) < limit


def _damaged(where: str, what: str) -> errors.IntegrityError:
    return errors.IntegrityError(f"{where}: {what}; restore the file from a copy")
