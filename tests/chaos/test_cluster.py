"""A cluster that outlives its driver: the dead driver's workers end, and the next driver finishes the work."""

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

OURS = ("RayTrainWorker", "TrainController", "TrainingRank", "MessageBoard", "_Host")


@pytest.fixture
def head(drive: driving.Drive) -> Iterator[tuple[driving.Driver, str]]:
    """Starts a cluster of four cores; yields it and the setting with its address."""
    folder = sessions.private_folder()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    program = (str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--include-dashboard=false")
    addresses = (f"--port={port}", f"--temp-dir={folder}", "--node-ip-address=127.0.0.1")
    started = drive(*addresses, "--num-cpus=4", "--object-store-memory=200000000", program=program)
    started.until(lambda: "Ray runtime started" in started.output(), "a cluster")
    yield started, f"cluster.address=127.0.0.1:{port}"
    started.clean_up()
    shutil.rmtree(folder, ignore_errors=True)


def wait_for_no_workers(started: driving.Driver) -> None:
    """Waits until no worker of a killed driver is left."""
    deadline_s = time.monotonic() + driving.ORPHANS_S
    while left := [process.title() for name in OURS for process in started.workers(name)]:
        assert time.monotonic() < deadline_s, left
        time.sleep(driving.POLL_S)


def test_training_resumes_under_the_next_driver(
    tmp_path: Path, head: tuple[driving.Driver, str], drive: driving.Drive
) -> None:
    started, address = head
    workspace = runs.Workspace(tmp_path)
    run, bare = workspace.run("text", "run"), workspace.run("text", "bare")
    command = ("train", run.config, "--set", address)
    driver = drive(*command)
    driver.until(run.beyond(60, 1), "step 60")
    driver.kill()
    report = drive(*command).end().document()
    assert (report["start"], report["world_size"]) == (2, 2)
    wait_for_no_workers(started)
    builders.on_ranks(2, tmp_path, builders.train_rank, [(bare.job(), None)])
    runs.check_same(run, bare)


def test_translation_resumes_under_the_next_driver(
    tmp_path: Path, head: tuple[driving.Driver, str], drive: driving.Drive
) -> None:
    started, address = head
    workspace = inference.TranslationWorkload(tmp_path, num_lines=1200)
    command = (*workspace.arguments("run", num_workers=3), "--set", address)
    driver = drive(*command)
    driver.until(lambda: workspace.committed("run") >= 4, "4 parts")
    driver.kill()
    wait_for_no_workers(started)
    driver = drive(*command)
    num_parts = workspace.committed("run") + 4
    driver.until(lambda: workspace.committed("run") >= num_parts, f"{num_parts} parts")
    started.workers("_Host")[0].signal(signal.SIGKILL)
    driver.end().document()
    workspace.translate("whole")
    assert workspace.outcome("run") == workspace.outcome("whole")
