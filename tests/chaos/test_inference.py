"""Translation and scoring while workers and drivers die: the same bytes, and each part is committed once."""

import random
import signal
import time
from pathlib import Path

import pytest

from core.config import inference_settings
from tests.e2e import driving, inference

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> inference.TranslationWorkload:
    workspace = inference.TranslationWorkload(tmp_path_factory.mktemp("inference"), num_lines=3000)
    workspace.translate("whole")
    return workspace


@pytest.mark.parametrize(("num_workers", "deaths"), [(1, 0), (2, 0), (4, 0), (2, 1), (2, 3), (4, 3)])
def test_bytes_depend_neither_on_num_workers_nor_on_worker_deaths(
    workspace: inference.TranslationWorkload, drive: driving.Drive, chance: random.Random, num_workers: int, deaths: int
) -> None:
    name = f"workers-{num_workers}-deaths-{deaths}"
    driver = drive(*workspace.arguments(name, num_workers=num_workers))
    for death in range(deaths):
        driver.until(lambda: workspace.committed(name) >= 8 * (death + 1), f"{8 * (death + 1)} parts")  # noqa: B023
        time.sleep(chance.uniform(0, 0.3))
        chance.choice(driver.workers("_Host")).signal(signal.SIGKILL)
    driver.end().document()
    assert workspace.outcome(name) == workspace.outcome("whole")


def test_a_killed_driver_leaves_no_workers_and_the_same_command_finishes(
    workspace: inference.TranslationWorkload, drive: driving.Drive, chance: random.Random
) -> None:
    command = workspace.arguments("driver-killed", num_workers=2)
    driver = drive(*command)
    driver.until(lambda: workspace.committed("driver-killed") >= 6, "6 parts")
    second = drive(*command).end()
    print("a second driver was refused after", second.elapsed_s)
    driving.check_refused(second, "translate")
    driver.kill()
    before = workspace.parts("driver-killed")
    driver = drive(*command)
    num_parts = len(before) // 2 + chance.randrange(4, 10)
    driver.until(lambda: workspace.committed("driver-killed") >= num_parts, f"{num_parts} parts")
    driver.signal(signal.SIGTERM)
    assert driver.end(30).code == 143, driver.log()
    drive(*command).end().document()
    after = workspace.parts("driver-killed")
    assert {part: after[part] for part in before} == before
    assert workspace.outcome("driver-killed") == workspace.outcome("whole")


def test_stream_scores_survive_the_deaths_of_a_worker_of_all_and_of_the_driver(
    tmp_path: Path, drive: driving.Drive, chance: random.Random
) -> None:
    """With dynamic evaluation recurrent state and weights are carried from part to part."""
    dynamic = inference_settings.DynamicConfig(rule="sgd", learning_rate=0.1, window=20)
    workspace = inference.ScoringWorkload(tmp_path, num_lines=1200, hidden_size=64, lanes=3, dynamic=dynamic)
    workspace.score("whole")
    command = workspace.arguments("killed", num_workers=2)
    driver = drive(*command)
    for num_parts, victims in ((6, slice(1)), (15, slice(None))):
        driver.until(lambda: workspace.committed("killed") >= num_parts, f"{num_parts} parts")  # noqa: B023
        time.sleep(chance.uniform(0, 0.3))
        driver.until(lambda: driver.workers("_Host.work"), "a worker at a part")
        for worker in driver.workers("_Host")[victims]:
            worker.signal(signal.SIGKILL)
    driver.until(lambda: workspace.committed("killed") >= 24, "24 parts")
    time.sleep(chance.uniform(0, 0.3))
    driver.kill()
    before, num_done = workspace.parts("killed"), workspace.committed("killed")
    driver = drive(*command)
    driver.until(lambda: workspace.committed("killed") >= num_done + 6, "6 more parts")
    driver.kill_at_work("_Host.work", chance)
    driver.end().document()
    assert workspace.outcome("killed") == workspace.outcome("whole")
    after = workspace.parts("killed")
    assert {part: after[part] for part in before} == before
    assert workspace.fanout_counts() == {
        "done": workspace.committed("whole") - num_done,
        "retried": 1,
        "worker_deaths": 1,
    }
