"""Job submission: the submitted command and files, refused requests, and the parsing of a job's log."""

import io
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from core import errors
from core.config import loading
from jobs import __main__ as main
from jobs import following, submit
from workers.cluster import signals, submission

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
VERBS: Any = typer.main.get_command(main.app)
CONFIG = """
name: x
root: {root}
corpus: {{kind: text, train: {{text: [{text}]}}}}
tokenizer: {{kind: char}}
model: {{kind: language_model}}
training: {{num_lanes: 4}}
"""


def plan(verb: str, *arguments: str, is_local: bool = True) -> submit.JobSpec:
    return submit.plan(VERBS.commands[verb], arguments, submit.Target(sees_this_machine=is_local))


@pytest.fixture
def here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Returns the current folder, with two configurations, outside of any cluster and without a token."""
    for name in ("RAYCURRENT_HOME", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(CONFIG.format(root="runs/x", text="book.txt"))
    (tmp_path / "shared.yaml").write_text(CONFIG.format(root="s3://bucket/x", text="/mnt/book.txt"))
    return tmp_path


def test_the_submitted_settings_are_resolved_with_overrides(here: pathlib.Path) -> None:
    spec = plan("train", "x.yaml", "--set", "training.epochs=7", "--fresh")
    assert spec.command == ("train", "--fresh", "--", "submitted.yaml")
    config = loading.parse(spec.files["submitted.yaml"], "submitted.yaml")
    assert (config.training.epochs, config.root) == (7, f"{here}/runs/x")
    assert config.corpora_by_name[""].train.text == (f"{here}/book.txt",)


def test_a_sweep_is_one_job_with_its_grid(here: pathlib.Path) -> None:
    spec = plan("sweep", "x.yaml", "--grid", "seed=1,2", "--grid", "model.cell=gru,lstm", "--set", "training.epochs=7")
    assert spec.command == (
        "sweep",
        "--grid=seed=1,2",
        "--grid=model.cell=gru,lstm",
        "--parallel=1",
        "--",
        "submitted.yaml",
    )
    config = loading.parse(spec.files["submitted.yaml"], "submitted.yaml")
    assert (config.training.epochs, config.root) == (7, f"{here}/runs/x")


def test_locations_in_arguments_become_absolute_and_other_arguments_are_kept(here: pathlib.Path) -> None:
    spec = plan(
        "score", "--run", "runs/x", "--input=a b.txt", "--output", "out/", "--set", "scoring.unit=stream", "--overwrite"
    )
    locations = {f"--run={here}/runs/x", f"--input={here}/a b.txt", f"--output={here}/out/"}
    assert spec.command[0] == "score"
    assert set(spec.command[1:]) == {*locations, "--overwrite", "--set=scoring.unit=stream"}
    assert spec.files == {}
    several = plan(
        "translate", "--run", "/r", "--input", "in", "--input", "*.en", "--output", "o", "--format", "txt"
    ).command
    assert several[2:] == (f"--input={here}/in", f"--input={here}/*.en", f"--output={here}/o", "--format=txt")
    references = plan("evaluate", "--hypotheses", "s3://b/h.txt", "--references", "a", "--references", "b").command
    assert references[2:] == (f"--references={here}/a", f"--references={here}/b")
    assert plan("generate", "--run", "runs/x", "--prefix", "--the").command[2] == "--prefix=--the"
    assert plan("demo").command == ("demo", f"--set=root={here}/runs/demo")


def test_planning_the_planned_command_again_changes_nothing(here: pathlib.Path) -> None:
    spec = plan("translate", "--run", "runs/x", "--input", "in.txt", "--output", "out.txt", "--column", "en")
    assert plan("translate", *spec.command[1:]) == spec


@pytest.mark.parametrize(
    ("verb", "arguments", "message"),
    [
        ("train", ("x.yaml",), r"root: 'runs/x' is relative to this machine"),
        ("translate", ("--run", "/r", "--input", "~/in", "--output", "/o"), r"--input: '~/in' is relative"),
        ("inspect", ("runs/x",), r"PATH: 'runs/x' is relative"),
        ("demo", (), r"root: 'runs/demo' is relative"),
    ],
)
def test_relative_paths_are_refused_for_a_remote_cluster(
    here: pathlib.Path, verb: str, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(errors.UsageError, match=message):
        plan(verb, *arguments, is_local=False)
    assert plan("train", "shared.yaml", is_local=False).command[-1] == "submitted.yaml"


@pytest.mark.parametrize(
    ("verb", "arguments", "message"),
    [
        ("translate", ("--run", "/r", "--input", "-", "--output", "-"), "--input: a Ray job has no standard input"),
        ("train", ("x.yaml", "--print-config"), "without `submit`"),
        ("train", ("x.yaml", "--set", "training.epoch=1"), "training.epoch"),
        ("inspect", ("s3://key:secret@bucket/x",), "holds credentials"),
    ],
)
def test_requests_that_cannot_run_as_a_job_are_refused(
    here: pathlib.Path, verb: str, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(errors.UsageError, match=message):
        plan(verb, *arguments)


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "http://localhost:1/", "http://[::1]:8265"])
def test_a_local_job_server_needs_no_token(here: pathlib.Path, address: str) -> None:
    assert submit.is_loopback(submit.resolve_address(address))


@pytest.mark.parametrize("address", ["http://10.0.0.1:8265", "https://127.0.0.1.example.org", "http://[2001:db8::1]:1"])
def test_a_remote_job_server_needs_a_token(here: pathlib.Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = here / "home" / ".ray" / "auth_token"
    own.parent.mkdir(parents=True)
    own.write_text("of this machine")
    with pytest.raises(errors.UsageError, match=r"no token is set for it; put the cluster's into .*/home/.config"):
        submit.resolve_address(address)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/secrets/token")
    assert submit.resolve_address(address) == address
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(errors.UsageError, match=r"RAY_AUTH_MODE is disabled: .* runs code from anybody"):
        submit.resolve_address(address)


def test_an_address_that_is_not_an_http_url_is_refused(here: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert submit.resolve_address(None) == submit.DEFAULT_ADDRESS
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(errors.UsageError, match=r"RAY_ADDRESS: is not the URL .* of a Ray job server"):
        submit.resolve_address(None)


def test_the_working_directory_has_only_packages_and_settings(here: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "package"
    folder.mkdir()
    size = submit.pack(plan("train", "x.yaml"), folder)
    assert {path.name for path in folder.iterdir()} == {"core", "workers", "jobs", "submitted.yaml"}
    assert not list(folder.rglob("__pycache__"))
    assert size < 3_000_000


@pytest.mark.parametrize(
    ("words", "command_line"),
    [
        (("submit-train", "CONFIG=x.yaml", "SET=seed=2 name=y"), "train x.yaml --set seed=2 --set name=y"),
        (("submit-demo", "ADDRESS=http://h:1"), "demo --address http://h:1"),
        (("submit-inspect", "ARGS=s3://bucket/run"), "inspect s3://bucket/run"),
    ],
)
def test_make_submit_runs_any_verb(words: tuple[str, ...], command_line: str) -> None:
    command = ["make", "--dry-run", "--old-file=setup", "BIN=bin", *words]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert " ".join(done.stdout.split()) == f"bin/python -m jobs submit {command_line}"


def test_rayignore_excludes_all_folders_but_the_packages() -> None:
    ignored = {line.strip("/") for line in (REPOSITORY / ".rayignore").read_text().splitlines()}
    sent = {path.name for path in REPOSITORY.iterdir() if path.is_dir()} - ignored
    assert {"tests", "k8s", "runs", "data", ".git", ".venv"} <= ignored
    assert set(submit.PACKAGES) <= sent


LOG = 'train: 1 of 2\ttrain\x1b[1m\x1b[2J\nexit=0\n{"verb": "train",\n "text": "exit=1"}\nsome daemon says bye\n'


@pytest.mark.parametrize("cut", range(0, len(LOG), 5))
def test_the_log_is_parsed_alike_however_it_is_split(cut: int) -> None:
    lines: list[str] = []
    log = following.JobLog(lines.append)
    log.feed(LOG[:cut])
    log.feed(LOG[cut:])
    assert log.document() == {"verb": "train", "text": "exit=1"}
    assert log.exit_code == 0
    assert lines == ["train: 1 of 2   train\\x1b[2J"]


class Server(submission.Server):
    """A fake job server with a fixed log and final state; `when_stopped` is logged after a stop request."""

    def __init__(self, state: submission.State, pieces: list[str], when_stopped: str = "") -> None:
        self.address = "http://127.0.0.1:8265"
        self.final = state
        self.pieces = pieces
        self.when_stopped = when_stopped
        self.stopped: list[str] = []

    def log(self, name: str) -> Iterator[str]:
        yield from self.pieces
        if self.stopped:
            yield self.when_stopped

    def state(self, name: str) -> submission.State:
        return self.final

    def stop(self, name: str) -> None:
        self.stopped.append(name)


def follow(server: Server, number: int | None = None, answer: str = "follow") -> tuple[dict[str, Any], list[str]]:
    lines: list[str] = []
    flag = signals.StopFlag()
    flag.signal = number
    return submit.Follower(server, "job", flag, lines.append, lambda: answer).follow(), lines


@pytest.mark.parametrize(
    ("state", "log", "code"),
    [
        (submission.State("FAILED", 7, ""), "diverged\nexit=7\n", 7),
        (submission.State("FAILED", 1, ""), "Traceback\n", 1),
        (submission.State("FAILED", -9, ""), "train: 1 of 2\n", 137),
        (submission.State("STOPPED", None, ""), "saved\nexit=143\n", 143),
        (submission.State("STOPPED", None, ""), "", 143),
    ],
)
def test_submit_ends_with_the_exit_code_of_the_job(state: submission.State, log: str, code: int) -> None:
    with pytest.raises(typer.Exit) as stop:
        follow(Server(state, [log]))
    assert stop.value.exit_code == code


def test_a_job_that_could_not_run_is_a_cluster_error() -> None:
    with pytest.raises(errors.ClusterError, match="could not run the job: no such package"):
        follow(Server(submission.State("FAILED", None, "no such package\nmore"), []))


@pytest.mark.parametrize(("number", "answer"), [(signal.SIGINT, "stop"), (signal.SIGTERM, "detach")])
def test_a_signal_stops_the_job_once(number: int, answer: str) -> None:
    server = Server(submission.State("STOPPED", None, ""), ["a\n", "b\n"], "saved\nexit=143\n")
    with pytest.raises(typer.Exit) as stop:
        follow(server, number, answer)
    assert stop.value.exit_code == 143
    assert server.stopped == ["job"]


def test_a_detached_job_is_not_stopped() -> None:
    server = Server(submission.State("SUCCEEDED", 0, ""), ["a\nexit=0\n{}\n"])
    with pytest.raises(errors.InterruptedRunError, match="the job continues"):
        follow(server, signal.SIGINT, "detach")
    assert follow(server, signal.SIGINT, "follow") == ({}, ["a"])
    assert server.stopped == []


class Terminal(io.StringIO):
    """A terminal, with typed text."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("typed", "answer"), [("s\n", "stop"), ("Detach\n", "detach"), ("f\n", "follow"), ("\n", "follow"), ("", "follow")]
)
def test_an_interrupt_asks_on_a_terminal_and_stops_elsewhere(
    typed: str, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("stdin", "stderr"):
        monkeypatch.setattr(sys, name, Terminal(typed))
    assert following.ask_at_terminal() == answer
    stderr = sys.stderr
    assert isinstance(stderr, io.StringIO)
    assert "Stop the job (it saves a checkpoint), detach (it continues) or follow?" in stderr.getvalue()
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    assert following.ask_at_terminal() == "stop"
