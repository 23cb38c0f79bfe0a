"""Metrics of the parts of a fan-out."""

from core.telemetry import catalog, metrics


class PartMetrics:
    """Measures the parts of one stage.

    Every counter is exported as 0 from the start: Prometheus computes a rate from two samples, and the first part
    may be done before the first scrape.
    """

    def __init__(self, metrics: metrics.Metrics, stage: str) -> None:
        self._metrics, self._stage = metrics, stage
        metrics.begin(catalog.FANOUT_PARTS, stage=stage, outcome="done")
        for metric in (catalog.FANOUT_PART_SECONDS, catalog.FANOUT_WORKER_DEATHS):
            metrics.begin(metric, stage=stage)

    def done(self, elapsed_s: float, num_pending: int) -> None:
        """Counts a part that is done; `num_pending` parts are not."""
        self._metrics.count(catalog.FANOUT_PARTS, stage=self._stage, outcome="done")
        self._metrics.observe(catalog.FANOUT_PART_SECONDS, elapsed_s, stage=self._stage)
        self._metrics.set(catalog.FANOUT_PENDING, num_pending, stage=self._stage)

    def failed(self, is_retried: bool) -> None:
        """Counts a failed attempt of a part."""
        self._metrics.count(catalog.FANOUT_PARTS, stage=self._stage, outcome="retried" if is_retried else "failed")

    def died(self) -> None:
        """Counts the death of a worker."""
        self._metrics.count(catalog.FANOUT_WORKER_DEATHS, stage=self._stage)
