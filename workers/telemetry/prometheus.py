"""What the catalogue's metrics become in Prometheus, and a run's record in TensorBoard: no other place imports them.

Every process of ours on a node writes to memory-mapped files in one folder of that node (the library's
multiprocess mode), so values survive a kill and histogram sums are exact. One exporter for each node serves
their sum. Nothing here may disturb a run: what fails is logged and left out.
"""

import importlib.util
import io
import json
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import prometheus_client
from prometheus_client import multiprocess, values

from core import errors
from core.config import schema
from core.storage import location
from core.telemetry import catalog, metrics
from core.training import progress
from workers.telemetry import metrics_server

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # the library's own; set for workers of ours, never for Ray's processes
PUSH_TIMEOUT_S = 5.0
KNOWN_LABELS = {"stage": catalog.STAGES, "outcome": catalog.OUTCOMES}
WILDCARDS = ("0.0.0.0", "::", "")  # noqa: S104 (compared with, not listened on)

EVENTS_FOLDER = "tensorboard"
FOLLOW_EVERY_S = 10.0
SCALARS = {  # of the rows of a run's record, by their kind
    "step": ("train", ("loss_nats", "perplexity", "gradient_norm", "learning_rate", "tokens_per_s")),
    "validation": ("validation", ("nll_nats", "perplexity", "accuracy", "bleu")),
}

_log = logging.getLogger(__name__)


class PrometheusMetrics:
    """Measures into this node's folder. A `rank` is added to the metrics that have that label."""

    def __init__(self, folder: Path, rank: str = "0") -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.environ.get(FOLDER_VARIABLE) != str(folder) or not getattr(values.ValueClass, "_multiprocess", False):
            # Where somebody imported the library before us it has chosen values of one process, in plain memory.
            os.environ[FOLDER_VARIABLE] = str(folder)
            values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]
        self._rank = rank
        self._registry = prometheus_client.CollectorRegistry()
        self._collectors: dict[str, Any] = {}
        self._children: dict[tuple[str, ...], Any] = {}

    def begin(self, metric: catalog.Metric, **labels: str) -> None:
        """See `metrics.Metrics`."""
        self._child(metric, labels)

    def count(self, metric: catalog.Metric, amount: float = 1.0, **labels: str) -> None:
        """See `metrics.Metrics`."""
        self._child(metric, labels).inc(amount)

    def set(self, metric: catalog.Metric, value: float, **labels: str) -> None:
        """See `metrics.Metrics`."""
        self._child(metric, labels).set(value)

    def observe(self, metric: catalog.Metric, value: float, **labels: str) -> None:
        """See `metrics.Metrics`."""
        self._child(metric, labels).observe(value)

    def _child(self, metric: catalog.Metric, labels: dict[str, str]) -> Any:
        if "rank" in metric.labels:
            labels = {"rank": self._rank, **labels}
        assert labels.keys() == set(metric.labels), f"{metric.name} takes the labels {metric.labels}, not {labels}"
        key = (metric.name, *(_known(name, labels[name]) for name in metric.labels))
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = self._new_child(metric, key[1:])
        return child

    def _new_child(self, metric: catalog.Metric, label_values: tuple[str, ...]) -> Any:
        collector = self._collectors.get(metric.name)
        if collector is None:
            collector = self._collectors[metric.name] = _collector(metric, self._registry)
        if not metric.labels:
            return collector
        if metric.kind == "counter" and "outcome" in metric.labels:
            # All outcomes start at 0: a counter that appears with its first failure has no rate at that moment.
            place = metric.labels.index("outcome")
            for outcome in catalog.OUTCOMES:
                collector.labels(*label_values[:place], outcome, *label_values[place + 1 :])
        return collector.labels(*label_values)


def _known(name: str, value: str) -> str:
    """Keeps the number of series bounded, whatever a caller says."""
    known = KNOWN_LABELS.get(name)
    return value if known is None or value in known else "other"


def _collector(metric: catalog.Metric, registry: prometheus_client.CollectorRegistry) -> Any:
    match metric.kind:
        case "counter":
            return prometheus_client.Counter(metric.name, metric.help, metric.labels, registry=registry)
        case "gauge":
            return prometheus_client.Gauge(
                metric.name, metric.help, metric.labels, registry=registry, multiprocess_mode="mostrecent"
            )
        case "histogram":
            return prometheus_client.Histogram(
                metric.name, metric.help, metric.labels, registry=registry, buckets=metric.buckets
            )


def worker_metrics(rank: str = "0") -> metrics.Metrics:
    """What a worker measures with: into the folder that its environment names, or not at all."""
    folder = os.environ.get(FOLDER_VARIABLE)
    return PrometheusMetrics(Path(folder), rank) if folder else metrics.NullMetrics()


def render(folder: Path) -> bytes:
    """The metrics of all processes of this node, in the text format of Prometheus."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return prometheus_client.generate_latest(_registry(folder))


def _registry(folder: Path) -> prometheus_client.CollectorRegistry:
    registry = prometheus_client.CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
    return registry


class NodeExporter:
    """Serves the metrics of the node that it lives on."""

    def __init__(self, folder: str, host: str, port: int, address: str | None = None) -> None:
        self._folder = Path(folder)
        self._address = (address or socket.gethostname()) if host in WILDCARDS else host
        self._server: metrics_server.MetricsServer | None = None
        try:
            self._server = metrics_server.MetricsServer(host, port, lambda: render(self._folder))
        except OSError as error:
            _log.warning("telemetry: no metrics exporter on %s:%d: %s", host, port, error)

    def target(self) -> str | None:
        """Where Prometheus finds it; None: nowhere."""
        return f"{self._address}:{self._server.port}" if self._server else None

    def snapshot(self) -> tuple[str, bytes]:
        """The name of the node, and its metrics as they are now."""
        return re.sub(r"[^A-Za-z0-9._-]", "_", socket.gethostname()), render(self._folder)

    def push(self, gateway: str, run: str) -> None:
        """Hands the metrics to a Pushgateway, for runs that are too short to be scraped.

        Raises:
            OSError: it does not take them.
        """
        prometheus_client.push_to_gateway(
            gateway,
            job="raycurrent",
            registry=_registry(self._folder),
            grouping_key={"run": run, "instance": socket.gethostname()},
            timeout=PUSH_TIMEOUT_S,
        )

    def close(self) -> None:
        """Stops serving."""
        if self._server:
            self._server.close()
            self._server = None


class RemoteExporter(Protocol):
    """A `NodeExporter` on another node; None stands for an answer that did not come."""

    def target(self) -> str | None:
        """See `NodeExporter`."""

    def snapshot(self) -> tuple[str, bytes] | None:
        """See `NodeExporter`."""

    def push(self, gateway: str, run: str) -> None:
        """See `NodeExporter`."""

    def close(self) -> None:
        """See `NodeExporter`."""


class Exporters:
    """The exporters of a run: this node's in this process, one on each other node; tells Prometheus where they are.

    Args:
        folder: of the metrics of this node, and of every other one under the same path; made anew for each run.
        metrics_folder: folder of the run that `targets.json` and `final-<node>.prom` are written to.
        export: how metrics are exported.
        run: name of the run, a label of its targets.
        start_remote: starts an exporter on a node, given its id and the arguments of `NodeExporter`.
    """

    def __init__(
        self,
        folder: Path,
        metrics_folder: location.Location,
        export: schema.TelemetryConfig,
        run: str,
        start_remote: Callable[..., RemoteExporter],
    ) -> None:
        self.folder = folder
        self.metrics = PrometheusMetrics(folder)
        self._metrics_folder = metrics_folder
        self._export = export
        self._run = run
        self._start_remote = start_remote
        self._local = NodeExporter(str(folder), export.metrics_host, export.metrics_port)
        self._remote: dict[str, RemoteExporter] = {}
        self._write_targets(self.targets())

    def cover(self, nodes: Iterable[tuple[str, str]]) -> None:
        """Starts an exporter on each of these nodes (id, address) that has none yet."""
        new = [(node, address) for node, address in nodes if node not in self._remote]
        for node, address in new:
            arguments = (str(self.folder), self._export.metrics_host, self._export.metrics_port, address)
            self._remote[node] = self._start_remote(node, *arguments)
        if new:
            self._write_targets(self.targets())

    def targets(self) -> list[str]:
        """Where Prometheus finds the exporters."""
        found = [exporter.target() for exporter in (self._local, *self._remote.values())]
        return sorted(target for target in found if target)

    def keep(self) -> None:
        """Writes what was measured so far to the run's folder."""
        for exporter in (self._local, *self._remote.values()):
            self._keep(exporter)

    def close(self, linger: bool) -> None:
        """Keeps what was measured in the run's folder, hands it on if asked, and stops serving."""
        for exporter in (self._local, *self._remote.values()):
            self._keep(exporter)
            if self._export.pushgateway:
                self._push(exporter, self._export.pushgateway)
        if linger:
            time.sleep(self._export.linger_s)
        self._write_targets([])
        for exporter in (self._local, *self._remote.values()):
            exporter.close()

    def _keep(self, exporter: NodeExporter | RemoteExporter) -> None:
        try:
            snapshot = exporter.snapshot()
            if snapshot is not None:
                name, text = snapshot
                self._metrics_folder.join(f"final-{name}.prom").replace(text)
        except (errors.RaycurrentError, OSError, ValueError) as error:
            _log.warning("telemetry: the final metrics of a node are not kept: %s", error)

    def _push(self, exporter: NodeExporter | RemoteExporter, gateway: str) -> None:
        try:
            exporter.push(gateway, self._run)
        except (OSError, ValueError) as error:
            _log.warning("telemetry.pushgateway: %s takes no metrics: %s", gateway, error)

    def _write_targets(self, targets: list[str]) -> None:
        """Writes a file for Prometheus' `file_sd_configs`, in one piece."""
        entry = {"targets": targets, "labels": {"job": "raycurrent", "run": self._run}}
        try:
            self._metrics_folder.join("targets.json").replace(json.dumps([entry]).encode() + b"\n")
        except (errors.RaycurrentError, OSError) as error:
            _log.warning("telemetry: targets.json is not written, so Prometheus will not find the run: %s", error)


def check_tensorboard(export: schema.TelemetryConfig) -> None:
    """Makes sure that what is to be written can be.

    Raises:
        UsageError: event files are asked for, and the library is not there.
    """
    if export.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise errors.UsageError(
            "telemetry.tensorboard: TensorBoard is not installed; pip install tensorboard, or leave the setting out"
        )


class EventFiles:
    """The record of a run as TensorBoard reads it: a file of events for each segment, written once.

    A segment is there as soon as its checkpoint is. The driver turns it over, so that training itself, and a root in
    an object store, which cannot append, know nothing of it.

    Args:
        root: of the run; files lie in its `tensorboard/`.
        export: says whether there are to be any.
    """

    def __init__(self, root: location.Location, export: schema.TelemetryConfig) -> None:
        self._record, self._events = root.join(progress.RECORD_FOLDER), root.join(EVENTS_FOLDER)
        self._is_wanted = export.tensorboard
        self._looked_s = time.monotonic()

    def follow(self, at_once: bool = False) -> None:
        """Turns over the segments that are new, if the last look at them was long ago."""
        now_s = time.monotonic()
        if not self._is_wanted or (not at_once and now_s - self._looked_s < FOLLOW_EVERY_S):
            return
        self._looked_s = now_s
        try:
            done = set(self._events.list_names())
            for name in self._record.list_names():
                if found := re.fullmatch(r"e([0-9]+)-([0-9]+)\.jsonl", name):
                    # TensorBoard reads the files of a folder in the order of their names.
                    target = f"events.out.tfevents.{int(found[1]):08d}-{int(found[2]):018d}"
                    if target not in done:
                        rows = [json.loads(line) for line in self._record.join(name).read_bytes().splitlines()]
                        self._events.join(target).put_if_absent(_events(rows))
        except (errors.RaycurrentError, OSError, ValueError) as error:
            _log.warning("telemetry.tensorboard: event files are not written: %s", error)


def _events(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """The rows of a segment as a file of events."""
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.summary.writer import record_writer

    rows, now_s, file = list(rows), time.time(), io.BytesIO()
    writer = record_writer.RecordWriter(file)
    writer.write(event_pb2.Event(wall_time=now_s, file_version="brain.Event:2").SerializeToString())
    # Of a run that went back to an older checkpoint, what TensorBoard has seen from this step on no longer counts.
    begun = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    first = min((int(row["step"]) for row in rows), default=0)
    writer.write(event_pb2.Event(wall_time=now_s, step=first, session_log=begun).SerializeToString())
    for row in rows:
        group, names = SCALARS.get(row["kind"], ("", ()))
        scalars = [
            summary_pb2.Summary.Value(tag=f"{group}/{name}", simple_value=row[name])
            for name in names
            if row.get(name) is not None
        ]
        if scalars:
            summary = summary_pb2.Summary(value=scalars)
            writer.write(event_pb2.Event(wall_time=now_s, step=row["step"], summary=summary).SerializeToString())
    return file.getvalue()
