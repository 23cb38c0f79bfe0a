"""Splits of a dataset found again in a series: which of its rows a model was trained on."""

import numpy as np
import numpy.typing as npt

from core.data.series import dataset as datasets
from core.data.series import reading

Labels = npt.NDArray[np.str_]

NEW = "new"
"""Label of rows that are not in the dataset."""
NAMES = (*datasets.SPLITS, NEW)

# Fewer equal rows, where one series ends and the other begins, are no evidence that one continues the other.
_FEWEST_EQUAL = 8
# Of two series with the same times: the share of rows that must be nearly equal, in deviations of the column.
_FEWEST_NEAR, _NEAR = 0.5, 0.01
_PROBE = 32  # rows compared before all others


def label(table: reading.Table, dataset: datasets.Dataset) -> Labels:
    """Returns the split of the dataset that each row of a series is in, or `NEW`.

    With times, rows are found by their time; most of their values must be nearly those of the dataset, since another
    series may have the same times. Without, a split is found by its values, where one of the two series contains the
    other, or the end of one is the beginning of the other.
    """
    labels_T = np.full(len(table), NEW, dtype="<U5")
    # Rows in several splits count as training rows, which is why training comes last.
    for source in sorted(dataset.sources, key=datasets.SPLITS.index, reverse=True):
        splits = dataset.splits_of(source)
        start = _offset(table, [dataset.splits[name] for name in splits])
        if start is None:
            continue
        for name in splits:
            stop = start + len(dataset.splits[name])
            labels_T[max(start, 0) : max(stop, 0)] = name
            start = stop
    return labels_T


def _offset(table: reading.Table, parts: list[reading.Table]) -> int | None:
    """Returns the row of a series, perhaps before its beginning, at which the first of consecutive parts begins."""
    own = parts[0].axis
    values_TC, other_TC = table.values_TC, np.concatenate([part.values_TC for part in parts])
    if table.axis is not None and own is not None:
        offset = table.axis.offset_of(own)
        return offset if offset is not None and _are_alike(values_TC, other_TC, offset) else None
    return _offset_by_values(values_TC, other_TC)


def _are_alike(values_TC: reading.Array, other_TC: reading.Array, offset: int) -> bool:
    """Returns whether most rows of two series at the same times are nearly equal: some may have been corrected."""
    own_TC, same_TC = values_TC[max(offset, 0) :], other_TC[max(-offset, 0) :]
    count = min(len(own_TC), len(same_TC))
    is_near_T = (np.abs(own_TC[:count] - same_TC[:count]) <= _NEAR * other_TC.std(axis=0)).all(axis=1)
    return count > 0 and float(is_near_T.mean()) > _FEWEST_NEAR


def _offset_by_values(values_TC: reading.Array, other_TC: reading.Array) -> int | None:
    """Returns the offset at which all rows that two series share are equal, for the most rows."""
    starts = np.flatnonzero((values_TC == other_TC[0]).all(axis=1))
    ends = -np.flatnonzero((other_TC == values_TC[0]).all(axis=1))
    offsets = np.unique(np.concatenate([starts, ends]))
    overlaps = np.minimum(len(values_TC), offsets + len(other_TC)) - np.maximum(offsets, 0)
    fewest = min(_FEWEST_EQUAL, len(values_TC), len(other_TC))
    for index in np.argsort(-overlaps, kind="stable"):
        offset, count = int(offsets[index]), int(overlaps[index])
        if count < fewest:
            return None
        own_TC, same_TC = values_TC[max(offset, 0) :], other_TC[max(-offset, 0) :]
        if all(np.array_equal(own_TC[:rows], same_TC[:rows]) for rows in (min(count, _PROBE), count)):
            return offset
    return None
