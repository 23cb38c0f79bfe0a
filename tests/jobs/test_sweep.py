"""Sweeps: which runs they plan, how these are made, and how a sweep ends and is resumed."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
import typer

from core import errors
from core.config import grid, loading
from core.data.builtin import sentences
from core.storage import control_files, location
from jobs import paths, sweep
from tests.jobs import conftest

CONFIG = conftest.LANGUAGE.replace("tiny-language", "tiny").replace("{folder}/language", "{folder}/sweep")


@pytest.fixture
def config(tmp_path: pathlib.Path) -> str:
    """Writes a corpus and the settings of a tiny language model; returns the path of these."""
    sentences.write_english(tmp_path / "english.txt", 1, 0, 100)
    (tmp_path / "tiny.yaml").write_text(CONFIG.format(folder=tmp_path))
    return str(tmp_path / "tiny.yaml")


def planned(config: str, *grids: str, overrides: tuple[str, ...] = ()) -> list[sweep.Run]:
    base = paths.absolute(loading.load(config, overrides))
    return sweep.plan(config, base, overrides, grid.combinations([grid.parse(text) for text in grids]))


def test_each_combination_is_a_pipeline_with_a_name_and_a_root_of_its_own(config: str, tmp_path: pathlib.Path) -> None:
    runs = planned(config, "model.cell=gru,lstm", "training.epochs=1,2", overrides=("seed=3",))
    assert [run.config.root for run in runs] == [
        f"{tmp_path}/sweep/cell-{cell}_epochs-{epochs}" for cell in ("gru", "lstm") for epochs in (1, 2)
    ]
    assert [run.config.name for run in runs][:2] == ["tiny.cell-gru_epochs-1", "tiny.cell-gru_epochs-2"]
    assert {(run.config.model.cell, run.config.training.epochs) for run in runs} == {  # type: ignore[union-attr]
        ("gru", 1),
        ("gru", 2),
        ("lstm", 1),
        ("lstm", 2),
    }
    # The command line of a run gives the settings that were checked.
    for run in runs:
        assert run.command[:4] == ["-m", "jobs", "pipeline", config]
        assert paths.absolute(loading.load(config, run.command[5::2])) == run.config


@pytest.mark.parametrize(
    ("grids", "message"),
    [
        (["training.epochs=1,many"], r"^--grid training.epochs=many: "),
        (["training.epoch=1,2"], r"^--grid training.epoch=1: .*did you mean epochs"),
        (["model.cell=gru,vanilla"], r"^--grid model.cell=vanilla: "),
        (["training.learning_rate=1e-3,0.001"], "learning_rate-1e-3 and learning_rate-0.001 have the same settings"),
        (["root=a,b"], "has a root of its own"),
    ],
)
def test_every_combination_is_checked_before_the_first_starts(config: str, grids: list[str], message: str) -> None:
    with pytest.raises(errors.UsageError, match=message):
        planned(config, *grids)


def test_a_root_that_cannot_hold_several_runs_is_refused(config: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.UsageError, match="root: each run is a process of its own"):
        planned(config, "seed=1,2", overrides=("root=memory://x/y",))
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "config.yaml").write_text("name: x")
    with pytest.raises(errors.UsageError, match=r"root: .* is the root of a run; name another one"):
        planned(config, "seed=1,2")


def test_a_dry_run_lists_the_combinations_and_starts_nothing(config: str, tmp_path: pathlib.Path) -> None:
    report = sweep.job(config, ["seed=1,2"], [], parallel=1, dry_run=True).call(1)
    assert [row["settings"] for row in report["combinations"]] == [{"seed": "1"}, {"seed": "2"}]
    assert not (tmp_path / "sweep").exists()


def scripted(config: str, script: str, *values: str) -> list[sweep.Run]:
    """Returns runs whose processes are a script, of which the first argument is the value of the seed."""
    runs = planned(config, f"seed={','.join(values)}")
    return [run._replace(command=["-c", script, run.combination.values["seed"]]) for run in runs]


def execute(runs: list[sweep.Run], tmp_path: pathlib.Path, parallel: int = 1) -> dict[str, Any]:
    """Makes runs, one of which fails, so that the report is printed; returns it with the exit code."""
    with (tmp_path / "stdout").open("wb") as stdout, pytest.raises(typer.Exit) as stopped:
        sweep.execute(runs, location.Location.parse(str(tmp_path / "sweep")), parallel, os.dup(stdout.fileno()))
    printed = (tmp_path / "stdout").read_text()
    return {"code": stopped.value.exit_code, **(json.loads(printed) if printed else {})}


FAIL = "import sys; print('a: is wrong; mend it\\nexit=3', file=sys.stderr); sys.exit(int(sys.argv[1]))"


def test_a_failed_combination_is_named_with_its_code_and_the_others_are_made(
    config: str, tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    report = execute(scripted(config, FAIL, "3", "7", "5"), tmp_path)
    assert report["code"] == 3
    assert report["failed"] == 3
    assert [(row["exit_code"], row["error"]) for row in report["combinations"]] == [
        (3, "a: is wrong; mend it"),
        (7, "a: is wrong; mend it"),
        (5, "a: is wrong; mend it"),
    ]
    assert report["html"] is None
    log = capfd.readouterr().err
    assert "seed-7 | a: is wrong; mend it" in log
    assert "failed: seed=7: exit code 7: a: is wrong; mend it" in log


def test_processes_run_at_the_same_time_and_no_more_than_asked_for(config: str, tmp_path: pathlib.Path) -> None:
    # Each waits until it sees another one beside it, and fails if it never does, or if it sees two.
    meet = f"""
import pathlib, sys, time
folder = pathlib.Path({str(tmp_path / "running")!r}); folder.mkdir(exist_ok=True)
own = folder / sys.argv[1]; own.touch()
most, until = 1, time.monotonic() + 60
while most < 2 and time.monotonic() < until:
    most = max(most, len(list(folder.iterdir()))); time.sleep(0.01)
time.sleep(0.5)
most = max(most, len(list(folder.iterdir())))
own.unlink()
sys.exit(10 + most)
"""
    report = execute(scripted(config, meet, "1", "2"), tmp_path, parallel=2)
    assert [row["exit_code"] for row in report["combinations"]] == [12, 12]
    report = execute(scripted(config, "import sys; sys.exit(9)", "1", "2", "3"), tmp_path, parallel=2)
    assert [row["exit_code"] for row in report["combinations"]] == [9, 9, 9]


WAIT = """
import pathlib, signal, sys, time
def save(number, frame):
    pathlib.Path({folder!r}, "saved-" + sys.argv[1]).touch()
    sys.exit(128 + number)
signal.signal({number}, save)
pathlib.Path({folder!r}, "ready-" + sys.argv[1]).touch()
time.sleep(300)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_handed_on_and_nothing_more_is_started(
    config: str, tmp_path: pathlib.Path, number: signal.Signals
) -> None:
    runs = scripted(config, WAIT.format(folder=str(tmp_path), number=int(number)), "1", "2", "3")

    def interrupt() -> None:
        while not all((tmp_path / f"ready-{seed}").exists() for seed in (1, 2)):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    thread = threading.Thread(target=interrupt)
    thread.start()
    report = execute(runs, tmp_path, parallel=2)
    thread.join()
    assert report == {"code": 128 + number}
    assert sorted(path.name for path in tmp_path.glob("saved-*")) == ["saved-1", "saved-2"]
    assert not (tmp_path / "ready-3").exists()
    assert signal.getsignal(number) == before


def test_a_run_is_done_if_it_ended_well_with_these_very_settings(runs: pathlib.Path, tmp_path: pathlib.Path) -> None:
    def is_done(*overrides: str) -> bool:
        config = conftest.configured(conftest.LANGUAGE, runs, *overrides)
        return sweep.is_done(sweep.Run(grid.Combination("x", {}), config, []))

    assert is_done()
    assert is_done("cluster.num_workers=1", "telemetry.linger_s=1")
    assert not is_done("training.epochs=2")
    assert not is_done("generation.num_tokens=6")
    shutil.copytree(runs / "language", tmp_path / "language")
    moved = f"root={tmp_path}/language"
    assert is_done(moved)
    state = tmp_path / "language" / "run.json"
    whole = state.read_bytes()
    state.write_bytes(control_files.encode({**control_files.parse(whole, "run.json"), "exit_code": 130}))
    assert not is_done(moved)
    # One damaged file must not end the sweep: its run is started, and says what is wrong.
    state.write_bytes(whole.replace(b'"exit_code": 0', b'"exit_code": 1'))
    assert not is_done(moved)
    state.write_bytes(whole)
    assert is_done(moved)
    (tmp_path / "language" / "config.yaml").write_text("name: [")
    assert not is_done(moved)
    assert not is_done(f"root={tmp_path}/new")


@pytest.mark.e2e
def test_a_sweep_makes_comparable_runs_names_the_failed_one_and_resumes(config: str, tmp_path: pathlib.Path) -> None:
    """A single line leaves none to validate on."""

    def run(*arguments: str) -> tuple[int, dict[str, Any], str]:
        command = [sys.executable, "-m", "jobs", "sweep", config, "--grid", "corpus.limit.lines=60,1,80", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, json.loads(done.stdout), done.stderr

    code, report, log = run("--parallel", "2")
    assert code == 3, log
    codes = {"lines-60": 0, "lines-1": 3, "lines-80": 0}
    assert {row["name"]: row["exit_code"] for row in report["combinations"]} == codes
    assert "failed: corpus.limit.lines=1: exit code 3: corpus: 0 usable lines for" in log
    assert "done: corpus.limit.lines=60: perplexity" in log
    page = pathlib.Path(report["html"]).read_text()
    assert "tiny.lines-60" in page
    assert "tiny.lines-1<" not in page
    before = (tmp_path / "sweep" / "lines-60" / "run.json").read_bytes()
    code, again, log = run()
    assert code == 3
    assert [row["already_done"] for row in again["combinations"]] == [True, False, True]
    assert (tmp_path / "sweep" / "lines-60" / "run.json").read_bytes() == before
    assert "sweep: 2 of 3 combinations are done already" in log
