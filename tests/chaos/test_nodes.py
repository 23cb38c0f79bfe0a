"""Submitted jobs on several nodes: a node is lost, with and without notice, or has no access to the run's folder."""

import time
from pathlib import Path

import pytest

from tests.e2e import driving, inference, nodes, runs

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]

NOTICE_S = 15  # clouds give at least 30 s
LONG_NOTICE_S = 120  # the end must come from the notice, not from the loss of the node


def test_training_continues_with_fewer_ranks_when_a_node_dies(tmp_path: Path, drive: driving.Drive) -> None:
    run = runs.Workspace(tmp_path).run("text", "run")
    with nodes.started(drive, 3) as cluster:
        driver = drive("submit", "train", run.config, *runs.ELASTIC, "--address", cluster.job_server)
        saved = driver.until(run.beyond(40), "step 40")
        cluster.kill_node(1)
        gone_s = time.monotonic()
        driver.until(run.beyond(1, 2), "a checkpoint of start 2", runs.GONE_S)
        print("seconds from the end of a node to the next checkpoint:", time.monotonic() - gone_s)
        report = driver.end().document()
    runs.check_went_on(run, report, saved)


def test_draining_a_node_saves_a_checkpoint_first(tmp_path: Path, drive: driving.Drive) -> None:
    """No checkpoint is due before the end of the first epoch, so an earlier one was caused by the notice."""
    run = runs.Workspace(tmp_path).run("text", "run")
    settings = ("training.checkpoint_every_steps=100000", "training.window=2", "training.epochs=2")
    longer = [word for setting in settings for word in ("--set", setting)]
    with nodes.started(drive, 3) as cluster:
        driver = drive("submit", "train", run.config, *runs.ELASTIC, *longer, "--address", cluster.job_server)
        driver.until(lambda: "tokens/s" in driver.log(), "the first step")
        notified_s = time.monotonic()
        cluster.drain_node(1, NOTICE_S, drive)
        saved = driver.until(run.beyond(1), "a checkpoint", NOTICE_S)
        print("seconds from the notice to the checkpoint:", time.monotonic() - notified_s, "at step", saved)
        assert run.rows(1)[-1]["epoch"] == 0, "the first epoch was over before"
        time.sleep(max(0.0, notified_s + NOTICE_S - time.monotonic()))
        cluster.kill_node(1)
        gone_s = time.monotonic()
        driver.until(run.beyond(1, 2), "a checkpoint of start 2", runs.GONE_S)
        print("seconds from the end of the node to the next checkpoint:", time.monotonic() - gone_s)
        report = driver.end().document()
    runs.check_went_on(run, report, saved)


def test_a_run_whose_head_is_drained_is_saved_and_ends_at_once(tmp_path: Path, drive: driving.Drive) -> None:
    """The same command goes on from the very step in another cluster, as KubeRay lets it."""
    run = runs.Workspace(tmp_path).run("text", "run")
    settings = ("training.checkpoint_every_steps=100000", "training.window=4", "training.epochs=1")
    longer = [word for setting in settings for word in ("--set", setting)]
    command = ("submit", "train", run.config, *longer)
    with nodes.started(drive, 3) as cluster:
        driver = drive(*command, "--address", cluster.job_server)
        driver.until(lambda: "tokens/s" in driver.log(), "the first step")
        notified_s = time.monotonic()
        cluster.drain_node(0, LONG_NOTICE_S, drive)
        ended = driver.end(LONG_NOTICE_S)
        print("seconds from the notice to the end of the run:", time.monotonic() - notified_s)
    assert ended.code == 143, ended.log
    assert "the driver's node or the head leaves in " in ended.log
    saved = run.newest_step()
    assert f"train: stopped at step {saved}, saved in " in ended.log
    with nodes.started(drive, 3) as cluster:
        report = drive(*command, "--address", cluster.job_server).end().document()
    runs.check_went_on(run, report, saved)


def test_a_translation_has_the_same_bytes_when_a_node_dies(tmp_path: Path, drive: driving.Drive) -> None:
    workspace = inference.TranslationWorkload(tmp_path, num_lines=1200)
    with nodes.started(drive, 3) as cluster:
        command = ("submit", *workspace.arguments("run", num_workers=3), "--address", cluster.job_server)
        driver = drive(*command)
        driver.until(lambda: workspace.committed("run") >= 8, "8 parts")
        cluster.kill_node(2)
        driver.end().document()
    workspace.translate("whole")
    assert workspace.outcome("run") == workspace.outcome("whole")


def test_a_node_without_access_to_the_run_is_refused_before_training(tmp_path: Path, drive: driving.Drive) -> None:
    run = runs.Workspace(tmp_path).run("text", "run")
    with nodes.started(drive, 2, hidden=str(run.root)) as cluster:
        ended = drive("submit", "train", run.config, "--address", cluster.job_server).end()
    assert ended.code == 2, ended.log
    assert "does not see this folder; use one that all nodes share" in ended.log
    assert run.starts() == 0
    assert run.reached() is None
