"""Preparation of a series for its model: the time column, treatment of gaps, dialect of files, and scaling.

A bundle contains it, so that a series to forecast is read and scaled as the training series was.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from core.config import corpus_settings, inference_settings, series_settings
from core.data.series import scaling as scalings
from core.data.series import times

Gaps = Literal["refuse", "interpolate", "forward"]


@dataclass(frozen=True)
class Preparation:
    """Preparation of a series.

    Attributes:
        time: name of the time column; None: rows are regular in time, which nothing checks.
        gaps: treatment of missing values and missing rows.
        csv: dialect of CSV files.
        axis: times of the training series; its step is that of every series of the model. None without a time column,
            and before training.
        scaling: scaling of values.
        section: section of the settings of gaps and dialect, for errors; not stored.
    """

    time: str | None = None
    gaps: Gaps = "refuse"
    csv: series_settings.CsvConfig = field(default_factory=series_settings.CsvConfig)
    axis: times.Axis | None = None
    scaling: scalings.Scaling = scalings.NONE
    section: str = "corpus"

    @classmethod
    def of_corpus(cls, corpus: corpus_settings.CorpusConfig) -> "Preparation":
        """Returns the preparation that the settings of a corpus ask for, before training."""
        return cls(corpus.time, corpus.gaps, corpus.csv)

    def of_forecasts(self, forecasting: inference_settings.ForecastingConfig) -> "Preparation":
        """Returns the preparation of a series to forecast, read by the settings of forecasting where they say how."""
        csv, gaps = forecasting.csv or self.csv, forecasting.gaps or self.gaps
        return dataclasses.replace(self, csv=csv, gaps=gaps, section="forecasting")

    def to_json(self) -> dict[str, Any]:
        """Returns the stored form."""
        csv = self.csv.model_dump(mode="json")
        if self.csv.time_format is None:
            del csv["time_format"]  # younger than release 0.1, whose bundles have the same bytes
        return {
            "time": self.time,
            "gaps": self.gaps,
            "csv": csv,
            "axis": None if self.axis is None else self.axis.to_json(),
            "scaling": self.scaling.to_json(),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Preparation":
        """Reads the stored form.

        Raises:
            ValueError, KeyError, TypeError: it is not valid.
        """
        if content["gaps"] not in ("refuse", "interpolate", "forward"):
            raise ValueError("gaps: has an unknown value")
        return cls(
            None if content["time"] is None else str(content["time"]),
            content["gaps"],
            series_settings.CsvConfig.model_validate_json(json.dumps(content["csv"])),
            None if content["axis"] is None else times.Axis.from_json(content["axis"]),
            scalings.Scaling.from_json(content["scaling"]),
        )


DEFAULT = Preparation()
"""Preparation of a series of release 0.1: without times, gaps or scaling."""
