"""Preparing on Ray while workers and drivers die: the same bytes, and what is done stays as it is."""

import random
import signal
import time
from pathlib import Path

import pytest

from tests.e2e import driving, preparation

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]


def test_bytes_depend_neither_on_workers_nor_on_deaths(
    tmp_path: Path, drive: driving.Drive, chance: random.Random
) -> None:
    """The driver is killed twice, and a worker under each of three drivers."""
    place = preparation.Workspace(tmp_path, num_lines=6000)
    place.prepare("whole")
    done: dict[Path, int] = {}
    for turn in range(3):
        driver = drive(*place.arguments("disturbed", address="auto", num_workers=3))
        some = len(done) + 1 + chance.randrange(8)
        driver.until(lambda: len(place.records("disturbed")) >= some, f"{some} records")  # noqa: B023
        chance.choice(driver.workers("_Host")).signal(signal.SIGKILL)
        if turn == 2:
            break
        time.sleep(chance.uniform(0, 1.0))
        driver.kill()
        now = place.records("disturbed")
        assert {path: now[path] for path in done} == done
        done = now
    driver.end().document()
    place.check_same("disturbed", "whole", done)
