"""Network partitions: a disconnected node's work is done elsewhere, and its messages are ignored when it returns."""

import time
from pathlib import Path

import pytest

from tests.e2e import driving, inference, networks, runs

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not networks.can_be_made(), reason="network namespaces need root and iproute2"),
]

CUT_S = 15.0  # longer than the cluster takes to declare the node dead


@pytest.mark.parametrize("is_healed", [False, True])
def test_a_translation_has_the_same_bytes_when_a_node_is_disconnected(
    tmp_path: Path, drive: driving.Drive, is_healed: bool
) -> None:
    workspace = inference.TranslationWorkload(tmp_path, num_lines=1200)
    with networks.started(drive, 3) as cluster:
        driver = drive("submit", *workspace.arguments("run", num_workers=3), "--address", cluster.job_server)
        driver.until(lambda: workspace.committed("run") >= 8, "8 parts")
        cluster.cut(2)
        cut_s = time.monotonic()
        if is_healed:
            time.sleep(CUT_S)
            cluster.heal(2)
        driver.end().document()
        print("seconds from the cut to the end:", time.monotonic() - cut_s)
    workspace.translate("whole")
    assert workspace.outcome("run") == workspace.outcome("whole")


@pytest.mark.parametrize("is_healed", [False, True])
def test_training_continues_with_fewer_ranks_when_a_node_is_disconnected(
    tmp_path: Path, drive: driving.Drive, is_healed: bool
) -> None:
    """The rank on the disconnected node is still alive and may return; it changes nothing."""
    run = runs.Workspace(tmp_path).run("text", "run")
    with networks.started(drive, 3) as cluster:
        driver = drive("submit", "train", run.config, *runs.ELASTIC, "--address", cluster.job_server)
        saved = driver.until(run.beyond(40), "step 40")
        cluster.cut(2)
        cut_s = time.monotonic()
        if is_healed:
            time.sleep(CUT_S)
            cluster.heal(2)
        driver.until(run.beyond(1, 2), "a checkpoint of start 2", runs.GONE_S)
        print("seconds from the cut to the next checkpoint:", time.monotonic() - cut_s)
        report = driver.end().document()
    runs.check_went_on(run, report, saved)
