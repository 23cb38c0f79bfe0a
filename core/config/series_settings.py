"""Settings of the files of a series."""

import datetime
from typing import Literal, Self

import pydantic

from core.config import section


class CsvConfig(section.Section):
    """Dialect of the CSV files of a series."""

    delimiter: str = section.operational(",", "character between two values", min_length=1, max_length=1)
    decimal: Literal[".", ","] = section.operational(".", "decimal mark")
    thousands: str | None = section.operational(
        None,
        "mark between groups of three digits, such as a comma, a point or a space; null: none",
        pattern="^[,.' _]$",
    )
    missing: tuple[str, ...] = section.operational(
        ("", "NA", "N/A", "NaN", "null"), "marks of a missing value, in capital or small letters; see gaps"
    )

    time_format: str | None = section.operational(
        None, 'form of the times, such as "%d.%m.%Y" or "%m/%d/%Y %H:%M" (strptime); null: 2026-01-31 13:00, or numbers'
    )

    @pydantic.field_validator("time_format")
    @classmethod
    def _check_format(cls, value: str | None) -> str | None:
        time = datetime.datetime(2026, 11, 30)
        try:
            read = None if value is None else datetime.datetime.strptime(time.strftime(value), value)
        except ValueError:
            read = datetime.datetime.min
        if read is not None and (read.year, read.month) != (time.year, time.month):
            raise ValueError(f'{value!r} does not give year and month; write it as in "%d.%m.%Y"')
        return value

    @pydantic.model_validator(mode="after")
    def _check_marks(self) -> Self:
        if self.delimiter in ('"', "\n", "\r"):
            raise ValueError("delimiter: must not be a quotation mark or a line break")
        if self.delimiter == self.decimal and self.delimiter == ",":
            raise ValueError('delimiter: is also the decimal mark; give the other character, such as ";"')
        if self.thousands == self.decimal:
            raise ValueError("thousands: is also the decimal mark; correct one of them")
        return self
