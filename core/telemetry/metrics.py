"""Metrics interface: a protocol, a no-op implementation and an in-memory one for tests.

Code that measures takes a `Metrics` and does not know where its values go; `workers.telemetry` exports them to
Prometheus.
"""

from typing import Protocol

from core.telemetry import catalog


class Metrics(Protocol):
    """Records measurements of the metrics in the catalogue; labels are those that the metric declares."""

    def begin(self, metric: catalog.Metric, **labels: str) -> None:
        """Creates a series with the value 0, so that its first measurement is seen as an increase."""

    def count(self, metric: catalog.Metric, amount: float = 1.0, **labels: str) -> None:
        """Increases a counter."""

    def set(self, metric: catalog.Metric, value: float, **labels: str) -> None:
        """Sets a gauge."""

    def observe(self, metric: catalog.Metric, value: float, **labels: str) -> None:
        """Adds an observation to a histogram."""


# Code that measures then needs no check for the absence of metrics.
class NullMetrics:
    """Metrics that are discarded."""

    def begin(self, metric: catalog.Metric, **labels: str) -> None:
        """Does nothing."""

    def count(self, metric: catalog.Metric, amount: float = 1.0, **labels: str) -> None:
        """Does nothing."""

    def set(self, metric: catalog.Metric, value: float, **labels: str) -> None:
        """Does nothing."""

    def observe(self, metric: catalog.Metric, value: float, **labels: str) -> None:
        """Does nothing."""


class InMemoryMetrics:
    """Metrics kept as a list of all calls in order: (metric name, value, labels)."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, float, dict[str, str]]] = []

    def begin(self, metric: catalog.Metric, **labels: str) -> None:
        """Appends a 0."""
        self.calls.append((metric.name, 0.0, labels))

    def count(self, metric: catalog.Metric, amount: float = 1.0, **labels: str) -> None:
        """Appends the amount."""
        self.calls.append((metric.name, amount, labels))

    def set(self, metric: catalog.Metric, value: float, **labels: str) -> None:
        """Appends the value."""
        self.calls.append((metric.name, value, labels))

    def observe(self, metric: catalog.Metric, value: float, **labels: str) -> None:
        """Appends the observation."""
        self.calls.append((metric.name, value, labels))
