"""Verbs submitted as Ray jobs: documents, exit codes, tokens and stops."""

import json
import signal
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.config import loading
from jobs import paths, train
from tests import reporters
from tests.e2e import driving, nodes, runs
from tests.jobs import conftest
from workers.cluster import final_errors
from workers.cluster import session as sessions

pytestmark = [pytest.mark.e2e, pytest.mark.ray]

TOKEN = "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[nodes.Nodes]:
    """Starts a cluster of one node with token authentication."""
    folder = tmp_path_factory.mktemp("cluster")
    with nodes.started(lambda *arguments, program: driving.Driver(folder, arguments, program), 1) as cluster:
        yield cluster


def jobs_of(server: nodes.Nodes) -> str:
    """Returns the job server's description of all jobs."""
    request = urllib.request.Request(f"{server.job_server}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=20) as response:
        return str(response.read().decode())


def test_a_verb_returns_its_document_and_the_token_stays_secret(
    server: nodes.Nodes, tmp_path: Path, drive: driving.Drive
) -> None:
    conftest.write_corpus(tmp_path)
    (tmp_path / "tiny.yaml").write_text(conftest.TRANSLATION.format(folder=tmp_path))
    auto = ("--set", "cluster.address=auto", "--set", "cluster.num_workers=1")
    ended = drive("submit", "prepare", str(tmp_path / "tiny.yaml"), *auto, "--address", server.job_server).end()
    assert ended.document()["path"] == f"{tmp_path}/translation/dataset"
    assert ended.log.splitlines()[-1] == "exit=0"
    assert "prepare: encode: done, 200 lines" in ended.log
    listing = jobs_of(server)
    assert "raycurrent-prepare-" in listing
    assert TOKEN not in listing
    assert TOKEN not in ended.log


def test_a_failing_job_ends_with_its_own_exit_code(server: nodes.Nodes, tmp_path: Path, drive: driving.Drive) -> None:
    (tmp_path / "tiny.yaml").write_text(conftest.LANGUAGE.format(folder=tmp_path))
    ended = drive("submit", "--num-cpus=1", "prepare", f"{tmp_path}/tiny.yaml", "--address", server.job_server).end()
    assert ended.code == 3, ended.log
    assert "english.txt' matches no file" in ended.log
    assert ended.log.splitlines()[-1] == "exit=3"
    assert ended.stdout == ""


def test_ray_job_submit_runs_a_verb(server: nodes.Nodes, tmp_path: Path, drive: driving.Drive) -> None:
    (tmp_path / "lines.txt").write_text("Cette robe que le père achètera est grande.\n")
    verb = ("evaluate", f"--hypotheses={tmp_path}/lines.txt", f"--references={tmp_path}/lines.txt")
    reach = ("--address", server.job_server, "--working-dir", ".")
    ended = drive("job", "submit", *reach, "--", sys.executable, "-m", "jobs", *verb, program=nodes.RAY).end()
    assert ended.code == 0, ended.log
    assert '"bleu": 100' in ended.stdout + ended.log


@pytest.mark.parametrize(("stops", "status"), [(True, "STOPPED"), (False, "FAILED")])
def test_an_error_that_no_retry_mends_leaves_the_job_stopped_where_it_is_asked_for(
    server: nodes.Nodes, drive: driving.Drive, stops: bool, status: str
) -> None:
    environment = json.dumps({"env_vars": {final_errors.VARIABLE: server.job_server} if stops else {}})
    reach = ("--address", server.job_server, "--working-dir", ".", "--runtime-env-json", environment)
    name = f"final-{status}"
    drive(
        *(
            "job",
            "submit",
            "--submission-id",
            name,
            *reach,
            "--",
            sys.executable,
            "-m",
            "jobs",
            "train",
            "no-such.yaml",
        ),
        program=nodes.RAY,
    ).end()
    (job,) = (job for job in json.loads(jobs_of(server)) if job["submission_id"] == name)
    assert job["status"] == status


def test_no_wait_prints_the_submission_id(server: nodes.Nodes, drive: driving.Drive) -> None:
    document = (
        drive("submit", "--no-wait", "--address", server.job_server, "inspect", "/nowhere/at/all").end().document()
    )
    assert document["submission_id"] in jobs_of(server)


def test_a_wrong_token_is_refused(server: nodes.Nodes, tmp_path: Path, drive: driving.Drive) -> None:
    arguments = ["submit", "--address", server.job_server, "inspect", "/x"]
    script = (
        "import os, sys; from jobs import __main__ as main; os.environ['RAY_AUTH_TOKEN'] = 'x' * 64; "
        f"sys.exit(main.main({arguments!r}))"
    )
    ended = drive(script, program=(sys.executable, "-c")).end()
    assert ended.code == 2, ended.log
    assert "does not accept this token" in ended.log


def test_a_stopped_job_saves_a_checkpoint_and_resumes_when_submitted_again(
    server: nodes.Nodes, tmp_path: Path, drive: driving.Drive
) -> None:
    workspace = runs.Workspace(tmp_path)
    run, whole = workspace.run("text", "run"), workspace.run("text", "whole")
    settings = ("cluster.address=none", "cluster.num_workers=1", "training.epochs=1")
    words = [word for setting in settings for word in ("--set", setting)]
    command = ("submit", "train", run.config, *words, "--address", server.job_server)
    driver = drive(*command)
    driver.until(run.beyond(40), "step 40")
    driver.signal(signal.SIGTERM)
    ended = driver.end(60)
    assert ended.code == 143, ended.log
    assert ended.log.splitlines()[-1] == "exit=143"
    assert f"train: stopped at step {run.newest_step()}, saved in" in ended.log
    stopped_at = run.newest_step()
    report = drive(*command).end().document()
    assert report["start"] == 2
    assert run.rows(2)[0]["step"] <= stopped_at + 5, "it resumed from the checkpoint of the stop"
    config = paths.absolute(loading.load(whole.config, settings))
    with sessions.Session(config.cluster) as session:
        train.run(config, session, reporters.SilentReporter())
    runs.check_same(run, whole)
    assert json.loads((run.root / "run.json").read_text())["exit_code"] == 0
