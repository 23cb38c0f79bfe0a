"""Training on Ray in which ranks and drivers die ends with the bits of an undisturbed run."""

import random
import signal
import time
from collections.abc import Callable

import pytest

from tests.e2e import driving, runs

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]

Whole = Callable[[str, int], runs.Run]
STOP_S = 30.0  # for the step, the checkpoint and the end of a cluster


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> runs.Workspace:
    return runs.Workspace(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def done() -> dict[tuple[str, int], runs.Run]:
    """The undisturbed runs so far."""
    return {}


@pytest.fixture
def whole(workspace: runs.Workspace, done: dict[tuple[str, int], runs.Run], drive: driving.Drive) -> Whole:
    """Returns the undisturbed run of a kind on a number of ranks."""

    def get(kind: str, world_size: int) -> runs.Run:
        if (kind, world_size) not in done:
            run = workspace.run(kind, f"whole-{kind}-{world_size}")
            assert drive("train", run.config, *workers(world_size)).end().document()["start"] == 1
            done[kind, world_size] = run
        return done[kind, world_size]

    return get


def workers(world_size: int) -> tuple[str, str]:
    return "--set", f"cluster.num_workers={world_size}"


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("kind", ["text", "pairs"])
def test_two_deaths_of_a_random_rank_in_an_epoch_change_no_bit(
    workspace: runs.Workspace, whole: Whole, drive: driving.Drive, chance: random.Random, kind: str, world_size: int
) -> None:
    run = workspace.run(kind, f"killed-{kind}-{world_size}")
    driver = drive("train", run.config, *workers(world_size))
    took_s = runs.kill_twice_in_an_epoch(driver, run, chance, world_size)
    print("seconds from a death to the next checkpoint:", took_s)
    report = driver.end().document()
    assert (report["start"], report["world_size"]) == (3, world_size)
    runs.check_same(run, whole(kind, world_size))


def test_a_rank_that_hangs_is_replaced(
    workspace: runs.Workspace, whole: Whole, drive: driving.Drive, chance: random.Random
) -> None:
    run = workspace.run("text", "hung")
    driver = drive("train", run.config, *workers(2), "--set", "cluster.collective_timeout_s=10")
    driver.until(run.beyond(40), "step 40")
    runs.signal_a_rank(driver, run, 1, chance.randrange(2), 2, signal.SIGSTOP)
    hung_s = time.monotonic()
    driver.until(run.beyond(1, 2), "a checkpoint of start 2", runs.RECOVERY_S)
    print("replaced after", time.monotonic() - hung_s)
    driver.end().document()
    runs.check_same(run, whole("text", 2))


def test_ranks_that_die_more_often_than_allowed_end_the_run_and_the_same_command_resumes(
    workspace: runs.Workspace, whole: Whole, drive: driving.Drive
) -> None:
    run = workspace.run("text", "given-up")
    command = ("train", run.config, *workers(2))
    driver = drive(*command, "--set", "cluster.max_failures=1")
    for start in (1, 2):
        driver.until(run.beyond(20 * start, start), f"step {20 * start} of start {start}")
        runs.signal_a_rank(driver, run, start, 1, 2, signal.SIGKILL)
    ended = driver.end()
    assert ended.code == 8, ended.log
    assert "cluster.max_failures: 1" in ended.log.splitlines()[-2]
    assert run.record()["exit_code"] == 8
    assert drive(*command).end().document()["start"] == 3
    runs.check_same(run, whole("text", 2))


def test_after_a_killed_driver_no_process_is_left_and_the_same_command_finishes(
    workspace: runs.Workspace, whole: Whole, drive: driving.Drive, chance: random.Random
) -> None:
    run = workspace.run("pairs", "driver-killed")
    command = ("train", run.config, *workers(2))
    for start, earliest, latest in ((1, 20, 100), (2, 120, 200)):
        driver = drive(*command)
        step = chance.randrange(earliest, latest)
        driver.until(run.beyond(step, start), f"step {step} of start {start}")
        time.sleep(chance.uniform(0, 0.2))
        driver.kill()
    assert drive(*command).end().document()["start"] == 3
    runs.check_same(run, whole("pairs", 2))


def test_a_second_driver_is_refused_at_once_and_signals_lose_no_step(
    workspace: runs.Workspace, whole: Whole, drive: driving.Drive
) -> None:
    run = workspace.run("text", "signalled")
    command = ("train", run.config, *workers(2))
    stopped_at = [0]
    for start, number in ((1, signal.SIGTERM), (2, signal.SIGINT)):
        driver = drive(*command)
        driver.until(run.beyond(stopped_at[-1] + 20, start), "20 more steps")
        if start == 1:
            targets = (run.root / "metrics" / "targets.json").read_bytes()
            second = drive(*command).end()
            print("a second driver was refused after", second.elapsed_s)
            driving.check_refused(second, "train")
            assert (run.root / "metrics" / "targets.json").read_bytes() == targets
        driver.signal(number)
        signalled_s = time.monotonic()
        ended = driver.end(STOP_S)
        print(f"stopped by {number} after", time.monotonic() - signalled_s)
        stopped_at.append(run.newest_step())
        assert ended.code == 128 + number, ended.log
        assert f"train: stopped at step {stopped_at[-1]}, saved in" in ended.log
        assert run.record()["exit_code"] == 128 + number
        assert run.rows(start)[0]["step"] <= stopped_at[-2] + 5, "it resumed where it had stopped"
    assert drive(*command).end().document()["start"] == 3
    runs.check_same(run, whole("text", 2))


def test_a_signal_at_any_moment_stops_the_run_soon_and_loses_nothing(
    workspace: runs.Workspace, whole: Whole, drive: driving.Drive, chance: random.Random
) -> None:
    run = workspace.run("pairs", "any-moment")
    command = ("train", run.config, *workers(2))
    for _ in range(4):
        driver = drive(*command)
        moment_s = chance.uniform(0, 20)
        time.sleep(moment_s)
        driver.signal(signal.SIGTERM)
        # Before our signal handler is installed, Python's own ends the process; a finished run is as good.
        assert driver.end(STOP_S + 30).code in (0, 143, -signal.SIGTERM), (moment_s, driver.log())
    drive(*command).end().document()
    runs.check_same(run, whole("pairs", 2))
