"""Submitted jobs on several nodes: a node goes, with notice and without, and one does not see the run's folder."""

import time
from pathlib import Path

import pytest

from tests.e2e import driving, inference, nodes, runs

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]

NOTICE_S = 15  # clouds give 30 s and more


def test_training_goes_on_with_fewer_ranks_when_a_node_goes(tmp_path: Path, drive: driving.Drive) -> None:
    run = runs.Place(tmp_path).run("text", "run")
    with nodes.started(drive, 3) as cluster:
        driver = drive("submit", "train", run.config, *runs.ELASTIC, "--address", cluster.job_server)
        saved = driver.until(run.beyond(40), "step 40")
        cluster.kill_node(1)
        gone_s = time.monotonic()
        driver.until(run.beyond(1, 2), "a checkpoint of start 2", runs.GONE_S)
        print("seconds from the end of a node to the next checkpoint:", time.monotonic() - gone_s)
        report = driver.end().document()
    runs.check_went_on(run, report, saved)


def test_a_node_that_is_drained_gets_its_checkpoint_in(tmp_path: Path, drive: driving.Drive) -> None:
    """No checkpoint is due before the end of the first epoch: what is saved earlier, the notice caused."""
    run = runs.Place(tmp_path).run("text", "run")
    settings = ("training.checkpoint_every_steps=100000", "training.window=2", "training.epochs=2")
    longer = [word for setting in settings for word in ("--set", setting)]
    with nodes.started(drive, 3) as cluster:
        driver = drive("submit", "train", run.config, *runs.ELASTIC, *longer, "--address", cluster.job_server)
        driver.until(lambda: "tokens/s" in driver.log(), "the first step")
        told_s = time.monotonic()
        cluster.drain_node(1, NOTICE_S, drive)
        saved = driver.until(run.beyond(1), "a checkpoint", NOTICE_S)
        print("seconds from the notice to the checkpoint:", time.monotonic() - told_s, "at step", saved)
        assert run.rows(1)[-1]["epoch"] == 0, "the first epoch was over before"
        time.sleep(max(0.0, told_s + NOTICE_S - time.monotonic()))
        cluster.kill_node(1)
        gone_s = time.monotonic()
        driver.until(run.beyond(1, 2), "a checkpoint of start 2", runs.GONE_S)
        print("seconds from the end of the node to the next checkpoint:", time.monotonic() - gone_s)
        report = driver.end().document()
    runs.check_went_on(run, report, saved)


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
    assert "does not see this folder; use one that all nodes share" in ended.log
    assert run.starts() == 0
    assert run.reached() is None
