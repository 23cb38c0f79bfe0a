"""Series that tests write and read."""

import pathlib

from core.config import series_settings
from core.data.series import preparation, reading
from core.data.text import source_files
from core.storage import location


def file(path: pathlib.Path) -> source_files.File:
    return source_files.File(location.Location.parse(str(path)))


def read(*paths: pathlib.Path, names: tuple[str, ...] = ("x",), **settings: object) -> reading.Table:
    """Reads columns of files; settings of `csv` are given with those of the preparation."""
    dialect = {
        name: settings.pop(name)
        for name in ("delimiter", "decimal", "thousands", "missing", "time_format")
        if name in settings
    }
    csv = series_settings.CsvConfig(**dialect)  # type: ignore[arg-type]
    prepared = preparation.Preparation(csv=csv, **settings)  # type: ignore[arg-type]
    return reading.read([file(path) for path in paths], names, prepared, "here")
