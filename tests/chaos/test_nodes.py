"""Submitted jobs on several nodes: a node goes, and one does not see the run's folder."""

import time
from pathlib import Path

import pytest

from tests.e2e import driving, inference, nodes, runs

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]

GONE_S = 150.0  # from the end of a node to the next checkpoint of the ranks that are left


def test_training_goes_on_with_fewer_ranks_when_a_node_goes(tmp_path: Path, drive: driving.Drive) -> None:
    run = runs.Place(tmp_path).run("text", "run")
    elastic = ("--set", "cluster.num_workers={min: 1, max: 3}", "--set", "training.epochs=3")
    with nodes.started(drive, 3) as cluster:
        driver = drive("submit", "train", run.config, *elastic, "--address", cluster.job_server)
        driver.until(run.beyond(40), "step 40")
        cluster.kill_node(1)
        gone_s = time.monotonic()
        driver.until(run.beyond(1, 2), "a checkpoint of start 2", GONE_S)
        print("seconds from the end of a node to the next checkpoint:", time.monotonic() - gone_s)
        report = driver.end().document()
    assert report["start"] >= 2
    assert report["world_size"] == 2
    steps = [row["step"] for row in run.rows() if row["kind"] == "step"]
    assert steps == sorted(set(steps))
    assert run.state()["step"] == report["step"]


def test_a_translation_has_the_same_bytes_when_a_node_goes(tmp_path: Path, drive: driving.Drive) -> None:
    place = inference.Place(tmp_path, num_lines=1200)
    with nodes.started(drive, 3) as cluster:
        command = ("submit", *place.arguments("run", num_workers=3), "--address", cluster.job_server)
        driver = drive(*command)
        driver.until(lambda: place.committed("run") >= 8, "8 parts")
        cluster.kill_node(2)
        driver.end().document()
    place.translate("whole")
    assert place.outcome("run") == place.outcome("whole")


def test_a_node_that_does_not_see_the_run_is_told_before_any_work(tmp_path: Path, drive: driving.Drive) -> None:
    run = runs.Place(tmp_path).run("text", "run")
    with nodes.started(drive, 2, unseen=str(run.root)) as cluster:
        ended = drive("submit", "train", run.config, "--address", cluster.job_server).end()
    assert ended.code == 2, ended.log
    assert "does not see it; use a folder that all nodes share" in ended.log
    assert run.starts() == 0
    assert run.reached() is None
