"""A real Prometheus over the files of a run, and what a dashboard asks it."""

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

MONITORING = manifests.KUBERNETES / "base" / "platform" / "monitoring"
RATE_INTERVAL = "10s"
OF_SEVERAL_CORPORA = (catalog.TRAIN_COSINE.name, "Cosine between gradients of corpora")  # silent where there is one
START_S = 30.0


def rules() -> dict[str, Any]:
    """The alert rules as Prometheus reads them."""
    spec: dict[str, Any] = yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]
    return spec


def dashboard() -> dict[str, Any]:
    """Grafana's dashboard."""
    found: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
    return found


def panels() -> list[dict[str, Any]]:
    """The panels that show something."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def expressions(panel: dict[str, Any]) -> list[str]:
    """What a panel asks, with Grafana's variables filled in."""
    filled = [target["expr"].replace("$run", ".*") for target in panel["targets"]]
    return [text.replace("$__rate_interval", RATE_INTERVAL) for text in filled]


class Prometheus:
    """A server that runs, on a port of its own."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.started_s = time.time()

    def ask(self, path: str, **parameters: str) -> Any:
        """Its answer; AssertionError with its words if it refuses."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def wait(self) -> None:
        """Until it answers."""
        deadline_s = time.monotonic() + START_S
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=5).close()
            except OSError:  # nobody listens, or it says that it is not ready
                assert time.monotonic() < deadline_s, "Prometheus does not answer"
                time.sleep(0.2)
            else:
                return

    def series(self, expression: str) -> list[list[float]]:
        """The finite values of each series that an expression had, second by second, since the server was started."""
        span = {"start": f"{self.started_s:.0f}", "end": f"{time.time():.0f}", "step": "1"}
        found = self.ask("query_range", query=expression, **span)["result"]
        values = [[float(value) for _, value in series["values"]] for series in found]
        return [[value for value in one if math.isfinite(value)] for one in values]


def check_everything_is_measured(
    server: Prometheus, silent: Collection[str] = (), alerts: Collection[str] = ()
) -> None:
    """Each metric of the catalogue was scraped, each panel shows something, each rule can be evaluated.

    Args:
        server: has watched a whole pipeline.
        silent: metrics and titles of panels that have nothing to say in it.
        alerts: rules that may have something to say.
    """
    names = {metric.name + ("_count" if metric.kind == "histogram" else "") for metric in catalog.ALL}
    empty = [name for name in sorted(names) if not any(server.series(name))]
    asked = [(panel["title"], text) for panel in panels() for text in expressions(panel)]
    empty += [title for title, text in asked if not any(server.series(text))]
    missing = [found for found in empty if found not in silent]
    assert not missing, missing
    (group,) = server.ask("rules")["groups"]
    health = {rule["name"]: rule["health"] for rule in group["rules"]}
    assert health == {rule["alert"]: "ok" for rule in rules()["groups"][0]["rules"]}
    others = [alert for alert in server.ask("alerts")["alerts"] if alert["labels"]["alertname"] not in alerts]
    assert not others, others


@contextlib.contextmanager
def prometheus(folder: Path, targets: Sequence[Path]) -> Iterator[Prometheus]:
    """A server that watches these files of targets, every second, with the alert rules."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
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
