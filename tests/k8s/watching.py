"""A real Prometheus that scrapes a run, and the queries of the dashboard."""

import contextlib
import json
import math
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from core.telemetry import catalog
from tests.k8s import manifests

MONITORING = manifests.KUBERNETES / "base" / "monitoring"
RATE_INTERVAL = "10s"
OF_SEVERAL_CORPORA = (catalog.TRAIN_COSINE.name, "Gradient cosine between corpora")  # empty for a single corpus
START_S = 30.0


def rules() -> dict[str, Any]:
    """Returns the alert rules as Prometheus reads them."""
    spec: dict[str, Any] = yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]
    return spec


def dashboard() -> dict[str, Any]:
    """Returns the Grafana dashboard."""
    content: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
    return content


def panels() -> list[dict[str, Any]]:
    """Returns the panels without the row headings."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def expressions(panel: dict[str, Any]) -> list[str]:
    """Returns the queries of a panel, with Grafana's variables replaced."""
    queries = [target["expr"].replace("$run", ".*") for target in panel["targets"]]
    return [query.replace("$__rate_interval", RATE_INTERVAL) for query in queries]


class Prometheus:
    """Client of a Prometheus server on this machine."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.started_s = time.time()

    def ask(self, path: str, **parameters: str) -> Any:
        """Returns the data of an API call.

        Raises:
            AssertionError: the server rejects the call; with its message.
        """
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def wait(self) -> None:
        """Waits until the server is ready."""
        deadline_s = time.monotonic() + START_S
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=5).close()
            except OSError:  # not listening yet, or not ready
                assert time.monotonic() < deadline_s, "Prometheus did not become ready"
                time.sleep(0.2)
            else:
                return

    def series(self, expression: str) -> list[list[float]]:
        """Returns the finite values of each series of an expression, per second since the server was started."""
        span = {"start": f"{self.started_s:.0f}", "end": f"{time.time():.0f}", "step": "1"}
        result = self.ask("query_range", query=expression, **span)["result"]
        values = [[float(value) for _, value in series["values"]] for series in result]
        return [[value for value in row if math.isfinite(value)] for row in values]


def check_everything_is_measured(
    server: Prometheus, silent: Collection[str] = (), alerts: Collection[str] = ()
) -> None:
    """Asserts that each metric was scraped, each panel has data, and each rule can be evaluated.

    Args:
        server: has scraped a whole pipeline.
        silent: names of metrics and titles of panels that may be empty.
        alerts: rules that may fire.
    """
    names = {metric.name + ("_count" if metric.kind == "histogram" else "") for metric in catalog.ALL}
    empty = [name for name in sorted(names) if not any(server.series(name))]
    queries = [(panel["title"], query) for panel in panels() for query in expressions(panel)]
    empty += [title for title, query in queries if not any(server.series(query))]
    missing = [name for name in empty if name not in silent]
    assert not missing, missing
    (group,) = server.ask("rules")["groups"]
    health = {rule["name"]: rule["health"] for rule in group["rules"]}
    assert health == {rule["alert"]: "ok" for rule in rules()["groups"][0]["rules"]}
    others = [alert for alert in server.ask("alerts")["alerts"] if alert["labels"]["alertname"] not in alerts]
    assert not others, others


@contextlib.contextmanager
def prometheus(folder: Path, targets: Sequence[Path]) -> Iterator[Prometheus]:
    """Starts a server that scrapes the targets in these files every second, with the alert rules."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules()))
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [
            {
                "job_name": "raycurrent",
                "file_sd_configs": [{"files": [str(file) for file in targets], "refresh_interval": "1s"}],
            }
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    options = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    command = ["prometheus", *options, f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            server = Prometheus(port)
            server.wait()
            yield server
        finally:
            process.terminate()
