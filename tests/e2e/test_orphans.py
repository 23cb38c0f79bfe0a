"""Workers of a driver that was killed: also those that were starting end with it."""

import pathlib
import random
import time

import pytest

from tests.e2e import driving, preparation

pytestmark = [pytest.mark.ray, pytest.mark.e2e]


def test_workers_that_start_while_their_driver_is_killed_end_with_it(
    tmp_path: pathlib.Path, drive: driving.Drive, chance: random.Random
) -> None:
    workspace = preparation.Workspace(tmp_path)
    driver = drive(*workspace.arguments("run", address="auto", num_workers=2))

    def starts() -> bool:
        titles = (process.title() for process in driver.family())
        return any(driving.is_worker(title) and not title.startswith("ray::") for title in titles)

    driver.until(starts, "a worker that starts")
    time.sleep(chance.uniform(0, 2))
    killed_s = time.monotonic()
    driver.kill()
    # By themselves they would wait 28 s for the daemons that ended with the driver.
    assert time.monotonic() - killed_s < 10
