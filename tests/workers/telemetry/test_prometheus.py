"""Prometheus metrics: exact sums that survive SIGKILL, deprecated names, the HTTP exporter, a real Prometheus."""

import contextlib
import http.client
import http.server
import ipaddress
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.config import schema
from core.storage import location
from core.telemetry import catalog
from workers.telemetry import metrics_server, prometheus

HEADER_TIMEOUT_S = 0.5

WRITER = """
import os, signal, sys
from pathlib import Path
from core.telemetry import catalog
from workers.telemetry import prometheus
metrics = prometheus.worker_metrics(rank=sys.argv[1])
for _ in range(300):
    metrics.observe(catalog.TRAIN_STEP_SECONDS, 0.1)
metrics.count(catalog.FANOUT_PARTS, stage="translate", outcome="done")
metrics.set(catalog.TRAIN_LOSS, float(sys.argv[1]))
os.kill(os.getpid(), signal.SIGKILL)
"""


def write_and_die(folder: Path, rank: str) -> None:
    environment = {**os.environ, prometheus.FOLDER_VARIABLE: str(folder)}
    done = subprocess.run([sys.executable, "-c", WRITER, rank], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL


def samples(text: bytes) -> dict[str, float]:
    lines = [line for line in text.decode().splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def get(port: int, path: str, method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path)
    response = connection.getresponse()
    return response.status, response.read()


@pytest.fixture
def server() -> Iterator[metrics_server.MetricsServer]:
    running = metrics_server.MetricsServer("127.0.0.1", 0, lambda: b"up 1\n", HEADER_TIMEOUT_S)
    yield running
    running.close()


@pytest.fixture
def own_folder(tmp_path: Path) -> Iterator[Path]:
    """A multiprocess folder; removed from this process's environment afterwards."""
    yield tmp_path / "metrics"
    os.environ.pop(prometheus.FOLDER_VARIABLE, None)


def exporters(folder: Path, run: Path | None, verb: str = "train", **settings: Any) -> prometheus.Exporters:
    def refuse(node: str, *_: Any) -> prometheus.RemoteExporter:
        raise AssertionError(node)

    metrics_folder = None if run is None else location.Location.parse(str(run))
    return prometheus.Exporters(folder, metrics_folder, schema.TelemetryConfig(**settings), "demo", verb, refuse)


def test_values_of_killed_processes_are_kept_and_summed(tmp_path: Path) -> None:
    for rank in "01":
        write_and_die(tmp_path, rank)
    exported = samples(prometheus.render(tmp_path))
    for rank in "01":
        assert exported[f'raycurrent_train_step_seconds_count{{rank="{rank}"}}'] == 300
        assert exported[f'raycurrent_train_step_seconds_sum{{rank="{rank}"}}'] == pytest.approx(30.0, abs=1e-9)
    assert exported['raycurrent_fanout_parts_total{outcome="done",stage="translate"}'] == 2
    assert exported['raycurrent_fanout_parts_total{outcome="failed",stage="translate"}'] == 0
    assert exported["raycurrent_train_loss_nats"] == 1  # the newest value of a gauge


def test_unknown_label_values_are_counted_as_other(own_folder: Path) -> None:
    metrics = prometheus.PrometheusMetrics(own_folder)
    for number in range(200):
        metrics.count(catalog.FANOUT_WORKER_DEATHS, stage=f"stage {number}")
    exported = samples(prometheus.render(own_folder))
    assert exported == {'raycurrent_fanout_worker_deaths_total{stage="other"}': 200}


def test_begin_exports_a_series_with_the_value_0(own_folder: Path) -> None:
    metrics = prometheus.PrometheusMetrics(own_folder)
    metrics.begin(catalog.FANOUT_PART_SECONDS, stage="translate")
    metrics.begin(catalog.FANOUT_PARTS, stage="translate", outcome="done")
    exported = samples(prometheus.render(own_folder))
    assert exported['raycurrent_fanout_part_seconds_count{stage="translate"}'] == 0
    assert exported['raycurrent_fanout_part_seconds_sum{stage="translate"}'] == 0
    assert exported['raycurrent_fanout_parts_total{outcome="done",stage="translate"}'] == 0


def test_every_metric_of_the_catalogue_is_exported(own_folder: Path) -> None:
    metrics = prometheus.PrometheusMetrics(own_folder, rank="3")
    for metric in catalog.ALL:
        labels = {"stage": "train", "outcome": "done", "corpus": "0"}
        given = {name: labels[name] for name in metric.labels if name != "rank"}
        measure: Any = {"counter": metrics.count, "gauge": metrics.set, "histogram": metrics.observe}[metric.kind]
        measure(metric, 1.0, **given)
    text = prometheus.render(own_folder).decode()
    assert [metric.name for metric in catalog.ALL if f"# HELP {metric.name} " not in text] == []


def test_renamed_metrics_are_exported_under_their_deprecated_name_too(own_folder: Path) -> None:
    metrics = prometheus.PrometheusMetrics(own_folder)
    metrics.set(catalog.TRAIN_LEARNING_RATE, 0.5)
    metrics.set(catalog.TRAIN_CORPUS_LOSS, 2.25, corpus="1")
    text = prometheus.render(own_folder)
    assert samples(text) == {
        "raycurrent_train_learning_rate": 0.5,
        "raycurrent_train_learning_rate_ratio": 0.5,
        'raycurrent_train_corpus_loss_nats{corpus="1"}': 2.25,
        'raycurrent_train_task_loss_nats{task="1"}': 2.25,
    }
    assert b"# HELP raycurrent_train_task_loss_nats deprecated: use raycurrent_train_corpus_loss_nats\n" in text


@pytest.mark.skipif(not shutil.which("promtool"), reason="Debian's package prometheus is not installed")
def test_promtool_accepts_the_exported_text(own_folder: Path) -> None:
    test_every_metric_of_the_catalogue_is_exported(own_folder)
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=prometheus.render(own_folder), capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/metrics", 200),
        ("GET", "/metrics?name=x", 200),
        ("GET", "/healthz", 200),
        ("GET", "/", 404),
        ("GET", "/metrics/x", 404),
        ("POST", "/metrics", 404),
        ("DELETE", "/healthz", 404),
    ],
)
def test_only_get_metrics_and_healthz_are_served(
    server: metrics_server.MetricsServer, method: str, path: str, status: int
) -> None:
    assert get(server.port, path, method)[0] == status


def test_a_request_that_arrives_too_slowly_is_disconnected(server: metrics_server.MetricsServer) -> None:
    started_s = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as slow:
        slow.sendall(b"GET /metrics HTTP/1.1\r\n")
        with contextlib.suppress(OSError):
            while time.monotonic() - started_s < 5:
                slow.sendall(b"X")
                time.sleep(0.1)
    assert time.monotonic() - started_s < HEADER_TIMEOUT_S + 2


@pytest.fixture
def patient_server() -> Iterator[metrics_server.MetricsServer]:
    """A server that waits for a request longer than any test lasts."""
    running = metrics_server.MetricsServer("127.0.0.1", 0, lambda: b"up 1\n", 600)
    yield running
    running.close()


def is_closed(connection: socket.socket) -> bool:
    """Waits until the connection is closed by the server, which must happen soon."""
    connection.settimeout(10)
    with contextlib.suppress(ConnectionResetError):
        assert connection.recv(100) == b""
    return True


def test_half_open_connections_keep_no_scraper_out(patient_server: metrics_server.MetricsServer) -> None:
    port = patient_server.port
    with contextlib.ExitStack() as stack:
        for _ in range(metrics_server.MAX_CONNECTIONS + 20):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        for _ in range(5):  # each answer leaves a place that the next half-open connection takes
            assert get(port, "/metrics") == (200, b"up 1\n")
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))


def test_beyond_the_limit_the_connection_that_has_waited_longest_is_closed(
    patient_server: metrics_server.MetricsServer,
) -> None:
    with contextlib.ExitStack() as stack:
        first, *others, newest = [
            stack.enter_context(socket.create_connection(("127.0.0.1", patient_server.port), timeout=10))
            for _ in range(metrics_server.MAX_CONNECTIONS + 1)
        ]
        assert is_closed(first)
        for connection in (*others, newest):
            connection.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")


def test_a_connection_beyond_the_limit_is_closed_where_all_others_are_being_answered() -> None:
    release = threading.Event()

    def render() -> bytes:
        release.wait(60)
        return b"up 1\n"

    running = metrics_server.MetricsServer("127.0.0.1", 0, render, 600)
    with contextlib.ExitStack() as stack:
        connections = []
        for _ in range(metrics_server.MAX_CONNECTIONS):
            connections.append(stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=10)))
            connections[-1].sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        time.sleep(0.2)  # until all requests have been read
        newest = stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=10))
        assert is_closed(newest)
        release.set()
        for connection in connections:
            assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")
    running.close()


def test_a_header_that_is_too_long_is_disconnected(server: metrics_server.MetricsServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\n" + b"A" * 100_000)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(100) == b""


def test_a_run_publishes_its_target_and_saves_its_final_metrics(own_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    exporter = exporters(own_folder, run)
    exporter.metrics.count(catalog.PREPARE_TOKENS, 7)
    entry = json.loads((run / "targets.json").read_text())[0]
    assert entry["labels"] == {"job": "raycurrent", "run": "demo"}
    host, _, port = entry["targets"][0].partition(":")
    assert host == "127.0.0.1"
    assert samples(get(int(port), "/metrics")[1]) == {"raycurrent_prepare_tokens_total": 7}
    exporter.close(linger=True)
    assert json.loads((run / "targets.json").read_text())[0]["targets"] == []
    (final,) = run.glob("final-*.prom")
    assert samples(final.read_bytes()) == {"raycurrent_prepare_tokens_total": 7}
    with pytest.raises(ConnectionRefusedError):
        get(int(port), "/metrics")


def test_exporter_failures_do_not_stop_the_run(own_folder: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "run"
    blocked.write_text("no folder")
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        exporter = exporters(own_folder, blocked, metrics_port=port, pushgateway="http://127.0.0.1:9")
        exporter.metrics.count(catalog.PREPARE_TOKENS)
        assert exporter.targets() == []
        exporter.close(linger=True)


class Gateway(http.server.BaseHTTPRequestHandler):
    """A Pushgateway as its documentation has it: PUT replaces a group, POST the families of the same name."""

    groups: dict[str, dict[str, dict[str, float]]]

    def _take(self) -> None:
        pushed: dict[str, dict[str, float]] = {}
        for name, value in samples(self.rfile.read(int(self.headers["Content-Length"]))).items():
            pushed.setdefault(name.partition("{")[0], {})[name] = value
        before = self.groups.get(self.path, {}) if self.command == "POST" else {}
        self.groups[self.path] = {**before, **pushed}
        self.send_response(200)
        self.end_headers()

    do_PUT = do_POST = _take

    def log_message(self, format: str, *_: Any) -> None:
        pass


@pytest.fixture
def gateway() -> Iterator[tuple[str, dict[str, dict[str, dict[str, float]]]]]:
    """Address and content of a Pushgateway: groups, families, samples."""
    Gateway.groups = {}
    with http.server.HTTPServer(("127.0.0.1", 0), Gateway) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", Gateway.groups
        server.shutdown()


def test_a_verb_that_ends_takes_nothing_away_from_what_other_verbs_pushed(
    tmp_path: Path, gateway: tuple[str, dict[str, dict[str, dict[str, float]]]]
) -> None:
    address, groups = gateway
    for verb, attempt in (("train", "1"), ("score", "1"), ("train", "2")):
        try:
            exporter = exporters(tmp_path / verb / attempt, None, verb, pushgateway=address)
            exporter.metrics.set(catalog.LAST_SUCCESS, float(attempt), stage=verb)
            if attempt == "1" and verb == "train":
                exporter.metrics.set(catalog.TRAIN_LOSS, 2.5)  # one that finds its work done measures none
            exporter.close(linger=True)
        finally:
            os.environ.pop(prometheus.FOLDER_VARIABLE, None)
    host = socket.gethostname()
    success = "raycurrent_job_last_success_timestamp_seconds"
    assert groups == {
        "/metrics/job/raycurrent/run/demo/verb/train": {
            success: {f'{success}{{instance="{host}",stage="train"}}': 2},
            "raycurrent_train_loss_nats": {f'raycurrent_train_loss_nats{{instance="{host}"}}': 2.5},
        },
        "/metrics/job/raycurrent/run/demo/verb/score": {success: {f'{success}{{instance="{host}",stage="score"}}': 1}},
    }


def test_an_attempt_on_other_nodes_leaves_no_group_behind(
    own_folder: Path, gateway: tuple[str, dict[str, dict[str, dict[str, float]]]]
) -> None:
    metrics = prometheus.PrometheusMetrics(own_folder)
    metrics.count(catalog.TRAIN_STEPS, 3)
    metrics.observe(catalog.TRAIN_STEP_SECONDS, 0.1)
    text = prometheus.render(own_folder)
    address, groups = gateway
    for pods in (["pod-a", "pod-b"], ["pod-c"]):
        prometheus.push(address, "demo", "train", [(pod, text) for pod in pods])
    (families,) = groups.values()
    assert families["raycurrent_train_steps_total"] == {'raycurrent_train_steps_total{instance="pod-c",rank="0"}': 3}
    assert families["raycurrent_train_step_seconds_count"] == {
        'raycurrent_train_step_seconds_count{instance="pod-c",rank="0"}': 1
    }


@pytest.mark.parametrize(
    "answer", [b"-ERR unknown command\r\n", b"", b"HTTP/1.1 ", b"\0" * 70_000, b"HTTP/1.1 500 x\r\n\r\n"]
)
def test_an_address_that_does_not_answer_as_a_pushgateway_is_one_warning(
    own_folder: Path, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    def serve(listening: socket.socket) -> None:
        with listening.accept()[0] as connection:
            connection.recv(1 << 16)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, args=(listening,), daemon=True).start()
        port = listening.getsockname()[1]
        exporter = exporters(own_folder, None, pushgateway=f"http://127.0.0.1:{port}")
        exporter.metrics.count(catalog.PREPARE_TOKENS, 7)
        exporter.close(linger=True)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith(f"telemetry.pushgateway: cannot push metrics to http://127.0.0.1:{port}: ")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def query(port: int, expression: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?query={expression}", timeout=5) as answer:
        result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    return result


@pytest.mark.e2e
@pytest.mark.skipif(not shutil.which("prometheus"), reason="Debian's package prometheus is not installed")
def test_prometheus_discovers_the_run_and_scrapes_its_metrics(own_folder: Path, tmp_path: Path) -> None:
    run, port = tmp_path / "run", free_port()
    exporter = exporters(own_folder, run)
    exporter.metrics.count(catalog.PREPARE_TOKENS, 7)
    settings = tmp_path / "prometheus.yml"
    settings.write_text(
        "global: {scrape_interval: 1s}\n"
        f"scrape_configs: [{{job_name: raycurrent, file_sd_configs: [{{files: ['{run}/targets.json']}}]}}]\n"
    )
    options = [f"--config.file={settings}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    command = ["prometheus", *options, f"--web.listen-address=127.0.0.1:{port}"]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            result: list[dict[str, Any]] = []
            deadline_s = time.monotonic() + 30
            while not result and time.monotonic() < deadline_s:
                time.sleep(0.5)
                with contextlib.suppress(OSError):
                    result = query(port, "raycurrent_prepare_tokens_total")
        finally:
            process.terminate()
    exporter.close(linger=False)
    assert [(sample["metric"]["run"], sample["value"][1]) for sample in result] == [("demo", "7")]


def test_the_target_of_a_wildcard_is_an_address_that_reaches_the_exporter(tmp_path: Path) -> None:
    exporter = prometheus.NodeExporter(str(tmp_path / "metrics"), "0.0.0.0", 0)
    try:
        target = str(exporter.target())
        host = target.rpartition(":")[0]
        ipaddress.ip_address(host.strip("[]"))  # Prometheus need not resolve a name that only this machine knows
        assert host not in prometheus.WILDCARDS
        with urllib.request.urlopen(f"http://{target}/metrics", timeout=10) as reply:
            assert reply.status == 200
    finally:
        exporter.close()


def test_without_a_network_the_target_has_the_host_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoRoute(socket.socket):
        def connect(self, _: Any) -> None:
            raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "socket", NoRoute)
    assert prometheus.own_address() == socket.gethostname()
