"""Who is told what happened: a protocol, one that forgets, and one that remembers."""

from typing import Protocol

from core.telemetry import catalog


class Metrics(Protocol):
    """Takes measurements of the metrics in the catalogue; labels are those that the metric declares."""

    def begin(self, metric: catalog.Metric, **labels: str) -> None:
        """Has a series stand at 0, so that its first measurement is seen as a rise."""

    def count(self, metric: catalog.Metric, amount: float = 1.0, **labels: str) -> None:
        """Adds to a counter."""

    def set(self, metric: catalog.Metric, value: float, **labels: str) -> None:
        """Sets a gauge."""

    def observe(self, metric: catalog.Metric, value: float, **labels: str) -> None:
        """Adds an observation to a histogram."""


class NullMetrics:
    """Forgets everything: the metrics of code that nobody watches."""

    def begin(self, metric: catalog.Metric, **labels: str) -> None:
        """Does nothing."""

    def count(self, metric: catalog.Metric, amount: float = 1.0, **labels: str) -> None:
        """Does nothing."""

    def set(self, metric: catalog.Metric, value: float, **labels: str) -> None:
        """Does nothing."""

    def observe(self, metric: catalog.Metric, value: float, **labels: str) -> None:
        """Does nothing."""


class InMemoryMetrics:
    """Remembers every call in order, as (metric name, value, labels)."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, float, dict[str, str]]] = []

    def begin(self, metric: catalog.Metric, **labels: str) -> None:
        """Remembers a 0."""
        self.calls.append((metric.name, 0.0, labels))

    def count(self, metric: catalog.Metric, amount: float = 1.0, **labels: str) -> None:
        """Remembers the amount."""
        self.calls.append((metric.name, amount, labels))

    def set(self, metric: catalog.Metric, value: float, **labels: str) -> None:
        """Remembers the value."""
        self.calls.append((metric.name, value, labels))

    def observe(self, metric: catalog.Metric, value: float, **labels: str) -> None:
        """Remembers the observation."""
        self.calls.append((metric.name, value, labels))
