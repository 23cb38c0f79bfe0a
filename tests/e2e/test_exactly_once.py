"""Exactly-once results: the same bytes after the death of a worker or driver, and no part is done twice."""

import random
import signal
import time
from pathlib import Path

import pytest

from tests.e2e import driving, inference, preparation


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> inference.TranslationWorkload:
    workspace = inference.TranslationWorkload(tmp_path_factory.mktemp("inference"))
    workspace.translate("whole")
    return workspace


@pytest.mark.ray
def test_a_translation_whose_worker_is_killed_has_the_same_bytes(
    workspace: inference.TranslationWorkload, drive: driving.Drive, chance: random.Random
) -> None:
    driver = drive(*workspace.arguments("killed", num_workers=2))
    driver.until(lambda: workspace.committed("killed") >= 4, "4 parts")
    time.sleep(chance.uniform(0, 0.2))
    chance.choice(driver.workers("_Host")).signal(signal.SIGKILL)
    report = driver.end().document()
    assert (report["lines"], report["errors"]) == (workspace.num_lines, 1)
    assert workspace.outcome("killed") == workspace.outcome("whole")


@pytest.mark.ray
def test_a_stream_whose_worker_is_killed_has_the_same_scores(
    tmp_path: Path, drive: driving.Drive, chance: random.Random
) -> None:
    workspace = inference.ScoringWorkload(tmp_path)
    whole = workspace.score("whole")
    # With one part for each lane no state is carried from part to part.
    undivided = workspace.score("uncut", part_lines=workspace.num_lines)
    assert whole["nll_nats"] == pytest.approx(undivided["nll_nats"], rel=1e-6)
    driver = drive(*workspace.arguments("killed", num_workers=2))
    driver.until(lambda: workspace.committed("killed") >= 6, "6 parts")
    before = workspace.parts("killed")
    time.sleep(chance.uniform(0, 0.2))
    driver.kill_at_work("_Host.work", chance)
    report = driver.end().document()
    assert (report["lines"], report["errors"], report["lanes"]) == (workspace.num_lines, 1, 2)
    assert workspace.outcome("killed") == workspace.outcome("whole")
    after = workspace.parts("killed")
    assert {name: after[name] for name in before} == before
    # One part was started twice; each was committed once.
    assert workspace.fanout_counts() == {"done": workspace.committed("whole"), "retried": 1, "worker_deaths": 1}


@pytest.mark.e2e
def test_the_same_command_finishes_a_translation_whose_driver_was_killed(
    workspace: inference.TranslationWorkload, drive: driving.Drive
) -> None:
    """A second driver is refused while the first is alive; parts that the first committed are not done again."""
    command = workspace.arguments("again", address="none")
    first = drive(*command)
    first.until(lambda: workspace.committed("again") >= 4, "4 parts")
    first.signal(signal.SIGSTOP)
    driving.check_refused(drive(*command).end(), "translate")
    first.kill()
    before = workspace.parts("again")
    assert not (workspace.folder / "again" / "_MANIFEST.json").exists()
    drive(*command).end().document()
    after = workspace.parts("again")
    assert {name: after[name] for name in before} == before
    assert workspace.outcome("again") == workspace.outcome("whole")


@pytest.mark.e2e
def test_the_same_command_finishes_a_dataset_whose_driver_was_killed(tmp_path: Path, drive: driving.Drive) -> None:
    workspace = preparation.Workspace(tmp_path)
    workspace.prepare("whole")
    command = workspace.arguments("killed", address="none")
    dataset = workspace.dataset("killed")
    first = drive(*command)
    first.until(lambda: len(list(dataset.glob("train/part-*.arrow"))) >= 5, "5 shards")
    first.kill()
    assert not (dataset / "index.json").exists()
    done = workspace.records("killed")
    report = drive(*command).end().document()
    assert (report["lines_read"], report["already_done"]) == (workspace.num_lines, False)
    workspace.check_same("killed", "whole", done)
