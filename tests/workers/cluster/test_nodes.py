"""Checkpoint requests when nodes drain, and recounts of the resources when nodes come or go."""

import pathlib
import types
from typing import Any

import pytest

from workers.cluster import nodes


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Fakes what Ray reports of the nodes, and the clock; counts the recounts."""
    reported: dict[str, Any] = {
        "alive": {"a": "10.0.0.1", "b": "10.0.0.2"},
        "draining": {},
        "now_s": 1000.0,
        "recounts": 0,
    }

    def recount() -> None:
        reported["recounts"] += 1

    monkeypatch.setattr(nodes, "alive", lambda: dict(reported["alive"]))
    monkeypatch.setattr(nodes, "draining", lambda: dict(reported["draining"]))
    monkeypatch.setattr(nodes, "recount", recount)
    monkeypatch.setattr("time.monotonic", lambda: reported["now_s"])
    monkeypatch.setattr("time.time", lambda: reported["now_s"])
    return reported


def test_ranks_save_when_a_node_starts_draining_and_just_before_its_deadline(cluster: dict[str, Any]) -> None:
    node_monitor = nodes.NodeMonitor()
    saved_at_s = []
    for second in range(60):
        cluster["now_s"] = 1000.0 + second
        cluster["draining"] = {"b": 1040.0} if second >= 5 else {}
        if node_monitor.needs_checkpoint(frozenset("ab")):
            saved_at_s.append(second)
    assert saved_at_s == [5, 40 - nodes.LAST_SAVE_S + 1]


@pytest.mark.parametrize(
    ("draining", "calls"),
    [({"elsewhere": 1001.0}, 0), ({"b": float("inf")}, 1), ({"b": 1001.0}, 1), ({"a": 1001.0, "b": 1001.0}, 1)],
)
def test_only_nodes_with_ranks_request_a_checkpoint(
    cluster: dict[str, Any], draining: dict[str, float], calls: int
) -> None:
    node_monitor = nodes.NodeMonitor()
    cluster["draining"] = draining
    requests = []
    for second in range(5):
        cluster["now_s"] = 1000.0 + 2 * second
        requests.append(node_monitor.needs_checkpoint(frozenset("ab")))
    assert sum(requests) == calls


def test_a_lost_or_new_node_triggers_one_recount(cluster: dict[str, Any]) -> None:
    node_monitor = nodes.NodeMonitor()
    recounts = []
    for alive in ({"a": ""}, {"a": ""}, {"a": "", "c": ""}):
        cluster["now_s"] += nodes.CHECK_INTERVAL_S
        cluster["alive"] = alive
        node_monitor.needs_checkpoint(frozenset())
        node_monitor.needs_checkpoint(frozenset())
        recounts.append(cluster["recounts"])
    assert recounts == [1, 1, 2]


@pytest.mark.parametrize(
    ("draining", "expected"),
    [
        ({}, None),
        ({"other": 5.0}, None),
        ({"other": 5.0, "own": 40.0}, 40.0),
        ({"head": 30.0}, 30.0),
        ({"own": 40.0, "head": 30.0}, 30.0),
        ({"own": float("inf")}, float("inf")),
    ],
)
def test_the_run_departs_with_the_node_of_its_driver_and_with_the_head(
    monkeypatch: pytest.MonkeyPatch, draining: dict[str, float], expected: float | None
) -> None:
    resources = {"own": {"CPU": 1.0}, "other": {"CPU": 1.0}, "head": {nodes.HEAD_RESOURCE: 1.0}}
    listed = [{"NodeID": node, "Resources": amounts} for node, amounts in resources.items()]
    monkeypatch.setattr(nodes, "draining", lambda: draining)
    monkeypatch.setattr(nodes, "ray", lambda: types.SimpleNamespace(nodes=lambda: listed))
    assert nodes.departure_s("own") == expected


def test_a_dead_worker_prints_one_short_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ray._private import worker

    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)
    nodes.shorten_raylet_errors.cache_clear()
    nodes.shorten_raylet_errors()
    # As Ray 2.60 writes it, with shorter ids.
    line = (
        "A worker died or was killed while executing a task by an unexpected system error. To troubleshoot the "
        "problem, check the logs for the dead worker. Lease ID: 02 Worker ID: c3 Node ID: 53 Worker IP address: "
        "192.0.2.2 Worker port: 46233 Worker PID: 31996 Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
        "unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process"
    )
    worker.print_to_stdstream({"lines": [line, "another"], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("killed while executing a task by an unexpected system error (process 31996 on 192.0.2.2)")
    assert second.endswith("another")


def test_a_lost_node_prints_one_line_without_the_log_of_its_raylet(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ray._private import process_watcher, worker

    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)
    nodes.shorten_raylet_errors.cache_clear()
    nodes.shorten_raylet_errors()
    published: list[str] = []
    monkeypatch.setattr("ray._private.utils.publish_error_to_driver", lambda _, text, **__: published.append(text))
    (tmp_path / "raylet.out").write_text("[state-dump] NodeManager:\n" * 30)
    process_watcher.report_raylet_error_logs(str(tmp_path), None)
    assert len(published[0].splitlines()) > 20
    worker.print_to_stdstream({"lines": published, "pid": "raylet", "is_err": False}, ignore_prefix=False)
    worker.print_to_stdstream({"lines": ["of a worker"], "pid": 7, "ip": "x", "is_err": False}, ignore_prefix=False)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2
    assert "Raylet is terminated. Termination is unexpected" in printed[0]
    assert "of a worker" in printed[1]
