"""Translating and scoring on Ray while workers and drivers die: the bytes are the same, and each part is done once."""

import random
import signal
import time
from pathlib import Path

import pytest

from core.config import inference_settings
from tests.e2e import driving, inference

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> inference.Place:
    made = inference.Place(tmp_path_factory.mktemp("inference"), num_lines=3000)
    made.translate("whole")
    return made


@pytest.mark.parametrize(("num_workers", "deaths"), [(1, 0), (2, 0), (4, 0), (2, 1), (2, 3), (4, 3)])
def test_bytes_depend_neither_on_the_number_of_workers_nor_on_deaths(
    place: inference.Place, drive: driving.Drive, chance: random.Random, num_workers: int, deaths: int
) -> None:
    name = f"workers-{num_workers}-deaths-{deaths}"
    driver = drive(*place.arguments(name, num_workers=num_workers))
    for death in range(deaths):
        driver.until(lambda: place.committed(name) >= 8 * (death + 1), f"{8 * (death + 1)} parts")  # noqa: B023
        time.sleep(chance.uniform(0, 0.3))
        chance.choice(driver.workers("_Host")).signal(signal.SIGKILL)
    driver.end().document()
    assert place.outcome(name) == place.outcome("whole")


def test_a_driver_that_is_killed_leaves_nobody_and_the_same_command_finishes(
    place: inference.Place, drive: driving.Drive, chance: random.Random
) -> None:
    command = place.arguments("driver-killed", num_workers=2)
    driver = drive(*command)
    driver.until(lambda: place.committed("driver-killed") >= 6, "6 parts")
    second = drive(*command).end()
    print("a second driver was refused after", second.elapsed_s)
    driving.check_refused(second, "translate")
    driver.kill()
    before = place.parts("driver-killed")
    driver = drive(*command)
    some = len(before) // 2 + chance.randrange(4, 10)
    driver.until(lambda: place.committed("driver-killed") >= some, f"{some} parts")
    driver.signal(signal.SIGTERM)
    assert driver.end(30).code == 143, driver.log()
    drive(*command).end().document()
    after = place.parts("driver-killed")
    assert {part: after[part] for part in before} == before
    assert place.outcome("driver-killed") == place.outcome("whole")


def test_a_stream_has_the_same_scores_when_a_worker_then_all_and_then_the_driver_die(
    tmp_path: Path, drive: driving.Drive, chance: random.Random
) -> None:
    """What travels from part to part is all that there can be: state, memory, and weights that learn on the way."""
    learning = inference_settings.DynamicConfig(rule="sgd", learning_rate=0.1, window=20)
    place = inference.StreamPlace(tmp_path, num_lines=1200, hidden_size=64, lanes=3, dynamic=learning)
    place.score("whole")
    command = place.arguments("killed", num_workers=2)
    driver = drive(*command)
    for some, dying in ((6, slice(1)), (15, slice(None))):
        driver.until(lambda: place.committed("killed") >= some, f"{some} parts")  # noqa: B023
        time.sleep(chance.uniform(0, 0.3))
        driver.until(lambda: driver.workers("_Host.work"), "a worker at a part")
        for worker in driver.workers("_Host")[dying]:
            worker.signal(signal.SIGKILL)
    driver.until(lambda: place.committed("killed") >= 24, "24 parts")
    time.sleep(chance.uniform(0, 0.3))
    driver.kill()
    before, num_done = place.parts("killed"), place.committed("killed")
    driver = drive(*command)
    driver.until(lambda: place.committed("killed") >= num_done + 6, "6 more parts")
    driver.kill_at_work("_Host.work", chance)
    driver.end().document()
    assert place.outcome("killed") == place.outcome("whole")
    after = place.parts("killed")
    assert {part: after[part] for part in before} == before
    assert place.counted() == {"done": place.committed("whole") - num_done, "retried": 1, "worker_deaths": 1}
