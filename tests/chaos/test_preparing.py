"""Preparation while workers and drivers die: the same bytes, and committed parts are not done again."""

import random
import signal
import time
from pathlib import Path

import pytest

from tests.e2e import driving, preparation

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]


def test_dataset_bytes_survive_deaths_of_workers_and_drivers(
    tmp_path: Path, drive: driving.Drive, chance: random.Random
) -> None:
    """Two drivers are killed, and a worker of each of three drivers."""
    workspace = preparation.Workspace(tmp_path, num_lines=6000)
    workspace.prepare("whole")
    done: dict[Path, int] = {}
    for turn in range(3):
        driver = drive(*workspace.arguments("disturbed", address="auto", num_workers=3))
        num_records = len(done) + 1 + chance.randrange(8)
        driver.until(lambda: len(workspace.records("disturbed")) >= num_records, f"{num_records} records")  # noqa: B023
        chance.choice(driver.workers("_Host")).signal(signal.SIGKILL)
        if turn == 2:
            break
        time.sleep(chance.uniform(0, 1.0))
        driver.kill()
        now = workspace.records("disturbed")
        assert {path: now[path] for path in done} == done
        done = now
    driver.end().document()
    workspace.check_same("disturbed", "whole", done)
