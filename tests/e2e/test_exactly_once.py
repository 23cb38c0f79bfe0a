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
    place = preparation.Place(tmp_path)
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
