"""Prometheus implementation of the metrics interface, and the exporters that serve it.

Every process of ours on a node writes to memory-mapped files in one folder of that node (prometheus-client's
multiprocess mode), so values survive SIGKILL and histogram sums are exact. One exporter per node serves their sum.
Failures are logged and never stop a run.
"""

import contextlib
import functools
import http.client
import json
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import prometheus_client
from prometheus_client import exposition, metrics_core, multiprocess, parser, values

from core import errors
from core.config import schema
from core.storage import location, private_folders
from core.telemetry import catalog, metrics
from workers.telemetry import metrics_server, pushgateway

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # the library's own; set for workers of ours, never for Ray's processes
PUSH_TIMEOUT_S = 5.0
KNOWN_LABELS = {"stage": catalog.STAGES, "outcome": catalog.OUTCOMES}
WILDCARDS = ("0.0.0.0", "::", "")  # noqa: S104 (compared with, not listened on)

_log = logging.getLogger(__name__)


class PrometheusMetrics:
    """Metrics written to this node's folder, renamed ones also under their deprecated name.

    Args:
        folder: multiprocess folder of this node.
        rank: value of the label `rank` of the metrics that have it.
    """

    def __init__(self, folder: Path, rank: str = "0") -> None:
        private_folders.make(folder)
        if os.environ.get(FOLDER_VARIABLE) != str(folder) or not getattr(values.ValueClass, "_multiprocess", False):
            # The library chooses between shared files and plain memory when it is first imported. If something else
            # imported it before the variable was set, it chose plain memory: choose again.
            os.environ[FOLDER_VARIABLE] = str(folder)
            values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]
        self._rank = rank
        self._registry = prometheus_client.CollectorRegistry()
        self._collectors: dict[str, Any] = {}
        self._children: dict[tuple[str, ...], tuple[Any, ...]] = {}

    def begin(self, metric: catalog.Metric, **labels: str) -> None:
        """See `metrics.Metrics`."""
        self._series(metric, labels)

    def count(self, metric: catalog.Metric, amount: float = 1.0, **labels: str) -> None:
        """See `metrics.Metrics`."""
        for child in self._series(metric, labels):
            child.inc(amount)

    def set(self, metric: catalog.Metric, value: float, **labels: str) -> None:
        """See `metrics.Metrics`."""
        for child in self._series(metric, labels):
            child.set(value)

    def observe(self, metric: catalog.Metric, value: float, **labels: str) -> None:
        """See `metrics.Metrics`."""
        for child in self._series(metric, labels):
            child.observe(value)

    def _series(self, metric: catalog.Metric, labels: dict[str, str]) -> tuple[Any, ...]:
        """Returns the library's object for these labels, and that of the deprecated name if there is one."""
        if "rank" in metric.labels:
            labels = {"rank": self._rank, **labels}
        assert labels.keys() == set(metric.labels), f"{metric.name} takes the labels {metric.labels}, not {labels}"
        key = (metric.name, *(_bounded(name, labels[name]) for name in metric.labels))
        children = self._children.get(key)
        if children is None:
            # Under both names for one version, so that dashboards survive an upgrade.
            named = [metric, metric.deprecated] if metric.deprecated else [metric]
            children = self._children[key] = tuple(self._new_child(each, key[1:]) for each in named)
        return children

    def _new_child(self, metric: catalog.Metric, label_values: tuple[str, ...]) -> Any:
        collector = self._collectors.get(metric.name)
        if collector is None:
            collector = self._collectors[metric.name] = _collector(metric, self._registry)
        if not metric.labels:
            return collector
        if metric.kind == "counter" and "outcome" in metric.labels:
            # All outcomes start at 0: a counter that appears with its first failure has no rate at that moment.
            index = metric.labels.index("outcome")
            for outcome in catalog.OUTCOMES:
                collector.labels(*label_values[:index], outcome, *label_values[index + 1 :])
        return collector.labels(*label_values)


def _bounded(name: str, value: str) -> str:
    """Returns the label value, or `other` if it is not in the closed set, so that the number of series is bounded."""
    known = KNOWN_LABELS.get(name)
    return value if known is None or value in known else "other"


def _collector(metric: catalog.Metric, registry: prometheus_client.CollectorRegistry) -> Any:
    match metric.kind:
        case "counter":
            return prometheus_client.Counter(metric.name, metric.help, metric.labels, registry=registry)
        case "gauge":
            # Of a gauge that several processes set, as after a restart of the ranks, the newest value is exported.
            return prometheus_client.Gauge(
                metric.name, metric.help, metric.labels, registry=registry, multiprocess_mode="mostrecent"
            )
        case "histogram":
            return prometheus_client.Histogram(
                metric.name, metric.help, metric.labels, registry=registry, buckets=metric.buckets
            )


def worker_metrics(rank: str = "0") -> metrics.Metrics:
    """Returns the metrics of a worker process; a no-op if its environment names no folder to write to."""
    folder = os.environ.get(FOLDER_VARIABLE)
    return PrometheusMetrics(Path(folder), rank) if folder else metrics.NullMetrics()


def render(folder: Path) -> bytes:
    """Returns the metrics of all processes of this node in Prometheus' text format."""
    # The library refuses a folder that does not exist, and there may be no measurement yet.
    private_folders.make(folder)
    return prometheus_client.generate_latest(_registry(folder))


def _registry(folder: Path) -> prometheus_client.CollectorRegistry:
    registry = prometheus_client.CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
    return registry


def own_address() -> str:
    """Returns the address of this machine in its network; its host name if it is in none.

    Nobody resolves the host name of a pod, and that of many machines means the loopback interface.
    """
    # Connecting a datagram socket sends nothing: it only chooses the route, here to an address for documentation.
    for family, peer in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((peer, 9))
            address = str(probe.getsockname()[0])
            return f"[{address}]" if family == socket.AF_INET6 else address
    return socket.gethostname()


class NodeExporter:
    """HTTP exporter of the metrics of one node.

    Args:
        folder: multiprocess folder of the node.
        host: address to listen on.
        port: port to listen on; 0 for a free one.
        address: address under which other nodes reach this one if `host` is a wildcard; by default that of its route
            to them.
    """

    def __init__(self, folder: str, host: str, port: int, address: str | None = None) -> None:
        self._folder = Path(folder)
        # Nobody can connect to a wildcard address.
        self._address = (address or own_address()) if host in WILDCARDS else host
        self._server: metrics_server.MetricsServer | None = None
        try:
            self._server = metrics_server.MetricsServer(host, port, lambda: render(self._folder))
        except OSError as error:
            _log.warning("telemetry: no metrics exporter on %s:%d: %s", host, port, error)

    def target(self) -> str | None:
        """Returns the `host:port` to scrape; None if the exporter could not listen."""
        return f"{self._address}:{self._server.port}" if self._server else None

    def snapshot(self) -> tuple[str, bytes]:
        """Returns the name of the node and its current metrics."""
        # The host name becomes part of a file name.
        return re.sub(r"[^A-Za-z0-9._-]", "_", socket.gethostname()), render(self._folder)

    def close(self) -> None:
        """Stops serving."""
        if self._server:
            self._server.close()
            self._server = None


class RemoteExporter(Protocol):
    """A `NodeExporter` on another node; methods return None if it did not answer."""

    def target(self) -> str | None:
        """See `NodeExporter`."""

    def snapshot(self) -> tuple[str, bytes] | None:
        """See `NodeExporter`."""

    def close(self) -> None:
        """See `NodeExporter`."""


class _Snapshots:
    """The metrics of several nodes as one collector of the library, each sample with its node as `instance`."""

    def __init__(self, snapshots: Iterable[tuple[str, bytes]]) -> None:
        self._families: dict[str, metrics_core.Metric] = {}
        for node, text in snapshots:
            for family in parser.text_string_to_metric_families(text.decode()):
                merged = self._families.setdefault(
                    family.name, metrics_core.Metric(family.name, family.documentation, family.type)
                )
                for sample in family.samples:
                    merged.add_sample(sample.name, {**sample.labels, "instance": node}, sample.value)

    def collect(self) -> Iterable[metrics_core.Metric]:
        """Returns the families; called by the library."""
        return self._families.values()


def push(
    gateway: str, run: str, verb: str, snapshots: Iterable[tuple[str, bytes]], credentials: str | None = None
) -> None:
    """Pushes the metrics of all nodes to a Pushgateway, for runs that are too short to be scraped.

    The group is that of the run and the verb, so that one verb takes away nothing of another, and is the same on
    whatever nodes an attempt runs: no group is left behind by a pod. Within the group, POST replaces the metrics
    that are pushed again and keeps the others.

    Args:
        gateway: its URL.
        run: name of the run.
        verb: the verb that was done.
        snapshots: name and metrics of each node.
        credentials: file with user and password, if the environment does not have them.

    Raises:
        OSError: the gateway does not accept them.
        UsageError: the credentials cannot be read.
        ValueError: its address is not one of HTTP.
        http.client.HTTPException: what listens there does not speak HTTP.
    """
    handler = exposition.default_handler
    if (given := pushgateway.credentials(credentials)) is not None:
        user, password = given
        handler = functools.partial(exposition.basic_auth_handler, username=user, password=password)
    registry = prometheus_client.CollectorRegistry()
    registry.register(_Snapshots(snapshots))
    prometheus_client.pushadd_to_gateway(
        gateway,
        job="raycurrent",
        registry=registry,
        grouping_key={"run": run, "verb": verb},
        timeout=PUSH_TIMEOUT_S,
        handler=handler,
    )


class Exporters:
    """The exporters of a run: one in this process, one on each other node.

    Their addresses are written to `targets.json`, which Prometheus reads (`file_sd_configs`).

    Args:
        folder: multiprocess folder, under the same path on every node; fresh for each run.
        metrics_folder: folder of the run that `targets.json` and `final-<node>.prom` are written to; None: no files.
        export: telemetry settings.
        run: name of the run, a label of its targets.
        verb: the verb that this driver does, a label of what it pushes.
        start_remote: starts an exporter on a node, given the node's id and the arguments of `NodeExporter`.
    """

    def __init__(
        self,
        folder: Path,
        metrics_folder: location.Location | None,
        export: schema.TelemetryConfig,
        run: str,
        verb: str,
        start_remote: Callable[..., RemoteExporter],
    ) -> None:
        self.folder = folder
        self.metrics = PrometheusMetrics(folder)
        self._metrics_folder = metrics_folder
        self._export = export
        self._run = run
        self._verb = verb
        self._start_remote = start_remote
        self._local = NodeExporter(str(folder), export.metrics_host, export.metrics_port)
        self._remote: dict[str, RemoteExporter] = {}
        self._write_targets(self.targets())

    def ensure_exporters(self, nodes: Iterable[tuple[str, str]]) -> None:
        """Starts an exporter on each of these nodes (id, address) that has none yet."""
        new = [(node, address) for node, address in nodes if node not in self._remote]
        for node, address in new:
            arguments = (str(self.folder), self._export.metrics_host, self._export.metrics_port, address)
            # Kept even if it does not answer: a node is tried once, not at every look for new ones.
            self._remote[node] = self._start_remote(node, *arguments)
        if new:
            self._write_targets(self.targets())

    def targets(self) -> list[str]:
        """Returns the addresses to scrape, sorted."""
        addresses = [exporter.target() for exporter in self._all()]
        return sorted(address for address in addresses if address)

    def write_snapshots(self) -> None:
        """Writes the metrics of all nodes, as they are now, to the run's folder."""
        self._save_snapshots()

    def close(self, linger: bool) -> None:
        """Writes the final metrics to the run's folder, pushes them if configured, and stops serving.

        Args:
            linger: keep serving for `linger_s` seconds first, so that Prometheus can scrape the final values.
        """
        snapshots = self._save_snapshots()
        if self._export.pushgateway:
            self._push(self._export.pushgateway, snapshots)
        if linger:
            time.sleep(self._export.linger_s)
        # Targets first: Prometheus should not report exporters of a finished run as down.
        self._write_targets([])
        for exporter in self._all():
            exporter.close()

    def _all(self) -> Iterator[NodeExporter | RemoteExporter]:
        yield self._local
        yield from self._remote.values()

    def _save_snapshots(self) -> list[tuple[str, bytes]]:
        """Writes the metrics of all nodes to the run's folder, and returns those of the nodes that answer."""
        snapshots = []
        for exporter in self._all():
            try:
                snapshot = exporter.snapshot()
                if snapshot is not None:
                    snapshots.append(snapshot)
                    name, text = snapshot
                    if self._metrics_folder is not None:
                        self._metrics_folder.join(f"final-{name}.prom").replace(text)
            except (errors.RaycurrentError, OSError, ValueError) as error:
                _log.warning("telemetry: the final metrics of a node are not saved: %s", error)
        return snapshots

    def _push(self, gateway: str, snapshots: Sequence[tuple[str, bytes]]) -> None:
        try:
            push(gateway, self._run, self._verb, snapshots, self._export.pushgateway_credentials)
        # Whatever listens there may answer anything: results are committed, and metrics never fail a run.
        except (errors.RaycurrentError, OSError, ValueError, http.client.HTTPException) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            _log.warning("telemetry.pushgateway: cannot push metrics to %s: %s; the results are safe", gateway, reason)

    def _write_targets(self, targets: list[str]) -> None:
        """Replaces the file that Prometheus' `file_sd_configs` reads."""
        if self._metrics_folder is None:
            return
        entry = {"targets": targets, "labels": {"job": "raycurrent", "run": self._run}}
        try:
            self._metrics_folder.join("targets.json").replace(json.dumps([entry]).encode() + b"\n")
        except (errors.RaycurrentError, OSError) as error:
            _log.warning("telemetry: cannot write targets.json, so Prometheus will not find the run: %s", error)
