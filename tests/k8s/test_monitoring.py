"""Alert rules and dashboard: their metrics exist, and each alert fires when it should and not before."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.telemetry import catalog
from jobs import settings
from tests.k8s import manifests, watching

ALERTS = watching.rules()["groups"][0]["rules"]
needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="Debian's package prometheus is not installed")
# Changes that break each rule: (text, replacement).
MUTATIONS = {
    "RaycurrentTrainingStalled": [("== 0", "== 1"), ('stage="train"', 'stage="prepare"'), ("[15m]", "[3h]")],
    "RaycurrentNonFiniteSteps": [("> 0", ">= 0")],
    "RaycurrentTrainingRestarts": [("> 3", "> 30"), ("[1h]", "[2m]")],
    "RaycurrentCheckpointOld": [("> 3600", "> 36000"), ('stage="train"', 'stage="prepare"')],
    "RaycurrentCheckpointFallback": [("> 0", ">= 0"), ("> 0", "> 1")],
    "RaycurrentFanoutErrors": [("> 0.1", "> 0.9"), ("retried|failed", "failed"), ("retried|failed", "done")],
    "RaycurrentPartsRetried": [('"retried"', '"failed"'), ("> 0", ">= 0")],
    "RaycurrentExporterDown": [("== 0", "== 1"), (' and on (run) (max by (run) (up{job="raycurrent"}) == 1)', "")],
}


def promtool(folder: Path, rules: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    tests = folder / "rules_test.yaml"
    tests.write_text((Path(__file__).parent / "rules_test.yaml").read_text())
    return subprocess.run(["promtool", "test", "rules", str(tests)], capture_output=True, text=True, check=False)


@needs_promtool
def test_each_alert_fires_when_it_should(tmp_path: Path) -> None:
    done = promtool(tmp_path, watching.rules())
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_mutations_that_are_tested() -> None:
    assert set(MUTATIONS) == {alert["alert"] for alert in ALERTS}


@needs_promtool
@pytest.mark.parametrize(("name", "old", "new"), [(name, *fault) for name in MUTATIONS for fault in MUTATIONS[name]])
def test_a_broken_rule_is_detected(tmp_path: Path, name: str, old: str, new: str) -> None:
    rules = watching.rules()
    (alert,) = (alert for alert in rules["groups"][0]["rules"] if alert["alert"] == name)
    assert old in alert["expr"]
    alert["expr"] = alert["expr"].replace(old, new)
    assert promtool(tmp_path, rules).returncode != 0


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_alerts_have_a_severity_a_summary_and_a_description(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    assert "{{ $labels.run }}" in alert["annotations"]["summary"]
    assert len(alert["annotations"]["description"].split(".")) > 1


def series_names() -> set[str]:
    endings = {"counter": [""], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
    return {metric.name + ending for metric in catalog.ALL for ending in endings[metric.kind]}


def test_rules_and_panels_use_existing_metrics() -> None:
    texts = [alert["expr"] for alert in ALERTS]
    texts += [text for panel in watching.panels() for text in watching.expressions(panel)]
    names = {name for text in texts for name in re.findall(r"\braycurrent_\w+", text)}
    assert names <= series_names()


def test_every_metric_is_on_the_dashboard() -> None:
    shown = " ".join(text for panel in watching.panels() for text in watching.expressions(panel))
    assert [metric.name for metric in catalog.ALL if metric.name not in shown] == []


def test_the_dashboard_has_four_rows() -> None:
    rows = [panel for panel in watching.dashboard()["panels"] if panel["type"] == "row"]
    assert [row["title"] for row in sorted(rows, key=lambda row: row["gridPos"]["y"])] == [
        "Progress",
        "Quality",
        "Performance",
        "Failures",
    ]


def test_panels_do_not_overlap_and_are_described() -> None:
    occupied: set[tuple[int, int]] = set()
    for panel in watching.dashboard()["panels"]:
        grid = panel["gridPos"]
        cells = {
            (x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not cells & occupied, panel["title"]
        assert grid["x"] + grid["w"] <= 24
        occupied |= cells
    assert all(panel["description"] for panel in watching.panels())
    numbers = [panel["id"] for panel in watching.dashboard()["panels"]]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.e2e
@pytest.mark.skipif(not shutil.which("prometheus"), reason="Debian's package prometheus is not installed")
def test_make_monitoring_scrapes_the_demo_by_default(tmp_path: Path) -> None:
    """Runs the target of the Makefile in a folder that has a run of the demo."""
    root, _ = settings.load_demo_configs([])
    (tmp_path / root / "metrics").mkdir(parents=True)
    entry = {"targets": ["127.0.0.1:9"], "labels": {"job": "raycurrent", "run": "demo"}}
    (tmp_path / root / "metrics" / "targets.json").write_text(json.dumps([entry]))
    (tmp_path / "k8s").symlink_to(manifests.KUBERNETES)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    makefile = manifests.KUBERNETES.parent / "Makefile"
    own = (f"BIN={Path(sys.executable).parent}", f"WATCH={tmp_path}/watch", f"PROMETHEUS_PORT={port}")
    command = ["make", f"--file={makefile}", "--old-file=setup", "monitoring", *own]
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True) as process,
    ):
        try:
            server = watching.Prometheus(port)
            server.wait()
            deadline_s = time.monotonic() + watching.START_S
            while not (targets := server.ask("targets")["activeTargets"]):
                assert time.monotonic() < deadline_s, "it has no targets"
                time.sleep(0.2)
            assert [target["labels"]["run"] for target in targets] == ["demo"]
            (group,) = server.ask("rules")["groups"]
            assert [rule["name"] for rule in group["rules"]] == [alert["alert"] for alert in ALERTS]
        finally:
            os.killpg(process.pid, signal.SIGTERM)
