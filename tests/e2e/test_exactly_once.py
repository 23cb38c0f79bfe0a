"""What is done is done once: whoever dies, the bytes are the same, and nothing is done again."""

import random
import signal
import time
from pathlib import Path

import pytest

from tests.e2e import driving, inference, preparation


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> inference.Place:
    made = inference.Place(tmp_path_factory.mktemp("inference"))
    made.translate("whole")
    return made


@pytest.mark.ray
def test_a_translation_whose_worker_is_killed_has_the_same_bytes(
    place: inference.Place, drive: driving.Drive, chance: random.Random
) -> None:
    driver = drive(*place.arguments("killed", num_workers=2))
    driver.until(lambda: place.committed("killed") >= 4, "4 parts")
    time.sleep(chance.uniform(0, 0.2))
    chance.choice(driver.workers("_Host")).signal(signal.SIGKILL)
    report = driver.end().document()
    assert (report["lines"], report["errors"]) == (place.num_lines, 1)
    assert place.outcome("killed") == place.outcome("whole")


@pytest.mark.ray
def test_a_stream_whose_worker_is_killed_has_the_same_scores(
    tmp_path: Path, drive: driving.Drive, chance: random.Random
) -> None:
    place = inference.StreamPlace(tmp_path)
    whole = place.score("whole")
    # With one part for each lane nothing is carried.
    uncut = place.score("uncut", part_lines=place.num_lines)
    assert whole["nll_nats"] == pytest.approx(uncut["nll_nats"], rel=1e-6)
    driver = drive(*place.arguments("killed", num_workers=2))
    driver.until(lambda: place.committed("killed") >= 6, "6 parts")
    before = place.parts("killed")
    time.sleep(chance.uniform(0, 0.2))
    driver.kill_at_work("_Host.work", chance)
    report = driver.end().document()
    assert (report["lines"], report["errors"], report["lanes"]) == (place.num_lines, 1, 2)
    assert place.outcome("killed") == place.outcome("whole")
    after = place.parts("killed")
    assert {name: after[name] for name in before} == before
    # One part was begun twice; each was done once.
    assert place.counted() == {"done": place.committed("whole"), "retried": 1, "worker_deaths": 1}


@pytest.mark.e2e
def test_a_translation_whose_driver_is_killed_is_finished_by_the_same_command(
    place: inference.Place, drive: driving.Drive
) -> None:
    """A second driver is kept out while the first lives; what the first has committed is not done again."""
    command = place.arguments("again", address="none")
    first = drive(*command)
    first.until(lambda: place.committed("again") >= 4, "4 parts")
    first.signal(signal.SIGSTOP)
    driving.check_refused(drive(*command).end(), "translate")
    first.kill()
    before = place.parts("again")
    assert not (place.folder / "again.jsonl").exists()
    drive(*command).end().document()
    after = place.parts("again")
    assert {name: after[name] for name in before} == before
    assert place.outcome("again") == place.outcome("whole")


@pytest.mark.e2e
def test_a_dataset_whose_driver_is_killed_is_finished_by_the_same_command(tmp_path: Path, drive: driving.Drive) -> None:
    place = preparation.Workspace(tmp_path)
    place.prepare("whole")
    command = place.arguments("killed", address="none")
    dataset = place.dataset("killed")
    first = drive(*command)
    first.until(lambda: len(list(dataset.glob("train/part-*.arrow"))) >= 5, "5 shards")
    first.kill()
    assert not (dataset / "index.json").exists()
    done = place.records("killed")
    report = drive(*command).end().document()
    assert (report["lines_read"], report["already_done"]) == (place.num_lines, False)
    place.check_same("killed", "whole", done)
