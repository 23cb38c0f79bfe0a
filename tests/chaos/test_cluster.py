"""A cluster that stays when its driver dies: nobody of the dead driver goes on in it, and the next one finishes."""

import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.core.training import builders
from tests.e2e import driving, inference, runs
from workers.cluster import session as sessions

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]

OURS = ("RayTrainWorker", "TrainController", "Board", "_Host")


@pytest.fixture
def head(drive: driving.Drive) -> Iterator[tuple[driving.Driver, str]]:
    """A cluster of four cores, and its address."""
    folder = sessions.private_folder()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    program = (str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--include-dashboard=false")
    places = (f"--port={port}", f"--temp-dir={folder}", "--node-ip-address=127.0.0.1")
    started = drive(*places, "--num-cpus=4", "--object-store-memory=200000000", program=program)
    started.until(lambda: "Ray runtime started" in started.output(), "a cluster")
    yield started, f"cluster.address=127.0.0.1:{port}"
    started.clean_up()
    shutil.rmtree(folder, ignore_errors=True)


def wait_until_left(started: driving.Driver) -> None:
    """Nobody works for a driver that was killed for long."""
    deadline_s = time.monotonic() + driving.ORPHANS_S
    while left := [process.title() for name in OURS for process in started.workers(name)]:
        assert time.monotonic() < deadline_s, left
        time.sleep(driving.POLL_S)


def test_training_goes_on_under_the_next_driver(
    tmp_path: Path, head: tuple[driving.Driver, str], drive: driving.Drive
) -> None:
    started, address = head
    place = runs.Place(tmp_path)
    run, bare = place.run("text", "run"), place.run("text", "bare")
    command = ("train", run.config, "--set", address)
    driver = drive(*command)
    driver.until(run.beyond(60, 1), "step 60")
    driver.kill()
    report = drive(*command).end().document()
    assert (report["start"], report["world_size"]) == (2, 2)
    wait_until_left(started)
    builders.on_ranks(2, tmp_path, builders.train_rank, [(bare.job(), None)])
    runs.check_same(run, bare)


def test_a_translation_goes_on_under_the_next_driver(
    tmp_path: Path, head: tuple[driving.Driver, str], drive: driving.Drive
) -> None:
    started, address = head
    place = inference.Place(tmp_path, num_lines=1200)
    command = (*place.arguments("run", num_workers=3), "--set", address)
    driver = drive(*command)
    driver.until(lambda: place.committed("run") >= 4, "4 parts")
    driver.kill()
    wait_until_left(started)
    driver = drive(*command)
    some = place.committed("run") + 4
    driver.until(lambda: place.committed("run") >= some, f"{some} parts")
    started.workers("_Host")[0].signal(signal.SIGKILL)
    driver.end().document()
    place.translate("whole")
    assert place.outcome("run") == place.outcome("whole")
