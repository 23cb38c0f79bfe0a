"""Disturbed runs end with the bits of undisturbed ones; `make chaos` disturbs more of them."""

import json
import random
import signal
from pathlib import Path

import pytest

from tests.core.training import builders
from tests.e2e import driving, runs

ALONE = ("--set", "cluster.address=none")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> runs.Workspace:
    return runs.Workspace(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def whole(workspace: runs.Workspace) -> runs.Run:
    """An undisturbed run of one rank, in this process."""
    run = workspace.run("text", "whole")
    builders.train(run.job())
    return run


def contents(root: Path) -> dict[str, bytes]:
    """Every file below a root but those of locks."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and "_lock" not in path.parts
    }


@pytest.mark.ray
def test_two_deaths_of_a_random_rank_in_an_epoch_change_no_bit(
    workspace: runs.Workspace, drive: driving.Drive, chance: random.Random
) -> None:
    """Two Ray workers that are killed and restarted compute the same as two bare processes undisturbed."""
    bare, killed = workspace.run("text", "bare"), workspace.run("text", "killed")
    driver = drive("train", killed.config)
    runs.kill_twice_in_an_epoch(driver, killed, chance, world_size=2)
    report = driver.end().document()
    assert (report["start"], report["world_size"], killed.starts()) == (3, 2, 3)
    builders.on_ranks(2, workspace.folder, builders.train_rank, [(bare.job(), None)])
    runs.check_same(killed, bare)
    assert killed.record()["exit_code"] == 0
    assert not (killed.root / ".ray").exists()


@pytest.mark.e2e
def test_a_signal_saves_and_the_same_command_loses_no_step(
    workspace: runs.Workspace, whole: runs.Run, drive: driving.Drive
) -> None:
    run = workspace.run("text", "signalled")
    stopped_at = [0]
    for start, number in ((1, signal.SIGTERM), (2, signal.SIGINT)):
        driver = drive("train", run.config, *ALONE)
        driver.until(run.beyond(stopped_at[-1] + 20, start), "20 more steps")
        driver.signal(number)
        ended = driver.end(timeout_s=30)
        stopped_at.append(run.newest_step())
        assert ended.code == 128 + number, ended.log
        assert ended.stdout == ""
        assert f"train: stopped at step {stopped_at[-1]}, saved in" in ended.log
        assert run.record()["exit_code"] == 128 + number
        assert run.rows(start)[0]["step"] <= stopped_at[-2] + 5, "it resumed where it had stopped"
    assert drive("train", run.config, *ALONE).end().document()["start"] == 3
    runs.check_same(run, whole)


@pytest.mark.e2e
def test_after_a_killed_driver_and_damage_the_same_command_finishes(
    workspace: runs.Workspace, whole: runs.Run, drive: driving.Drive
) -> None:
    """A second driver is locked out while the first lives, and takes over when it is dead."""
    run = workspace.run("text", "taken-over")
    first = drive("train", run.config, *ALONE)
    first.until(run.beyond(40), "step 40")
    first.signal(signal.SIGSTOP)
    before = contents(run.root)
    driving.check_refused(drive("train", run.config, *ALONE).end(), "train")
    assert contents(run.root) == before
    first.kill()
    newest, step = run.newest(), run.newest_step()
    weights = newest / "bundle" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    third = drive("train", run.config, *ALONE).end()
    third.document()
    assert f"skipping damaged checkpoint: {weights}: is damaged" in third.log
    assert [fault.partition(": ")[0] for fault in run.record()["faults"]] == [str(weights)]
    assert run.rows(2)[0]["step"] < step
    assert newest.is_dir()
    runs.check_same(run, whole)


@pytest.mark.e2e
def test_a_run_without_a_checkpoint_that_verifies_does_not_start_over(
    workspace: runs.Workspace, whole: runs.Run, drive: driving.Drive
) -> None:
    run = workspace.run("text", "lost")
    for file in contents(whole.root):
        if file.startswith(("checkpoints", "config")):
            (run.root / file).parent.mkdir(parents=True, exist_ok=True)
            (run.root / file).write_bytes((whole.root / file).read_bytes())
    manifests = list(run.root.glob("checkpoints/*/MANIFEST.json"))
    for manifest in manifests:
        content = json.loads(manifest.read_text())
        content["files"][0]["sha256"] = "0" * 64
        manifest.write_text(json.dumps(content))
    before = contents(run.root)
    ended = drive("train", run.config, *ALONE).end()
    assert ended.code == 4, ended.log
    assert "no checkpoint verifies; restore one from a copy, or use another root" in ended.log
    assert {name: data for name, data in contents(run.root).items() if name in before} == before
