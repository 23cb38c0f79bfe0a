"""Scaling of a series by the mean and standard deviation of its training split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# Below this share of the largest magnitude, the deviation of a column is rounding error: the column is constant.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Scaling:
    """Means and standard deviations by column; without columns, values stay as they are.

    Networks start near zero with weights of the order of one, so values of another order are learned late or never.
    """

    means: Mapping[str, float] = field(default_factory=dict)
    deviations: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def fit(cls, values_TC: Array, names: Sequence[str]) -> "Scaling":
        """Returns the scaling of columns by their own mean and deviation; a constant column is only shifted to 0."""
        means_C, deviations_C = values_TC.mean(axis=0), values_TC.std(axis=0)
        is_constant_C = deviations_C <= _ROUNDING * np.abs(values_TC).max(axis=0)
        deviations_C = np.where(is_constant_C, 1.0, deviations_C)
        return cls(
            dict(zip(names, means_C.tolist(), strict=True)), dict(zip(names, deviations_C.tolist(), strict=True))
        )

    def apply(self, values: Array, names: Sequence[str]) -> Array:
        """Scales values whose last axis is that of the named columns."""
        return (values - self._means(names)) / self.deviations_of(names) if self.means else values

    def undo(self, values: Array, names: Sequence[str]) -> Array:
        """Returns scaled values, whose last axis is that of the named columns, to the units of the series."""
        return values * self.deviations_of(names) + self._means(names) if self.means else values

    def deviations_of(self, names: Sequence[str]) -> Array:
        """Returns the factor between scaled errors and errors in the units of the series; 1 without scaling."""
        return np.array([self.deviations.get(name, 1.0) for name in names])

    def to_json(self) -> dict[str, dict[str, float]]:
        """Returns the stored form."""
        return {name: {"mean": self.means[name], "deviation": self.deviations[name]} for name in self.means}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Scaling":
        """Reads the stored form.

        Raises:
            ValueError, KeyError, TypeError: it is not valid.
        """
        means = {name: float(row["mean"]) for name, row in content.items()}
        deviations = {name: float(row["deviation"]) for name, row in content.items()}
        numbers = np.array([*means.values(), *deviations.values()])
        if not np.isfinite(numbers).all() or min(deviations.values(), default=1.0) <= 0:
            raise ValueError("scaling: means and deviations must be finite, and deviations above 0")
        return cls(means, deviations)

    def _means(self, names: Sequence[str]) -> Array:
        return np.array([self.means[name] for name in names])


NONE = Scaling()
"""Scaling that leaves values as they are."""
