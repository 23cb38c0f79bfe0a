"""What is handed to a cluster, what is refused before, and how a job's log becomes the end of `submit`."""

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
from jobs import submit
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


def plan(verb: str, *arguments: str, is_local: bool = True) -> submit.Order:
    return submit.plan(VERBS.commands[verb], arguments, is_local)


@pytest.fixture
def here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A current folder with settings, outside of any cluster, in a home without a token."""
    for name in ("RAYCURRENT_HOME", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(CONFIG.format(root="runs/x", text="book.txt"))
    (tmp_path / "shared.yaml").write_text(CONFIG.format(root="s3://bucket/x", text="/mnt/book.txt"))
    return tmp_path


def test_settings_travel_resolved_and_overrides_with_them(here: pathlib.Path) -> None:
    order = plan("train", "x.yaml", "--set", "training.epochs=7", "--fresh")
    assert order.command == ("train", "--fresh", "--", "submitted.yaml")
    config = loading.parse(order.files["submitted.yaml"], "submitted.yaml")
    assert (config.training.epochs, config.root) == (7, f"{here}/runs/x")
    assert config.tasks[""].train.text == (f"{here}/book.txt",)


def test_locations_of_other_verbs_become_absolute_and_all_else_stays(here: pathlib.Path) -> None:
    order = plan(
        "score", "--run", "runs/x", "--input=a b.txt", "--output", "out/", "--set", "scoring.unit=stream", "--overwrite"
    )
    located = {f"--run={here}/runs/x", f"--input={here}/a b.txt", f"--output={here}/out/"}
    assert order.command[0] == "score"
    assert set(order.command[1:]) == {*located, "--overwrite", "--set=scoring.unit=stream"}
    assert order.files == {}
    references = plan("evaluate", "--hypotheses", "s3://b/h.txt", "--references", "a", "--references", "b").command
    assert references[2:] == (f"--references={here}/a", f"--references={here}/b")
    assert plan("generate", "--run", "runs/x", "--prefix", "--the").command[2] == "--prefix=--the"
    assert plan("demo").command == ("demo", f"--set=root={here}/runs/demo")


def test_what_was_planned_means_the_same_to_the_verb(here: pathlib.Path) -> None:
    order = plan("translate", "--run", "runs/x", "--input", "in.txt", "--output", "out.txt", "--column", "en")
    assert submit.plan(VERBS.commands["translate"], order.command[1:], is_local=True) == order


@pytest.mark.parametrize(
    ("verb", "arguments", "complaint"),
    [
        ("train", ("x.yaml",), r"root: 'runs/x' is relative to this machine"),
        ("translate", ("--run", "/r", "--input", "~/in", "--output", "/o"), r"--input: '~/in' is relative"),
        ("inspect", ("runs/x",), r"PATH: 'runs/x' is relative"),
        ("demo", (), r"root: 'runs/demo' is relative"),
    ],
)
def test_a_cluster_elsewhere_is_not_told_paths_of_this_machine(
    here: pathlib.Path, verb: str, arguments: tuple[str, ...], complaint: str
) -> None:
    with pytest.raises(errors.UsageError, match=complaint):
        plan(verb, *arguments, is_local=False)
    assert plan("train", "shared.yaml", is_local=False).command[-1] == "submitted.yaml"


@pytest.mark.parametrize(
    ("verb", "arguments", "complaint"),
    [
        ("translate", ("--run", "/r", "--input", "-", "--output", "-"), "--input: a job has no standard input"),
        ("train", ("x.yaml", "--print-config"), "leave `submit` out"),
        ("train", ("x.yaml", "--set", "training.epoch=1"), "training.epoch"),
        ("inspect", ("s3://key:secret@bucket/x",), "holds credentials"),
    ],
)
def test_what_cannot_be_a_job_is_refused_before_one_starts(
    here: pathlib.Path, verb: str, arguments: tuple[str, ...], complaint: str
) -> None:
    with pytest.raises(errors.UsageError, match=complaint):
        plan(verb, *arguments)


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "http://localhost:1/", "http://[::1]:8265"])
def test_this_machine_may_be_without_a_token(here: pathlib.Path, address: str) -> None:
    assert submit.is_loopback(submit.address_of(address))


@pytest.mark.parametrize("address", ["http://10.0.0.1:8265", "https://127.0.0.1.example.org", "http://[2001:db8::1]:1"])
def test_another_machine_may_not(here: pathlib.Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.UsageError, match="there is no token"):
        submit.address_of(address)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/secrets/token")
    assert submit.address_of(address) == address
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(errors.UsageError, match="there is no token"):
        submit.address_of(address)


def test_an_address_that_is_no_job_server_is_refused(here: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert submit.address_of(None) == submit.DEFAULT_ADDRESS
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(errors.UsageError, match=r"'10\.0\.0\.1:6379' is no job server"):
        submit.address_of(None)


def test_a_package_is_the_code_and_the_settings_alone(here: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "package"
    folder.mkdir()
    size = submit.pack(plan("train", "x.yaml"), folder)
    assert {path.name for path in folder.iterdir()} == {"core", "workers", "jobs", "submitted.yaml"}
    assert not list(folder.rglob("__pycache__"))
    assert size < 3_000_000


@pytest.mark.parametrize(
    ("words", "order"),
    [
        (("submit-train", "CONFIG=x.yaml", "SET=seed=2 name=y"), "train x.yaml --set seed=2 --set name=y"),
        (("submit-demo", "ADDRESS=http://h:1"), "demo --address http://h:1"),
        (("submit-inspect", "ARGS=s3://bucket/run"), "inspect s3://bucket/run"),
    ],
)
def test_make_submits_any_verb(words: tuple[str, ...], order: str) -> None:
    command = ["make", "--dry-run", "--old-file=setup", "BIN=bin", *words]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert " ".join(done.stdout.split()) == f"bin/python -m jobs submit {order}"


def test_of_the_repository_rays_own_command_sends_little_else() -> None:
    ignored = {line.strip("/") for line in (REPOSITORY / ".rayignore").read_text().splitlines()}
    sent = {path.name for path in REPOSITORY.iterdir() if path.is_dir()} - ignored
    assert {"tests", "k8s", "runs", "data", ".git", ".venv"} <= ignored
    assert set(submit.PACKAGES) <= sent


LOG = 'train: 1 of 2\ttrain\x1b[1m\x1b[2J\nexit=0\n{"verb": "train",\n "text": "exit=1"}\nsome daemon says bye\n'


@pytest.mark.parametrize("cut", range(0, len(LOG), 5))
def test_lines_exit_code_and_document_do_not_depend_on_how_the_log_is_cut(cut: int) -> None:
    lines: list[str] = []
    log = submit.JobLog(lines.append)
    log.feed(LOG[:cut])
    log.feed(LOG[cut:])
    assert log.document() == {"verb": "train", "text": "exit=1"}
    assert log.exit_code == 0
    assert lines == ["train: 1 of 2   train\\x1b[2J"]


class Server(submission.Server):
    """A job server that plays a script: pieces of a log, during which a signal may come, and a state at the end."""

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
def test_the_code_is_that_of_the_jobs_own_command(state: submission.State, log: str, code: int) -> None:
    with pytest.raises(typer.Exit) as left:
        follow(Server(state, [log]))
    assert left.value.exit_code == code


def test_a_job_that_could_not_be_run_is_the_clusters_failure() -> None:
    with pytest.raises(errors.ClusterError, match="could not run the job: no such package"):
        follow(Server(submission.State("FAILED", None, "no such package\nmore"), []))


@pytest.mark.parametrize(("number", "answer"), [(signal.SIGINT, "stop"), (signal.SIGTERM, "detach")])
def test_a_job_is_stopped_once_and_ends_with_what_it_saved(number: int, answer: str) -> None:
    server = Server(submission.State("STOPPED", None, ""), ["a\n", "b\n"], "saved\nexit=143\n")
    with pytest.raises(typer.Exit) as left:
        follow(server, number, answer)
    assert left.value.exit_code == 143
    assert server.stopped == ["job"]


def test_a_job_is_left_alone_if_the_answer_says_so() -> None:
    server = Server(submission.State("SUCCEEDED", 0, ""), ["a\nexit=0\n{}\n"])
    with pytest.raises(errors.InterruptedRunError, match="the job goes on"):
        follow(server, signal.SIGINT, "detach")
    assert follow(server, signal.SIGINT, "follow") == ({}, ["a"])
    assert server.stopped == []


class Terminal(io.StringIO):
    """Text that somebody types, or reads, at a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("typed", "answer"), [("s\n", "stop"), ("Detach\n", "detach"), ("f\n", "follow"), ("\n", "follow"), ("", "follow")]
)
def test_at_a_terminal_an_interrupt_asks_and_elsewhere_it_stops(
    typed: str, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("stdin", "stderr"):
        monkeypatch.setattr(sys, name, Terminal(typed))
    assert submit.ask_at_terminal() == answer
    asked = sys.stderr
    assert isinstance(asked, io.StringIO)
    assert "Stop the job (it saves first), detach (it goes on), or follow?" in asked.getvalue()
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    assert submit.ask_at_terminal() == "stop"
