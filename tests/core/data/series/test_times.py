"""Laws of times: regular ones are placed on an axis, all others are refused with the row."""

import numpy as np
import pytest

from core.data.series import times


def _place(*texts: str) -> tuple[times.Axis, list[int]]:
    axis, rows_T = times.place(times.parse(texts), None)
    return axis, rows_T.tolist()


@pytest.mark.parametrize(
    ("texts", "step", "rows", "next_label"),
    [
        (("2026-01-01", "2026-01-02", "2026-01-03"), "1 day", [0, 1, 2], "2026-01-04"),
        (("2026-01-01", "2026-01-02", "2026-01-05", "2026-01-06"), "1 day", [0, 1, 4, 5], "2026-01-07"),
        (("20260130", "20260131", "20260201"), "1 day", [0, 1, 2], "2026-02-02"),
        (("2026-01-31", "2026-02-28", "2026-03-31"), "1 month", [0, 1, 2], "2026-04-30"),
        (("2026-01", "2026-02", "2026-04", "2026-05"), "1 month", [0, 1, 3, 4], "2026-06-01"),
        (("2020-02-15", "2020-05-15", "2020-08-15"), "3 months", [0, 1, 2], "2020-11-15"),
        (("1999-12-31", "2000-12-31", "2001-12-31"), "12 months", [0, 1, 2], "2002-12-31"),
        (("2026-01-05", "2026-01-12", "2026-01-19"), "7 days", [0, 1, 2], "2026-01-26"),
        (("2026-01-01 22:00", "2026-01-01 23:30", "2026-01-02 01:00"), "90 minutes", [0, 1, 2], "2026-01-02T02:30"),
        (
            ("2026-03-29T00:30+01:00", "2026-03-29T01:30+01:00", "2026-03-29T03:30+02:00"),
            "1 hour",
            [0, 1, 2],
            "2026-03-29T02:30Z",
        ),
    ],
)
def test_dates_lie_on_a_regular_axis(texts: tuple[str, ...], step: str, rows: list[int], next_label: str) -> None:
    axis, placed = _place(*texts)
    assert axis.describe_step() == step
    assert placed == rows
    assert axis.label(rows[-1] + 1) == next_label
    labels = [axis.label(row) for row in rows]
    parsed, own = times.parse(labels), times.parse(texts)
    np.testing.assert_array_equal(parsed.values_T, own.values_T)
    assert times.Axis.from_json(axis.to_json()) == axis


def test_numbers_are_regular_in_spite_of_rounding() -> None:
    values_T = np.array([row / 10 for row in (*range(50), *range(53, 60))])
    axis, rows_T = times.place(times.Times(values_T), None)
    assert rows_T.tolist() == [*range(50), *range(53, 60)]
    assert axis.label(60) == "6"


@pytest.mark.parametrize(
    ("texts", "row", "message"),
    [
        (("2026-01-03", "2026-01-02", "2026-01-01"), 1, "2026-01-02 after 2026-01-03; sort the rows, the oldest first"),
        (("2026-01-01", "2026-01-02", "2026-01-02"), 2, "repeats the time 2026-01-02"),
        (
            ("2026-01-01", "2026-01-02", "2026-01-03", "2026-01-03 12:00"),
            3,
            r"2026-01-03T12:00 after 2026-01-03, which is not a multiple of the step \(1 day\)",
        ),
        (("2026-01-01", "31.01.2026"), 1, "'31.01.2026'; write times as 2026-01-31"),
        (("2026-01-01", "2026-01-02T00:00Z"), 1, "only some have an offset"),
        (("2026-01-01",), 0, "the only row"),
    ],
)
def test_times_that_are_not_regular_are_refused_with_the_row(texts: tuple[str, ...], row: int, message: str) -> None:
    with pytest.raises(times.IrregularError, match=message) as raised:
        _place(*texts)
    assert raised.value.row == row


def test_the_step_of_training_holds_for_other_series() -> None:
    days, _ = _place("2026-01-01", "2026-01-02", "2026-01-03")
    axis, rows_T = times.place(times.parse(["2026-02-01", "2026-02-03"]), days)
    assert (axis.describe_step(), rows_T.tolist()) == ("1 day", [0, 2])
    assert days.offset_of(axis) == 31
    months, _ = _place("2026-01-01", "2026-02-01")
    with pytest.raises(times.IrregularError, match="trained on a step of 1 month"):
        times.place(times.parse(["2026-02-01", "2026-02-03"]), months)
